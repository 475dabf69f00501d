"""Version 1: experiments, shards, metrics, rounds and the journal of uploads."""

from __future__ import annotations

from typing import Final

__all__ = ["STATEMENTS"]

STATEMENTS: Final = (
    """
    CREATE TABLE experiments (
        name TEXT NOT NULL PRIMARY KEY,
        position BIGINT NOT NULL,
        owner TEXT NOT NULL,
        collaborators TEXT NOT NULL,
        status TEXT NOT NULL,
        archive_id TEXT NOT NULL,
        federation_uuid TEXT NOT NULL,
        created DOUBLE PRECISION NOT NULL,
        error TEXT NOT NULL
    )
    """,
    """
    CREATE TABLE shards (
        name TEXT NOT NULL PRIMARY KEY,
        body TEXT NOT NULL
    )
    """,
    """
    CREATE TABLE metrics (
        experiment TEXT NOT NULL,
        position BIGINT NOT NULL,
        origin TEXT NOT NULL,
        task_name TEXT NOT NULL,
        name TEXT NOT NULL,
        value DOUBLE PRECISION,
        round_number BIGINT NOT NULL,
        PRIMARY KEY (experiment, position)
    )
    """,
    """
    CREATE TABLE rounds (
        federation_uuid TEXT NOT NULL PRIMARY KEY,
        round_number BIGINT NOT NULL,
        best_value DOUBLE PRECISION
    )
    """,
    """
    CREATE TABLE uploads (
        federation_uuid TEXT NOT NULL,
        round_number BIGINT NOT NULL,
        task_name TEXT NOT NULL,
        collaborator TEXT NOT NULL,
        data_size BIGINT NOT NULL,
        total_bytes BIGINT NOT NULL,
        file TEXT NOT NULL,
        tensors TEXT NOT NULL,
        PRIMARY KEY (federation_uuid, round_number, task_name, collaborator)
    )
    """,
)
