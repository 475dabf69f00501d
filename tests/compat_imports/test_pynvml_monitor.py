"""The monitor of CUDA devices over a stand-in for NVIDIA's library."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType, SimpleNamespace
from unittest.mock import Mock

import pytest

NAME = "openfl_aio.compat.imports.pynvml_monitor"


@pytest.mark.parametrize("text", [str, str.encode], ids=["text", "bytes of older releases"])
def test_it_tells_what_the_library_tells(monkeypatch: pytest.MonkeyPatch, text: object) -> None:
    assert callable(text)
    library = ModuleType("pynvml")
    started = Mock()
    vars(library).update(
        nvmlInit=started,
        nvmlSystemGetDriverVersion=lambda: text("550.54"),
        nvmlSystemGetCudaDriverVersion=lambda: 12040,
        nvmlDeviceGetHandleByIndex=lambda index: f"device {index}",
        nvmlDeviceGetName=lambda handle: text(f"name of {handle}"),
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(total=80, used=20),
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=35),
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    monitor = importlib.import_module(NAME).PynvmlCUDADeviceMonitor()
    monkeypatch.delitem(sys.modules, NAME)
    assert started.called
    assert (monitor.get_driver_version(), monitor.get_cuda_version()) == ("550.54", "12.4")
    assert monitor.get_device_name(1) == "name of device 1"
    assert (monitor.get_device_memory_total(0), monitor.get_device_memory_utilized(0)) == (80, 20)
    assert monitor.get_device_utilization(0) == "35%"
