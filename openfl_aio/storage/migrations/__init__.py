"""The history of the database: one module a version, applied in order, never edited once released."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from openfl_aio.storage.migrations import v001, v002, v003

__all__ = ["MIGRATIONS", "Migration"]


@dataclass(frozen=True, slots=True)
class Migration:
    """The statements that lead from version ``version - 1`` to ``version``. Plain SQL that SQLite and PostgreSQL share."""

    version: int
    statements: tuple[str, ...]


MIGRATIONS: Final = (Migration(1, v001.STATEMENTS), Migration(2, v002.STATEMENTS), Migration(3, v003.STATEMENTS))
