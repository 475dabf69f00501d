from __future__ import annotations

import resource
from pathlib import Path

import anyio
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openfl_aio.errors import CorruptFileError, StorageError, StorageFullError, TensorError
from openfl_aio.storage.models import ModelFiles, checksum_path
from openfl_aio.wire.codec import decode, encode
from openfl_aio.wire.messages import MetadataProto, ModelProto, NamedTensor

pytestmark = pytest.mark.real_time

MODEL = {
    "dense/kernel:0": np.arange(12, dtype=np.float32).reshape(3, 4),
    "dense/bias:0": np.array(0.5, dtype=np.float32),
    "empty": np.zeros((0, 3), dtype=np.float32),
}


@pytest.fixture
def files() -> ModelFiles:
    return ModelFiles()


def proto(*tensors: NamedTensor) -> bytes:
    return encode(ModelProto(tensors=list(tensors)))


def named(name: str, round_number: int = 0, data: bytes = bytes(8)) -> NamedTensor:
    return NamedTensor(
        name=name,
        round_number=round_number,
        tags=["model"],
        transformer_metadata=[MetadataProto(int_list=[2])],
        data_bytes=data,
    )


async def test_a_model_comes_back(files: ModelFiles, tmp_path: Path) -> None:
    path = tmp_path / "save" / "best.pbuf"
    await files.save(path, MODEL, round_number=7)
    saved = await files.load(path)
    assert saved.round_number == 7
    assert list(saved.tensors) == list(MODEL)
    for name, array in MODEL.items():
        np.testing.assert_array_equal(saved.tensors[name], array)
        assert saved.tensors[name].shape == array.shape
        assert not saved.tensors[name].flags.writeable
    assert sorted(p.name for p in path.parent.iterdir()) == ["best.pbuf", "best.pbuf.sha256"]
    digest, nbytes, count = checksum_path(path).read_text().split()
    assert (len(digest), int(nbytes), int(count)) == (64, path.stat().st_size, 3)
    assert "no_compression" in repr(files)


async def test_the_file_is_what_openfl_writes(files: ModelFiles, tmp_path: Path) -> None:
    path = tmp_path / "last.pbuf"
    await files.save(path, MODEL, round_number=2)
    tensors = decode(ModelProto, path.read_bytes()).tensors
    assert [tensor.name for tensor in tensors] == list(MODEL)
    assert all(tensor.tags == ["model"] and tensor.lossless and not tensor.report for tensor in tensors)
    assert {tensor.round_number for tensor in tensors} == {2}
    assert tensors[0].transformer_metadata[0].int_list == [3, 4]
    assert tensors[0].data_bytes == MODEL["dense/kernel:0"].tobytes()


async def test_a_plain_file_of_openfl_loads_and_may_be_replaced(files: ModelFiles, tmp_path: Path) -> None:
    path = tmp_path / "init.pbuf"
    path.write_bytes(proto(named("a", 4), named("b", 4)))
    assert (await files.load(path)).round_number == 4
    await files.save(path, MODEL, round_number=5)
    assert (await files.load(path)).round_number == 5
    assert len(checksum_path(path).read_text().splitlines()) == 1


async def test_a_crash_between_the_two_renames_leaves_a_model_that_loads(files: ModelFiles, tmp_path: Path) -> None:
    old, new, crashed = tmp_path / "old.pbuf", tmp_path / "new.pbuf", tmp_path / "crashed.pbuf"
    old.write_bytes(proto(named("a", 1)))
    await files.save(new, MODEL, round_number=2)
    # what the folder holds then: one model, and a checksum file that accepts both
    await files.save(crashed, {"a": np.zeros(2)}, round_number=1)
    both = checksum_path(new).read_text() + checksum_path(crashed).read_text()
    for model in (crashed.read_bytes(), new.read_bytes()):
        crashed.write_bytes(model)
        checksum_path(crashed).write_text(both)
        assert (await files.load(crashed)).round_number in (1, 2)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
