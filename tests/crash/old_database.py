"""What a director of the first schema version kept: the one that is killed begins with it."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from openfl_aio.storage.director_storage import DATABASE_NAME
from openfl_aio.storage.migrations import MIGRATIONS

__all__ = ["BEFORE", "USER", "old_database"]

USER: Final = "user"
BEFORE: Final = "before"
"""The name of an experiment of the user's, which has failed."""


def old_database(workspace: Path) -> None:
    """Make a database of the first version with the experiment in it, and its archive."""
    workspace.mkdir(parents=True, mode=0o700)
    archives = workspace / "archives"
    archives.mkdir(mode=0o700)
    (archives / f"{'a' * 32}.zip").write_bytes(b"as it was")
    with closing(sqlite3.connect(workspace / DATABASE_NAME, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE schema_version (version BIGINT NOT NULL)")
        connection.execute("INSERT INTO schema_version VALUES (1)")
        for statement in MIGRATIONS[0].statements:
            connection.execute(statement)
        row = (BEFORE, 0, USER, json.dumps(["nobody"]), "failed", "a" * 32, "", 1.5, "it failed")
        connection.execute(f"INSERT INTO experiments VALUES ({', '.join('?' * len(row))})", row)
