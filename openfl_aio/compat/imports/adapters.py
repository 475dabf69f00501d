"""OpenFL 1.6's framework adapters by name, over ours. The framework is imported when an adapter is used."""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar

from openfl_aio.compat.imports.plugins import FrameworkAdapterPluginInterface

__all__ = ["FlaxAdapter", "KerasAdapter", "TorchAdapter"]


class _Adapter(FrameworkAdapterPluginInterface):
    framework: ClassVar[str]

    @classmethod
    def _ours(cls) -> Any:
        return import_module(f"openfl_aio.collaborator.frameworks.{cls.framework}")


class TorchAdapter(_Adapter):
    """For PyTorch."""

    framework = "torch"

    @staticmethod
    def get_tensor_dict(model: Any, optimizer: Any = None) -> dict[str, Any]:
        """Return the tensors by name."""
        tensors: dict[str, Any] = TorchAdapter._ours().get_tensors(model, optimizer)
        return tensors

    @staticmethod
    def set_tensor_dict(model: Any, tensor_dict: dict[str, Any], optimizer: Any = None, device: str = "cpu") -> None:
        """Put the tensors into the model and the optimizer."""
        TorchAdapter._ours().set_tensors(model, tensor_dict, optimizer, device=device)


class KerasAdapter(_Adapter):
    """For Keras."""

    framework = "keras"

    @staticmethod
    def get_tensor_dict(model: Any, optimizer: Any = None, suffix: str = "") -> dict[str, Any]:
        """Return the tensors by name, each with ``suffix``."""
        tensors: dict[str, Any] = KerasAdapter._ours().get_tensors(model, optimizer)
        return {f"{name}{suffix}": values for name, values in tensors.items()}

    @staticmethod
    def set_tensor_dict(model: Any, tensor_dict: dict[str, Any], optimizer: Any = None, device: str = "cpu") -> None:
        """Put the tensors into the model and the optimizer."""
        KerasAdapter._ours().set_tensors(model, tensor_dict, optimizer)


class FlaxAdapter(_Adapter):
    """For Flax, where the model is a train state that holds its optimizer's."""

    framework = "flax"

    @staticmethod
    def get_tensor_dict(model: Any, optimizer: Any = None) -> dict[str, Any]:
        """Return the tensors by name."""
        tensors: dict[str, Any] = FlaxAdapter._ours().get_tensors(model)
        return tensors

    @staticmethod
    def set_tensor_dict(model: Any, tensor_dict: dict[str, Any], optimizer: Any = None, device: str = "cpu") -> None:
        """Put the tensors into the train state."""
        FlaxAdapter._ours().set_tensors(model, tensor_dict)
