from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from openfl_aio.domain import ShardInfo
from openfl_aio.envoy.shard import describe_shard, load_shard
from openfl_aio.errors import ConfigurationError

SOURCE = """
class Shard:
    def __init__(self, *, samples=3):
        self.samples = samples
        self.sample_shape = [8, "8"]
        self.target_shape = ("1",)
        self.dataset_description = "digits"
    def __len__(self):
        return self.samples
    def get_dataset(self, dataset_type):
        return dataset_type

class Deaf:
    pass
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend("/nowhere")
    (tmp_path / "shard_source.py").write_text(SOURCE)
    return tmp_path


def test_a_shard_is_loaded_and_described(folder: Path) -> None:
    shard = load_shard("shard_source.Shard", path=folder, params={"samples": 5})
    assert shard.get_dataset("train") == "train"
    assert describe_shard(shard, name="site") == ShardInfo("site", "digits", 5, ("8", "8"), ("1",))


def test_what_is_no_shard_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"could not be built with params \['rows'\]: TypeError"):
        load_shard("shard_source.Shard", path=folder, params={"rows": 5})
    with pytest.raises(ConfigurationError, match=r"has no method get_dataset\(\)"):
        load_shard("shard_source.Deaf", path=folder, params={})


@pytest.mark.parametrize(
    ("shape", "message"), [("8", "must be a list like"), (8, "must be a list like"), (None, "must be a list like")]
)
def test_a_shape_that_is_none(shape: Any, message: str) -> None:
    class Odd:
        dataset_description = ""
        target_shape = ("1",)
        sample_shape = shape

        def get_dataset(self, dataset_type: str) -> None: ...

    with pytest.raises(ConfigurationError, match=message):
        describe_shard(Odd(), name="site")


def test_a_shard_without_shape_or_length() -> None:
    class Bare:
        dataset_description = ""
        sample_shape = ("1",)
        target_shape = ("1",)

        def get_dataset(self, dataset_type: str) -> None: ...

    assert describe_shard(Bare(), name="site").n_samples == 0
    broken: Any = object()
    with pytest.raises(ConfigurationError, match="reading it raised AttributeError"):
        describe_shard(broken, name="site")
