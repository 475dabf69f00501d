"""The one table between errors and gRPC statuses: servers answer by it, clients raise again by it.

=============================================  ====================  ==========================================
raised by a service                            status                text that the peer sees
=============================================  ====================  ==========================================
`EmptyStreamError`                             UNKNOWN               the message
`MessageTooLargeError`                         RESOURCE_EXHAUSTED    the message
`UnsupportedCallError`                         UNIMPLEMENTED         the message
other `RemoteProtocolError`, `TensorError`     INVALID_ARGUMENT      the message
`ConfigurationError`, `ArchiveError`           INVALID_ARGUMENT      the message
`NotReadyError`                                UNAVAILABLE           the message
other `InvalidStateError`                      FAILED_PRECONDITION   the message
`ExperimentFailedError`                        FAILED_PRECONDITION   the message
`NotFoundError`                                NOT_FOUND             the message
`AlreadyExistsError`                           ALREADY_EXISTS        the message
`AuthenticationError`                          UNAUTHENTICATED       a fixed sentence
`AuthorizationError`                           PERMISSION_DENIED     a fixed sentence
`StorageFullError`                             RESOURCE_EXHAUSTED    a fixed sentence, by which it is known
`DeadlineExceededError`                        DEADLINE_EXCEEDED     the message
other `TransportError`                         UNAVAILABLE           the message
anything else                                  INTERNAL              "internal error" and a correlation id
=============================================  ====================  ==========================================

An empty upload is UNKNOWN because OpenFL 1.6 clients rebuild the upload after that status, and only then.
Raised again by a client: the class on the left (the most general of its row), except that INVALID_ARGUMENT becomes
`LocalProtocolError` (the peer refused what we sent) and UNAVAILABLE becomes `ConnectionLostError`. A full disk and a
message that is too large have one status, but the one passes and the other does not: the sentence tells them apart.
"""

from __future__ import annotations

from typing import Final

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from openfl_aio import errors

__all__ = ["FIXED_SENTENCES", "error_from_status", "is_internal", "status_of"]

# the first class that fits decides, so special classes come before general ones
STATUSES: Final[tuple[tuple[type[errors.OpenFLAioError], Status], ...]] = (
    (errors.EmptyStreamError, Status.UNKNOWN),
    (errors.MessageTooLargeError, Status.RESOURCE_EXHAUSTED),
    (errors.UnsupportedCallError, Status.UNIMPLEMENTED),
    (errors.RemoteProtocolError, Status.INVALID_ARGUMENT),
    (errors.TensorError, Status.INVALID_ARGUMENT),
    (errors.ConfigurationError, Status.INVALID_ARGUMENT),
    (errors.ArchiveError, Status.INVALID_ARGUMENT),
    (errors.NotReadyError, Status.UNAVAILABLE),
    (errors.InvalidStateError, Status.FAILED_PRECONDITION),
    (errors.ExperimentFailedError, Status.FAILED_PRECONDITION),
    (errors.NotFoundError, Status.NOT_FOUND),
    (errors.AlreadyExistsError, Status.ALREADY_EXISTS),
    (errors.AuthenticationError, Status.UNAUTHENTICATED),
    (errors.AuthorizationError, Status.PERMISSION_DENIED),
    (errors.StorageFullError, Status.RESOURCE_EXHAUSTED),
    (errors.DeadlineExceededError, Status.DEADLINE_EXCEEDED),
    (errors.TransportError, Status.UNAVAILABLE),
)

LONGEST: Final = 900
"""Characters of a message to a peer."""

FIXED_SENTENCES: Final[dict[type[errors.OpenFLAioError], str]] = {
    errors.AuthenticationError: "the caller did not prove who it is: the certificate must name the participant that calls",
    errors.AuthorizationError: "this caller may not do that: it is not on the list, or the name in the message is not its own",
    errors.StorageFullError: "the server has no room left to keep that; nothing was changed, try again later",
}

ERRORS: Final[dict[Status, type[errors.OpenFLAioError]]] = {
    Status.INVALID_ARGUMENT: errors.LocalProtocolError,
    Status.RESOURCE_EXHAUSTED: errors.MessageTooLargeError,
    Status.UNIMPLEMENTED: errors.UnsupportedCallError,
    Status.FAILED_PRECONDITION: errors.InvalidStateError,
    Status.NOT_FOUND: errors.NotFoundError,
    Status.ALREADY_EXISTS: errors.AlreadyExistsError,
    Status.UNAUTHENTICATED: errors.AuthenticationError,
    Status.PERMISSION_DENIED: errors.AuthorizationError,
    Status.DEADLINE_EXCEEDED: errors.DeadlineExceededError,
    Status.UNAVAILABLE: errors.ConnectionLostError,
    Status.CANCELLED: errors.ConnectionLostError,
}


def status_of(error: errors.OpenFLAioError) -> tuple[Status, str]:
    """Return the status and the text that a peer gets for ``error``; INTERNAL comes with an empty text."""
    for kind, status in STATUSES:
        if isinstance(error, kind):
            for fixed, sentence in FIXED_SENTENCES.items():
                if isinstance(error, fixed):
                    return status, sentence
            return status, _shortened(str(error))
    return Status.INTERNAL, ""


def _shortened(text: str) -> str:
    """Return ``text`` without its middle if it is long: a message may quote what a peer sent, and travels in a header."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-(LONGEST // 2 - 3) :]}"


def is_internal(error: BaseException) -> bool:
    """Return whether a peer learns nothing of ``error`` but a correlation id."""
    return not isinstance(error, errors.OpenFLAioError) or status_of(error)[0] is Status.INTERNAL


def error_from_status(error: GRPCError) -> errors.OpenFLAioError:
    """Return the exception that a client raises for the peer's answer ``error``.

    Statuses that no row of the table gives become `RemoteProtocolError`, with the status named.
    """
    kind = ERRORS.get(error.status)
    if error.status is Status.RESOURCE_EXHAUSTED and error.message == FIXED_SENTENCES[errors.StorageFullError]:
        kind = errors.StorageFullError  # that one passes
    if kind is None:
        return errors.RemoteProtocolError(
            f"the peer answered {error.status.name}: {error.message or 'no reason given'}"
        )
    return kind(error.message or f"the peer answered {error.status.name} and gave no reason")
