from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openfl_aio.envoy.child import Service
from openfl_aio.transport.child_channel import FrameChannel

SOURCE = """
import numpy as np
from openfl_aio.collaborator.task_runner import TaskOutput

class Shard:
    sample_shape = ["8"]
    target_shape = ["1"]
    dataset_description = "rows"
    def get_dataset(self, dataset_type):
        return 5

class Runner:
    def __init__(self, shard):
        self.shard = shard
    def tensor_names(self):
        return ["w"]
    def run(self, context, tensors):
        if context.task.name == "nothing":
            return None
        if context.task.name == "write":
            tensors["w"][0] = 1
        metrics = {"loss": np.float32(0.5), "odd": [1]}
        return TaskOutput(np.int64(2), {"w": tensors["w"] + self.shard.get_dataset("train")}, metrics)
"""


class Parent:
    """The parent's end of the channel, with the service in a thread instead of a process."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.channel = FrameChannel(ours)
        self._theirs = theirs
        self._thread = threading.Thread(target=Service(FrameChannel(theirs)).serve)
        self._thread.start()

    def ask(self, header: dict[str, Any], **arrays: np.ndarray) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        self.channel.send(header, arrays)
        return self.channel.receive(max_array_bytes=1 << 20)

    def close(self) -> None:
        self.channel.close()
        self._thread.join(10)
        self._theirs.close()
        assert not self._thread.is_alive()


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Parent]:
    monkeypatch.syspath_prepend("/nowhere")
    monkeypatch.chdir(tmp_path)  # the service changes into the workspace; back again afterwards
    sys.modules.pop("service_source", None)
    (tmp_path / "service_source.py").write_text(SOURCE)
    parent = Parent()
    yield parent
    parent.close()


def load(
    folder: Path, *, shard: str | None = "service_source.Shard", template: str | None = "service_source.Runner"
) -> Any:
    return {
        "op": "load",
        "template": template,
        "path": str(folder),
        "settings": {},
        "opt_treatment": "RESET",
        "shard_template": shard,
        "shard_path": str(folder),
        "shard_params": {},
    }


def run(name: str) -> dict[str, Any]:
    return {
        "op": "run",
        "task": name,
        "function_name": "",
        "kind": "train",
        "apply_local": False,
        "round": 1,
        "collaborator": "site",
    }


def test_a_task_from_loading_to_its_result(parent: Parent, tmp_path: Path) -> None:
    assert parent.ask(load(tmp_path)) == ({"ok": True}, {})
    assert parent.ask({"op": "tensor_names"})[0]["names"] == ["w"]
    described, _ = parent.ask({"op": "describe", "name": "site"})
    assert (described["description"], described["sample_shape"], described["n_samples"]) == ("rows", ["8"], 0)
    reply, tensors = parent.ask(run("train"), w=np.ones(2, np.float32))
    assert (reply["samples"], reply["metrics"]) == (2, {"loss": 0.5, "odd": "[1]"})
    np.testing.assert_array_equal(tensors["w"], [6, 6])


def test_what_fails_is_answered_and_the_service_goes_on(parent: Parent, tmp_path: Path) -> None:
    for request, message in [
        ({"op": "tensor_names"}, "no task runner is loaded yet"),
        ({"op": "describe", "name": "site"}, "no shard descriptor is loaded"),
        ({"op": "dance"}, "KeyError: 'dance'"),
        (load(tmp_path, shard=None, template="service_source.Absent"), "has no class 'Absent'"),
    ]:
        reply, _ = parent.ask(request)
        assert not reply["ok"]
        assert message in reply["message"]
    assert parent.ask(load(tmp_path))[0]["ok"]
    for task, message in [("nothing", "must return a TaskOutput"), ("write", "read-only")]:
        reply, _ = parent.ask(run(task), w=np.ones(2, np.float32))
        assert message in reply["message"]
        assert reply["traceback"]


def test_a_shard_alone_is_enough_to_describe_it(parent: Parent, tmp_path: Path) -> None:
    assert parent.ask({**load(tmp_path, template=None), "path": None})[0]["ok"]
    assert parent.ask({"op": "describe", "name": "site"})[0]["ok"]
