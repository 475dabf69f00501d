"""The plugins that a 1.6 plan names: what reads the archive's objects, and the interface of framework adapters."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Final

__all__ = [
    "CUDADeviceMonitor",
    "CloudpickleSerializer",
    "DeviceMonitor",
    "DillSerializer",
    "FrameworkAdapterPluginInterface",
    "Serializer",
]


class FrameworkAdapterPluginInterface:
    """Reads and writes the tensors of a model and its optimizer as a dictionary of NumPy arrays."""

    @staticmethod
    def serialization_setup() -> None:
        """Prepare the model to be pickled, where that needs something."""

    @staticmethod
    def get_tensor_dict(model: Any, optimizer: Any = None) -> dict[str, Any]:
        """Return the tensors by name."""
        raise NotImplementedError

    @staticmethod
    def set_tensor_dict(model: Any, tensor_dict: dict[str, Any], optimizer: Any = None, device: str = "cpu") -> None:
        """Put the tensors into the model and the optimizer."""
        raise NotImplementedError


class Serializer:
    """Writes an object to a file and reads it back."""

    @staticmethod
    def serialize(object_: Any, filename: str) -> None:
        """Write."""
        raise NotImplementedError

    @staticmethod
    def restore_object(filename: str) -> Any:
        """Read. Runs what the file says."""
        raise NotImplementedError


class _Pickled(Serializer):
    package: ClassVar[str]

    @classmethod
    def _load(cls, filename: str) -> Any:
        try:
            pickler = import_module(cls.package)
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                f"{filename} was written by {cls.package}, which is not installed here; "
                f"run: pip install {_EXTRAS.get(cls.package, cls.package)}",
                name=cls.package,
            ) from None
        with Path(filename).open("rb") as file:
            return pickler.load(file)


_EXTRAS: Final = {"cloudpickle": "'openfl-aio[openfl16]'"}


class CloudpickleSerializer(_Pickled):
    """Reads what cloudpickle wrote, the frontend's default; runs what the file says."""

    package = "cloudpickle"

    @staticmethod
    def restore_object(filename: str) -> Any:
        """Read ``filename``."""
        return CloudpickleSerializer._load(filename)


class DillSerializer(_Pickled):
    """Reads what dill wrote; runs what the file says."""

    package = "dill"

    @staticmethod
    def restore_object(filename: str) -> Any:
        """Read ``filename``."""
        return DillSerializer._load(filename)


class DeviceMonitor:
    """Tells about a processing unit."""

    def get_driver_version(self) -> str:
        """Return the driver's version."""
        raise NotImplementedError

    def get_device_utilization(self, index: int) -> str:
        """Return how busy the device is, for people to read."""
        raise NotImplementedError


class CUDADeviceMonitor(DeviceMonitor):
    """Tells about CUDA devices."""

    def get_device_memory_total(self, index: int) -> int:
        """Return the device's memory in bytes."""
        raise NotImplementedError

    def get_device_memory_utilized(self, index: int) -> int:
        """Return the memory in use in bytes."""
        raise NotImplementedError

    def get_device_name(self, index: int) -> str:
        """Return the device's name."""
        raise NotImplementedError

    def get_cuda_version(self) -> str:
        """Return the version of CUDA."""
        raise NotImplementedError
