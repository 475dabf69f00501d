"""One committed upload as one file: the bytes as they came, then what they are, then how to find that.

=====================  =====================================================================================
payload                the serialized TaskResults
index                  JSON of the `UploadRecord`
footer, 28 bytes       length of the payload (8), its checksum (4), length of the index (4), CRC-32 of the index (4),
                       magic (8)
=====================  =====================================================================================

A file that was cut anywhere, is longer than it says, or has other bytes is told from a whole one, as far as
`openfl_aio.storage.checksum` tells.
"""

from __future__ import annotations

import base64
import json
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from openfl_aio.storage.journal import UploadRecord
from openfl_aio.tensors.encoded import TransformerMetadata
from openfl_aio.tensors.float_table import FloatTable
from openfl_aio.wire.incremental import TensorRecord

__all__ = ["metadata_of", "metadata_values", "read_record", "trailer"]

MAGIC: Final = b"oflupld2"
FOOTER: Final = struct.Struct("<QIII8s")


def trailer(record: UploadRecord, checksum: int) -> bytes:
    """Return what follows the payload in the file of ``record``."""
    index = json.dumps(
        [
            record.federation_uuid,
            record.round_number,
            record.task_name,
            record.collaborator,
            record.data_size,
            [_tensor_values(tensor) for tensor in record.tensors],
        ],
        separators=(",", ":"),
    ).encode()
    return index + FOOTER.pack(record.total_bytes, checksum, len(index), zlib.crc32(index), MAGIC)


def read_record(descriptor: int) -> tuple[UploadRecord, int]:
    """Return the record of an open file, and what the `checksum` of its payload must be.

    Raises `ValueError` for a file that is not whole, with the reason.
    """
    size = os.fstat(descriptor).st_size
    if size < FOOTER.size:
        raise ValueError(f"has {size} bytes, which is no whole upload")
    total_bytes, of_payload, length, of_index, magic = FOOTER.unpack(
        os.pread(descriptor, FOOTER.size, size - FOOTER.size)
    )
    if magic != MAGIC or total_bytes + length + FOOTER.size != size:
        raise ValueError(f"has {size} bytes, which is no whole upload")
    index = os.pread(descriptor, length, total_bytes)
    if zlib.crc32(index) != of_index:
        raise ValueError("has an index that does not fit its checksum")
    federation_uuid, round_number, task_name, collaborator, data_size, tensors = json.loads(index)
    record = UploadRecord(
        federation_uuid=federation_uuid,
        round_number=round_number,
        task_name=task_name,
        collaborator=collaborator,
        data_size=data_size,
        tensors=tuple(_tensor(values) for values in tensors),
        total_bytes=total_bytes,
    )
    return record, of_payload


def metadata_values(metadata: Sequence[TransformerMetadata]) -> list[Any]:
    """Return what JSON can say of ``metadata``."""
    return [[_table_values(stage.int_to_float), list(stage.int_list), list(stage.bool_list)] for stage in metadata]


def metadata_of(values: Sequence[Any]) -> tuple[TransformerMetadata, ...]:
    """Return the metadata of which `metadata_values` made ``values``."""
    return tuple(TransformerMetadata(_table(table), tuple(ints), tuple(bools)) for table, ints, bools in values)


def _table_values(table: Mapping[int, float]) -> list[Any] | str:
    """Return the entries of ``table``, or one text for the many values of keys that count from 0."""
    values = table.of_each(len(table)) if isinstance(table, FloatTable) else None
    if values is None:
        return [list(item) for item in table.items()]
    return base64.b85encode(values.astype("<f4").tobytes()).decode()


def _table(values: list[Any] | str) -> Mapping[int, float]:
    return FloatTable(np.frombuffer(base64.b85decode(values), "<f4")) if isinstance(values, str) else dict(values)


def _tensor_values(tensor: TensorRecord) -> list[Any]:
    return [
        tensor.name,
        tensor.round_number,
        tensor.lossless,
        tensor.report,
        list(tensor.tags),
        metadata_values(tensor.metadata),
        tensor.offset,
        tensor.nbytes,
        *([] if not tensor.tables else [list(tensor.tables)]),
    ]


def _tensor(values: Sequence[Any]) -> TensorRecord:
    name, round_number, lossless, report, tags, metadata, offset, nbytes, *tables = values
    return TensorRecord(
        name=name,
        round_number=round_number,
        lossless=lossless,
        report=report,
        tags=tuple(tags),
        metadata=metadata_of(metadata),
        offset=offset,
        nbytes=nbytes,
        tables=tuple(None if place is None else (place[0], place[1]) for place in tables[0]) if tables else (),
    )
