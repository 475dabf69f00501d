"""Errors to statuses and back."""

from __future__ import annotations

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from openfl_aio import errors
from openfl_aio.transport.status import FIXED_SENTENCES, LONGEST, error_from_status, is_internal, status_of

TABLE: list[tuple[type[errors.OpenFLAioError], Status, type[errors.OpenFLAioError]]] = [
    (errors.EmptyStreamError, Status.UNKNOWN, errors.RemoteProtocolError),
    (errors.MalformedStreamError, Status.INVALID_ARGUMENT, errors.LocalProtocolError),
    (errors.MalformedMessageError, Status.INVALID_ARGUMENT, errors.LocalProtocolError),
    (errors.HeaderMismatchError, Status.INVALID_ARGUMENT, errors.LocalProtocolError),
    (errors.MessageTooLargeError, Status.RESOURCE_EXHAUSTED, errors.MessageTooLargeError),
    (errors.ShapeMismatchError, Status.INVALID_ARGUMENT, errors.LocalProtocolError),
    (errors.CodecError, Status.INVALID_ARGUMENT, errors.LocalProtocolError),
    (errors.ConfigurationError, Status.INVALID_ARGUMENT, errors.LocalProtocolError),
    (errors.ArchiveError, Status.INVALID_ARGUMENT, errors.LocalProtocolError),
    (errors.InvalidStateError, Status.FAILED_PRECONDITION, errors.InvalidStateError),
    (errors.ExperimentFailedError, Status.FAILED_PRECONDITION, errors.InvalidStateError),
    (errors.NotFoundError, Status.NOT_FOUND, errors.NotFoundError),
    (errors.ExperimentNotFoundError, Status.NOT_FOUND, errors.NotFoundError),
    (errors.ShardNotFoundError, Status.NOT_FOUND, errors.NotFoundError),
    (errors.TensorNotFoundError, Status.NOT_FOUND, errors.NotFoundError),
    (errors.AlreadyExistsError, Status.ALREADY_EXISTS, errors.AlreadyExistsError),
    (errors.DeadlineExceededError, Status.DEADLINE_EXCEEDED, errors.DeadlineExceededError),
    (errors.ConnectError, Status.UNAVAILABLE, errors.ConnectionLostError),
    (errors.ConnectionLostError, Status.UNAVAILABLE, errors.ConnectionLostError),
]


@pytest.mark.parametrize(("kind", "status", "again"), TABLE, ids=lambda value: getattr(value, "__name__", str(value)))
def test_message_reaches_the_other_side(
    kind: type[errors.OpenFLAioError], status: Status, again: type[errors.OpenFLAioError]
) -> None:
    assert status_of(kind("what happened")) == (status, "what happened")
    raised = error_from_status(GRPCError(status, "what happened"))
    assert type(raised) is again
    assert "what happened" in str(raised)


@pytest.mark.parametrize(
    ("kind", "status", "again"),
    [
        (errors.AuthenticationError, Status.UNAUTHENTICATED, errors.AuthenticationError),
        (errors.AuthorizationError, Status.PERMISSION_DENIED, errors.AuthorizationError),
    ],
)
def test_details_stay_here(
    kind: type[errors.OpenFLAioError], status: Status, again: type[errors.OpenFLAioError]
) -> None:
    assert status_of(kind("/secret/path")) == (status, FIXED_SENTENCES[kind])
    assert type(error_from_status(GRPCError(status))) is again


@pytest.mark.parametrize(
    "kind",
    [
        errors.OpenFLAioError,
        errors.LocalProtocolError,
        errors.StorageError,
        errors.CorruptFileError,
        errors.TaskError,
    ],
)
def test_the_rest_is_internal(kind: type[errors.OpenFLAioError]) -> None:
    assert status_of(kind("secret")) == (Status.INTERNAL, "")
    assert is_internal(kind("secret"))
    assert is_internal(KeyError("secret"))
    assert not is_internal(errors.NotFoundError("x"))


def test_every_error_class_has_a_status() -> None:
    for name in errors.__all__:
        assert status_of(getattr(errors, name)("text"))[0] is not Status.OK


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_every_status_becomes_one_of_our_errors(status: Status) -> None:
    raised = error_from_status(GRPCError(status))
    assert isinstance(raised, errors.OpenFLAioError)
    assert status.name in str(raised)


def test_a_full_disk_is_told_from_a_message_that_is_too_large() -> None:
    status, text = status_of(errors.StorageFullError("/secret/path"))
    assert (status, text) == (Status.RESOURCE_EXHAUSTED, FIXED_SENTENCES[errors.StorageFullError])
    assert type(error_from_status(GRPCError(status, text))) is errors.StorageFullError
    assert type(error_from_status(GRPCError(status, "message of 9 bytes"))) is errors.MessageTooLargeError
    assert type(error_from_status(GRPCError(status))) is errors.MessageTooLargeError


def test_a_long_message_loses_its_middle() -> None:
    status, text = status_of(errors.InvalidStateError("begin " + "x" * 10_000 + " end"))
    assert status is Status.FAILED_PRECONDITION
    assert len(text) == LONGEST
    assert text.startswith("begin x")
    assert text.endswith("x end")


def test_what_is_being_loaded_is_asked_for_again() -> None:
    status, text = status_of(errors.NotReadyError("come again"))
    assert status is Status.UNAVAILABLE
    assert type(error_from_status(GRPCError(status, text))) is errors.ConnectionLostError
