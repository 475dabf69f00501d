"""Version 3: experiments go on after a restart; how far a federation is stands in its own files."""

from __future__ import annotations

from typing import Final

__all__ = ["STATEMENTS"]

STATEMENTS: Final = (
    "ALTER TABLE experiments ADD COLUMN assigned TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE experiments ADD COLUMN told BIGINT NOT NULL DEFAULT 0",
    "DROP TABLE rounds",
)
