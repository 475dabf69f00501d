"""OpenFL 1.6's framework adapters by name, over ours. The framework is imported when an adapter is used."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar

from openfl_aio.compat.imports.plugins import FrameworkAdapterPluginInterface
from openfl_aio.errors import TensorError

__all__ = [
    "FlaxAdapter",
    "KerasAdapter",
    "TorchAdapter",
    "get_optimizer_state",
    "set_optimizer_state",
    "to_cpu_numpy",
]


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


def to_cpu_numpy(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return copies of PyTorch's tensors, a module's ``state_dict()``, as arrays. Raises `ValueError` for anything else."""
    try:
        arrays: dict[str, Any] = TorchAdapter._ours().to_arrays(state)
    except TensorError as exc:
        raise ValueError(str(exc)) from None
    return arrays


def get_optimizer_state(optimizer: Any) -> dict[str, Any]:
    """Return the state of a PyTorch optimizer by the names that it travels under; ``__opt_state_needed`` says if there is one."""
    tensors: dict[str, Any] = TorchAdapter._ours().get_optimizer_tensors(optimizer)
    return tensors


def set_optimizer_state(optimizer: Any, device: str, derived_opt_state_dict: dict[str, Any]) -> None:
    """Put a state into a PyTorch optimizer, which moves it to its parameters' device."""
    TorchAdapter._ours().set_optimizer_tensors(optimizer, derived_opt_state_dict)


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
