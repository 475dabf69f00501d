"""The exceptions of openfl_aio, in one tree.

A class exists only where some caller would handle it differently::

    OpenFLAioError
    ├── ConfigurationError           also a ValueError: a configuration, plan or command line that cannot work
    ├── ProtocolError                an exchange was violated
    │   ├── LocalProtocolError           by our caller: a bug on this side
    │   └── RemoteProtocolError          by the peer
    │       ├── HeaderMismatchError          wrong receiver, federation or certificate name
    │       ├── MalformedMessageError        bytes that are no valid message
    │       ├── MalformedStreamError         declared size is not the payload, truncated stream
    │       │   └── EmptyStreamError             an upload without a single byte
    │       ├── MessageTooLargeError         a configured limit was passed
    │       └── UnsupportedCallError         the peer does not have the call
    ├── InvalidStateError            the machine cannot do that now
    │   └── NotReadyError                it will soon: come again
    ├── NotFoundError
    │   ├── ExperimentNotFoundError      absent or not yours: deliberately indistinguishable
    │   ├── ShardNotFoundError
    │   └── TensorNotFoundError
    ├── AlreadyExistsError
    ├── AuthenticationError          we do not know who you are
    ├── AuthorizationError           we do, and no
    ├── TensorError
    │   ├── ShapeMismatchError
    │   └── CodecError                   unknown pipeline, bad metadata
    ├── ArchiveError                 an experiment archive that must not be unpacked
    ├── StorageError                 a file or database that cannot be used
    │   ├── CorruptFileError             checksum or count does not fit: never loaded
    │   └── StorageFullError             no space or no file descriptor left; state is unchanged
    ├── TaskError                    a task runner raised, or returned what cannot be sent
    ├── ExperimentFailedError        the experiment ended without a model
    └── TransportError               client side, after retries
        ├── ConnectError
        ├── ConnectionLostError
        └── DeadlineExceededError        also a TimeoutError

Messages say what was expected, what came, and what to do about it.
"""

from __future__ import annotations

__all__ = [
    "AlreadyExistsError",
    "ArchiveError",
    "AuthenticationError",
    "AuthorizationError",
    "CodecError",
    "ConfigurationError",
    "ConnectError",
    "ConnectionLostError",
    "CorruptFileError",
    "DeadlineExceededError",
    "EmptyStreamError",
    "ExperimentFailedError",
    "ExperimentNotFoundError",
    "HeaderMismatchError",
    "InvalidStateError",
    "LocalProtocolError",
    "MalformedMessageError",
    "MalformedStreamError",
    "MessageTooLargeError",
    "NotFoundError",
    "NotReadyError",
    "OpenFLAioError",
    "ProtocolError",
    "RemoteProtocolError",
    "ShapeMismatchError",
    "ShardNotFoundError",
    "StorageError",
    "StorageFullError",
    "TaskError",
    "TensorError",
    "TensorNotFoundError",
    "TransportError",
    "UnsupportedCallError",
]


class OpenFLAioError(Exception):
    """Base of every exception this package raises on purpose."""


class ConfigurationError(OpenFLAioError, ValueError):
    """A configuration object, plan, file or command line that cannot work."""


class ProtocolError(OpenFLAioError):
    """An exchange between peers was violated."""


class LocalProtocolError(ProtocolError):
    """Our own caller violated the exchange: a bug on this side."""


class RemoteProtocolError(ProtocolError):
    """The peer violated the exchange."""


class HeaderMismatchError(RemoteProtocolError):
    """A message header names another receiver, federation or certificate."""


class MalformedMessageError(RemoteProtocolError):
    """Bytes that are no valid message of the expected type."""


class MalformedStreamError(RemoteProtocolError):
    """A chunk whose declared size is not its payload, or a stream that ends early."""


class EmptyStreamError(MalformedStreamError):
    """An upload stream that ended without a single byte."""


class MessageTooLargeError(RemoteProtocolError):
    """A configured limit on bytes or objects was passed."""


class UnsupportedCallError(RemoteProtocolError):
    """The peer does not have the call."""


class InvalidStateError(OpenFLAioError):
    """The machine cannot do that in its present state; nothing was changed."""


class NotReadyError(InvalidStateError):
    """What is asked for is being loaded; the same call will be answered soon."""


class NotFoundError(OpenFLAioError):
    """What the caller named is not here."""


class ExperimentNotFoundError(NotFoundError):
    """The experiment is absent or belongs to somebody else: which of the two is not told."""


class ShardNotFoundError(NotFoundError):
    """No envoy of that name is registered."""


class TensorNotFoundError(NotFoundError):
    """No tensor is stored under that key."""


class AlreadyExistsError(OpenFLAioError):
    """The name is taken."""


class AuthenticationError(OpenFLAioError):
    """The caller did not prove who it is."""


class AuthorizationError(OpenFLAioError):
    """The caller is known and may not do that."""


class TensorError(OpenFLAioError):
    """A tensor that cannot be used."""


class ShapeMismatchError(TensorError):
    """Two tensors that belong together have different shapes."""


class CodecError(TensorError):
    """Tensor bytes and their metadata do not fit, or the pipeline is unknown."""


class ArchiveError(OpenFLAioError):
    """An experiment archive that must not be unpacked."""


class StorageError(OpenFLAioError):
    """A file or database cannot be used."""


class CorruptFileError(StorageError):
    """A file whose checksum or count does not fit; it was not loaded."""


class StorageFullError(StorageError):
    """No space is left on the device, or no file descriptor; state is as before, and trying again later may help."""


class TaskError(OpenFLAioError):
    """A task runner raised, or returned something that cannot be sent."""


class ExperimentFailedError(OpenFLAioError):
    """The experiment ended without a model."""


class TransportError(OpenFLAioError):
    """A call did not succeed, after all retries."""


class ConnectError(TransportError):
    """No connection could be made."""


class ConnectionLostError(TransportError):
    """The connection broke during a call."""


class DeadlineExceededError(TransportError, TimeoutError):
    """The call's deadline passed."""
