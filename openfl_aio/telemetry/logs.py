"""Logging for our own processes. The library itself adds no handler and sets no level.

One event is one line: control characters in names and messages are escaped, so that no peer can forge a line.
"""

from __future__ import annotations

import logging
import sys
from typing import TextIO

__all__ = ["LineFormatter", "configure_logging"]

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
_ESCAPES |= {0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", 0x2028: "\\u2028", 0x2029: "\\u2029"}


class LineFormatter(logging.Formatter):
    """Formats a record as one line; only a traceback of ours, which ends the record, may span several."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        """Format the message with control characters escaped."""
        return super().formatMessage(record).translate(_ESCAPES)


def configure_logging(level: str = "INFO", *, stream: TextIO | None = None) -> logging.Handler:
    """Send our package's log lines of at least ``level`` to ``stream`` (default: standard error).

    For ``__main__`` modules and the command line. Calling it again replaces the handler. Returns the handler.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(LineFormatter(FORMAT))
    logger = logging.getLogger("openfl_aio")
    for old in [old for old in logger.handlers if isinstance(old.formatter, LineFormatter)]:
        logger.removeHandler(old)
    logger.addHandler(handler)
    logger.setLevel(level)
    return handler
