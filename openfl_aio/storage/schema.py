"""The tables as the code sees them, at the newest version. `migrations` makes them; a test holds the two together."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Double, MetaData, Table, Text

__all__ = ["EXPERIMENTS", "METADATA", "METRICS", "SCHEMA_VERSION", "SHARDS"]

METADATA: Final = MetaData()

SCHEMA_VERSION: Final = Table("schema_version", METADATA, Column("version", BigInteger, nullable=False))

EXPERIMENTS: Final = Table(
    "experiments",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("position", BigInteger, nullable=False),  # order of submission
    Column("owner", Text, nullable=False),
    Column("collaborators", Text, nullable=False),  # JSON list
    Column("status", Text, nullable=False),
    Column("archive_id", Text, nullable=False),
    Column("federation_uuid", Text, nullable=False),
    Column("created", Double, nullable=False),
    Column("error", Text, nullable=False),
    Column("assigned", Text, nullable=False),  # JSON of what a user's own assigner said; empty if there is none
    Column("told", BigInteger, nullable=False),  # 1 if every collaborator knows that it has ended
)

SHARDS: Final = Table(
    "shards",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("body", Text, nullable=False),  # JSON of ShardInfo
)

METRICS: Final = Table(
    "metrics",
    METADATA,
    Column("experiment", Text, primary_key=True),
    Column("position", BigInteger, primary_key=True),
    Column("origin", Text, nullable=False),
    Column("task_name", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("value", Double),  # NULL is NaN: SQLite keeps no NaN
    Column("round_number", BigInteger, nullable=False),
)
