"""The journal on disk: one file an upload, one row in the database that says what it holds.

A row is written after its file is durable, so a row always has its file; a file without a row was never
acknowledged and is removed at the next start.
"""

from __future__ import annotations

import json
import mmap
import os
import secrets
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import anyio.to_thread
from sqlalchemy import Row, select
from sqlalchemy.exc import IntegrityError

from openfl_aio.errors import InvalidStateError
from openfl_aio.storage.database import Database
from openfl_aio.storage.files import Buffer, disk_errors, fsync_folder, partial_path, remove_quietly, sweep_partials
from openfl_aio.storage.journal import Entry, Spool, UploadRecord, already_there, check_record, corrupt
from openfl_aio.storage.schema import UPLOADS
from openfl_aio.tensors.encoded import TransformerMetadata
from openfl_aio.wire.incremental import TensorRecord

__all__ = ["FileJournal"]

SUFFIX: Final = ".spool"


class FileJournal:
    """A `Journal` in a folder and a `Database`, which is open as long as this is used."""

    def __init__(self, folder: Path, database: Database) -> None:
        self._folder = folder
        self._database = database

    def __repr__(self) -> str:
        return f"<FileJournal {str(self._folder)!r}>"

    async def open(self) -> None:
        """Make the folder, and remove every file that was never acknowledged."""
        async with self._database.begin() as connection:
            known = set(await connection.scalars(select(UPLOADS.c.file)))
        await anyio.to_thread.run_sync(self._sweep, known)

    def spool(self) -> Spool:
        """See `Journal`."""
        return _FileSpool(self._folder, self._database)

    async def entries(self, federation_uuid: str, round_number: int) -> list[Entry]:
        """See `Journal`."""
        query = (
            select(UPLOADS)
            .where(UPLOADS.c.federation_uuid == federation_uuid, UPLOADS.c.round_number == round_number)
            .order_by(UPLOADS.c.task_name, UPLOADS.c.collaborator)
        )
        async with self._database.begin() as connection:
            rows = (await connection.execute(query)).all()
        return await anyio.to_thread.run_sync(self._map_all, rows)

    async def drop(self, federation_uuid: str, before_round: int) -> None:
        """See `Journal`."""
        gone = (UPLOADS.c.federation_uuid == federation_uuid) & (UPLOADS.c.round_number < before_round)
        async with self._database.begin() as connection:
            files = list(await connection.scalars(select(UPLOADS.c.file).where(gone)))
            await connection.execute(UPLOADS.delete().where(gone))
        if files:
            await anyio.to_thread.run_sync(self._remove_all, files)

    def _sweep(self, known: set[str]) -> None:
        with disk_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            sweep_partials(self._folder)
            for path in self._folder.glob(f"*{SUFFIX}"):
                if path.name not in known:
                    remove_quietly(path)

    def _map_all(self, rows: Sequence[Row[Any]]) -> list[Entry]:
        entries: list[Entry] = []
        try:
            for row in rows:
                entries.append(_map(self._folder / row.file, _record(row)))  # noqa: PERF401  what was opened is closed below
        except BaseException:
            for entry in entries:
                entry.close()
            raise
        return entries

    def _remove_all(self, files: list[str]) -> None:
        for name in files:
            remove_quietly(self._folder / name)


class _FileSpool:
    def __init__(self, folder: Path, database: Database) -> None:
        self._path = folder / f"{secrets.token_hex(16)}{SUFFIX}"
        self._partial = partial_path(self._path)
        self._database = database
        self._written = 0
        self._ended = False
        self._descriptor: int | None = None
        # A cancelled caller does not stop its worker thread: whoever closes waits for a write under way.
        self._lock = threading.Lock()

    async def write(self, data: Buffer) -> None:
        self._check_open()
        await anyio.to_thread.run_sync(self._write, data)

    async def commit(self, record: UploadRecord) -> Entry:
        self._check_open()
        self._ended = True
        with anyio.CancelScope(shield=True):  # a few milliseconds; half-way it would be unclear what was kept
            try:
                check_record(record, self._written)
                await anyio.to_thread.run_sync(self._finish)
                async with self._database.begin() as connection:
                    await connection.execute(UPLOADS.insert().values(file=self._path.name, **_values(record)))
            except IntegrityError:
                await anyio.to_thread.run_sync(self._remove)
                raise already_there(record) from None
            except Exception:
                await anyio.to_thread.run_sync(self._remove)
                raise
        return await anyio.to_thread.run_sync(_map, self._path, record)

    async def abort(self) -> None:
        if not self._ended:
            self._ended = True
            with anyio.CancelScope(shield=True):  # closing and unlinking one file is short
                await anyio.to_thread.run_sync(self._remove)

    def _check_open(self) -> None:
        if self._ended:
            raise InvalidStateError("the upload has ended; start a new spool")

    def _write(self, data: Buffer) -> None:
        view = memoryview(data).cast("B") if len(data) else memoryview(b"")
        with self._lock, disk_errors(self._path):
            if self._ended:
                return
            descriptor = self._opened()
            while len(view):
                count = os.write(descriptor, view)
                self._written += count
                view = view[count:]

    def _opened(self) -> int:
        if self._descriptor is None:
            self._descriptor = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        return self._descriptor

    def _finish(self) -> None:
        with self._lock, disk_errors(self._path):
            os.fsync(self._opened())
            self._close()
            os.replace(self._partial, self._path)
            fsync_folder(self._path.parent)

    def _remove(self) -> None:
        with self._lock:
            self._close()
        remove_quietly(self._partial)
        remove_quietly(self._path)

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _map(path: Path, record: UploadRecord) -> Entry:
    """Map an upload's file into memory: pages are read when touched, and may be given back."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != record.total_bytes:
                raise corrupt(record, f"has {size} bytes, expected {record.total_bytes}")
            if size == 0:
                return Entry(record, memoryview(b""))
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise corrupt(record, "is missing") from None
    return Entry(record, memoryview(mapped), release=lambda: _unmap(mapped))


def _unmap(mapped: mmap.mmap) -> None:
    try:
        mapped.close()
    except BufferError:
        pass  # a tensor still looks at it: it ends with the last view


def _values(record: UploadRecord) -> dict[str, Any]:
    return {
        "federation_uuid": record.federation_uuid,
        "round_number": record.round_number,
        "task_name": record.task_name,
        "collaborator": record.collaborator,
        "data_size": record.data_size,
        "total_bytes": record.total_bytes,
        "tensors": json.dumps([asdict(tensor) for tensor in record.tensors]),
    }


def _record(row: Row[Any]) -> UploadRecord:
    return UploadRecord(
        federation_uuid=row.federation_uuid,
        round_number=row.round_number,
        task_name=row.task_name,
        collaborator=row.collaborator,
        data_size=row.data_size,
        tensors=tuple(_tensor(body) for body in json.loads(row.tensors)),
        total_bytes=row.total_bytes,
    )


def _tensor(body: dict[str, Any]) -> TensorRecord:
    return TensorRecord(
        name=body["name"],
        round_number=body["round_number"],
        lossless=body["lossless"],
        report=body["report"],
        tags=tuple(body["tags"]),
        metadata=tuple(
            TransformerMetadata(
                # JSON has text keys only
                int_to_float={int(index): value for index, value in record["int_to_float"].items()},
                int_list=tuple(record["int_list"]),
                bool_list=tuple(record["bool_list"]),
            )
            for record in body["metadata"]
        ),
        offset=body["offset"],
        nbytes=body["nbytes"],
    )
