"""The exit codes of every command, documented in the README.

====  ===========================================================================
code  meaning
====  ===========================================================================
0     done
1     a bug: an error nobody foresaw; ``--debug`` shows its traceback
2     the command line, a configuration file, a plan or a certificate cannot work
3     the peer could not be reached, or the connection broke for good
4     the peer refused: who you are, or what you may do
5     the experiment or a task failed
6     a file or the disk: full, corrupt, not writable
7     what was named does not exist, or exists already
8     the peer violated the protocol
130   interrupted
====  ===========================================================================
"""

from __future__ import annotations

import logging
import sys
from enum import IntEnum

from openfl_aio import errors

__all__ = ["ExitCode", "exit_code_of", "report"]

logger = logging.getLogger(__name__)


class ExitCode(IntEnum):
    """What a command tells the shell."""

    OK = 0
    BUG = 1
    CONFIGURATION = 2
    UNREACHABLE = 3
    REFUSED = 4
    FAILED = 5
    STORAGE = 6
    NAME = 7
    PROTOCOL = 8
    INTERRUPTED = 130


# the first class that fits decides, so subclasses stand before their base
TABLE: tuple[tuple[type[BaseException], ExitCode], ...] = (
    (errors.ConfigurationError, ExitCode.CONFIGURATION),
    (errors.TransportError, ExitCode.UNREACHABLE),
    (errors.AuthenticationError, ExitCode.REFUSED),
    (errors.AuthorizationError, ExitCode.REFUSED),
    (errors.ExperimentFailedError, ExitCode.FAILED),
    (errors.TaskError, ExitCode.FAILED),
    (errors.TensorError, ExitCode.FAILED),
    (errors.InvalidStateError, ExitCode.FAILED),
    (errors.StorageError, ExitCode.STORAGE),
    (errors.ArchiveError, ExitCode.STORAGE),
    (errors.NotFoundError, ExitCode.NAME),
    (errors.AlreadyExistsError, ExitCode.NAME),
    (errors.ProtocolError, ExitCode.PROTOCOL),
    (KeyboardInterrupt, ExitCode.INTERRUPTED),
)


def exit_code_of(error: BaseException) -> ExitCode:
    """Return the documented exit code for ``error``."""
    return next((code for kind, code in TABLE if isinstance(error, kind)), ExitCode.BUG)


def report(error: Exception, *, debug: bool = False) -> ExitCode:
    """Print ``error`` as one sentence on standard error and return its exit code; ``debug`` shows the traceback too.

    Of a group of errors the first one counts: the others are what happened to its neighbours when it was raised.
    """
    first: BaseException = error
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    if debug:
        logger.error("ended by an error", exc_info=error)
    if isinstance(first, errors.OpenFLAioError):
        sentence = str(first)
    else:
        sentence = f"unforeseen {type(first).__name__}: {first}; run again with --debug and report the traceback"
    sys.stderr.write(f"error: {sentence}\n")
    return exit_code_of(first)