async def test_any_flipped_bit_is_found(at: int, bit: int, files: ModelFiles, tmp_path: Path) -> None:
    path = tmp_path / "best.pbuf"
    if not path.exists():
        await files.save(path, MODEL, round_number=1)
    good = path.read_bytes()
    bad = bytearray(good)
    bad[at % len(bad)] ^= 1 << bit
    path.write_bytes(bad)
    with pytest.raises(CorruptFileError, match="does not fit its checksum"):
        await files.load(path)
    path.write_bytes(good)


async def test_a_wrong_count_is_found(files: ModelFiles, tmp_path: Path) -> None:
    path = tmp_path / "best.pbuf"
    await files.save(path, MODEL, round_number=1)
    digest, nbytes, _ = checksum_path(path).read_text().split()
    checksum_path(path).write_text(f"{digest} {nbytes} 9\n")
    with pytest.raises(CorruptFileError, match="has 3 tensors, its checksum says 9"):
        await files.load(path)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"no protobuf at all", "no model file"),
        (b"", "got 0 tensors"),
        (proto(named("a", 1), named("b", 2)), r"rounds \[1, 2\]"),
        (proto(named("a"), named("a")), "2 tensors with 1 names"),
        (proto(named("a", data=bytes(7))), "got 7 bytes"),
        (proto(named("a"))[:-3], "no model file"),
    ],
)
async def test_what_is_no_model(files: ModelFiles, tmp_path: Path, data: bytes, sentence: str) -> None:
    (tmp_path / "m.pbuf").write_bytes(data)
    with pytest.raises(CorruptFileError, match=sentence):
        await files.load(tmp_path / "m.pbuf")


async def test_a_missing_file_is_named(files: ModelFiles, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"absent\.pbuf"):
        await files.load(tmp_path / "absent.pbuf")


async def test_a_full_disk_leaves_the_old_model(files: ModelFiles, tmp_path: Path) -> None:
    path = tmp_path / "best.pbuf"
    await files.save(path, MODEL, round_number=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(StorageFullError, match="no space"):
            await files.save(path, {"large": np.zeros(10_000)}, round_number=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (await files.load(path)).round_number == 1
    assert len(list(tmp_path.iterdir())) == 2


async def test_nothing_to_save(files: ModelFiles, tmp_path: Path) -> None:
    with pytest.raises(TensorError, match="at least one"):
        await files.save(tmp_path / "m.pbuf", {}, round_number=0)
    with pytest.raises(TensorError, match="real numbers"):
        await files.save(tmp_path / "m.pbuf", {"a": np.array(["text"])}, round_number=0)
    assert list(tmp_path.iterdir()) == []


async def test_saves_at_once_do_not_mix(files: ModelFiles, tmp_path: Path) -> None:
    path = tmp_path / "last.pbuf"

    async def save(round_number: int) -> None:
        await files.save(path, {"a": np.full(1000, round_number)}, round_number=round_number)

    async with anyio.create_task_group() as group:
        for round_number in range(8):
            group.start_soon(save, round_number)
    saved = await files.load(path)
    assert (saved.tensors["a"] == saved.round_number).all()


@pytest.mark.parametrize("pipeline", ["kc", "eden", "random_shift"])
async def test_a_model_in_the_plans_coding_is_read_and_one_that_is_not_coded_too(tmp_path: Path, pipeline: str) -> None:
    tensors = {"b": np.arange(3, dtype=np.float32), "w": np.linspace(-1, 1, 200, dtype=np.float32)}
    await ModelFiles(pipeline=pipeline).save(tmp_path / "coded.pbuf", tensors, round_number=4)
    await ModelFiles().save(tmp_path / "plain.pbuf", tensors, round_number=4)
    coded = await ModelFiles(pipeline=pipeline).load(tmp_path / "coded.pbuf")
    plain = await ModelFiles(pipeline=pipeline).load(tmp_path / "plain.pbuf")
    assert coded.round_number == plain.round_number == 4
    np.testing.assert_allclose(coded.tensors["w"], tensors["w"], atol=0.2)
    assert plain.tensors["w"].tolist() == tensors["w"].tolist()
    with pytest.raises(CorruptFileError):
        await ModelFiles().load(tmp_path / "coded.pbuf")
