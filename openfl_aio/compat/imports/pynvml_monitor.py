"""Tells about NVIDIA's devices by their management library; needs the package ``pynvml`` (or ``nvidia-ml-py``)."""

from __future__ import annotations

import pynvml

from openfl_aio.compat.imports.plugins import CUDADeviceMonitor

__all__ = ["PynvmlCUDADeviceMonitor"]

pynvml.nvmlInit()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value  # older releases of the library give bytes


class PynvmlCUDADeviceMonitor(CUDADeviceMonitor):
    """Tells about CUDA devices, numbered as the driver numbers them. Raises ``pynvml.NVMLError`` where there is none."""

    def get_driver_version(self) -> str:
        """Return the driver's version."""
        return _text(pynvml.nvmlSystemGetDriverVersion())

    def get_device_memory_total(self, index: int) -> int:
        """Return the device's memory in bytes."""
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(index)).total)

    def get_device_memory_utilized(self, index: int) -> int:
        """Return the memory in use in bytes."""
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(index)).used)

    def get_device_utilization(self, index: int) -> str:
        """Return the share of time at work in per cent."""
        return f"{pynvml.nvmlDeviceGetUtilizationRates(pynvml.nvmlDeviceGetHandleByIndex(index)).gpu}%"

    def get_device_name(self, index: int) -> str:
        """Return the device's name."""
        return _text(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(index)))

    def get_cuda_version(self) -> str:
        """Return the version of CUDA that the driver has, as ``major.minor``."""
        version = int(pynvml.nvmlSystemGetCudaDriverVersion())  # 1000 * major + 10 * minor
        return f"{version // 1000}.{version % 1000 // 10}"
