"""PyTorch: a module's and its optimizer's tensors as NumPy arrays and back, under OpenFL 1.6's names. Needs the extra ``torch``.

The model's names are those of its ``state_dict``. The state of the optimizer's parameter number i of group g is
``__opt_state_<g>_<i>_istensor_<key>``, without ``istensor`` for plain numbers, which become arrays of one;
``__opt_group_lengths`` counts the parameters with a state in each group; ``__opt_state_needed`` is the text ``"true"``
or ``"false"`` and no tensor: keep it out of what is sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import torch

from openfl_aio.collaborator.frameworks.model import ModelTaskRunner
from openfl_aio.errors import TensorError

__all__ = [
    "TorchTaskRunner",
    "get_optimizer_tensors",
    "get_tensors",
    "set_optimizer_tensors",
    "set_tensors",
    "to_arrays",
]

NEEDED: Final = "__opt_state_needed"
LENGTHS: Final = "__opt_group_lengths"


def get_tensors(model: Any, optimizer: Any = None) -> dict[str, Any]:
    """Return copies of the tensors of ``model`` (integers stay integers) and, if given, of ``optimizer``'s state.

    Raises `TensorError` for a state dictionary with something else in it.
    """
    out = to_arrays(model.state_dict())
    if optimizer is not None:
        out.update(get_optimizer_tensors(optimizer))
    return out


def set_tensors(model: Any, tensors: Mapping[str, Any], optimizer: Any = None, *, device: str = "cpu") -> None:
    """Put ``tensors`` into ``model`` and, where they have a state for it, into ``optimizer``, in their own dtypes.

    ``tensors`` is neither changed nor shared. The module stays on the device where it is. Raises `TensorError` if one
    is missing or the state is not this optimizer's.
    """
    state = {name: torch.tensor(np.asarray(_wanted(tensors, name)), device=device) for name in model.state_dict()}
    model.load_state_dict(state)
    if optimizer is not None and tensors.get(NEEDED) == "true":
        set_optimizer_tensors(optimizer, tensors)


def to_arrays(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return copies of the tensors of a module's ``state_dict()``. Raises `TensorError` if something else is in it."""
    for name, value in state.items():
        if not torch.is_tensor(value):
            raise TensorError(f"expected only tensors in the module's state, got {name!r} of {type(value).__name__}")
    return {name: _array(value) for name, value in state.items()}


def get_optimizer_tensors(optimizer: Any) -> dict[str, Any]:
    """Return copies of the tensors and numbers of ``optimizer``'s state; `NEEDED` alone if it has none yet."""
    state = optimizer.state_dict()
    out: dict[str, Any] = {}
    lengths = [0] * len(state["param_groups"])
    for group, position, identity in _with_state(state):
        lengths[group] = position + 1
        for key, value in state["state"][identity].items():
            if torch.is_tensor(value):
                out[f"__opt_state_{group}_{position}_istensor_{key}"] = _array(value)
            elif value is not None:
                out[f"__opt_state_{group}_{position}__{key}"] = np.array([value])
    if not out:
        return {NEEDED: "false"}
    return {NEEDED: "true", **out, LENGTHS: np.array(lengths)}


def set_optimizer_tensors(optimizer: Any, tensors: Mapping[str, Any]) -> None:
    """Put the state that ``tensors`` have into ``optimizer``. Raises `TensorError` if it is not this optimizer's."""
    current = optimizer.state_dict()
    lengths = [int(length) for length in np.asarray(_wanted(tensors, LENGTHS)).reshape(-1)]
    if len(lengths) != len(current["param_groups"]):
        raise TensorError(f"expected a state of {len(current['param_groups'])} parameter groups, got {len(lengths)}")
    restored: dict[Any, dict[str, Any]] = {}
    for group, length in enumerate(lengths):
        for position, identity in enumerate(_parameters(optimizer, current, group, length)):
            restored[identity] = _state_of(tensors, group, position)
    optimizer.load_state_dict({"state": restored, "param_groups": current["param_groups"]})


class TorchTaskRunner(ModelTaskRunner):
    """Base of a task runner whose model is a `torch.nn.Module`; see `ModelTaskRunner`."""

    get_tensors = staticmethod(get_tensors)
    set_tensors = staticmethod(set_tensors)


def _wanted(tensors: Mapping[str, Any], name: str) -> Any:
    if name not in tensors:
        raise TensorError(f"expected a tensor {name!r}, got only {', '.join(sorted(tensors)[:20])}")
    return tensors[name]


def _array(value: Any) -> np.ndarray:
    plain = value.detach().cpu()
    if plain.dtype in (torch.bfloat16, torch.float16):
        plain = plain.float()  # NumPy has no bfloat16, and float32 is what travels
    return np.array(plain.numpy())


def _with_state(state: Mapping[str, Any]) -> Iterator[tuple[int, int, Any]]:
    """Yield group, position in it, and id of each parameter that has a state; frozen ones have none."""
    for group, settings in enumerate(state["param_groups"]):
        known = sorted(identity for identity in settings["params"] if state["state"].get(identity))
        for position, identity in enumerate(known):
            yield group, position, identity


def _parameters(optimizer: Any, current: Mapping[str, Any], group: int, length: int) -> list[Any]:
    """Return the ids of the ``length`` parameters of ``group`` that have a state: those that had one, or can be trained."""
    identities = sorted(current["param_groups"][group]["params"])
    trainable = [
        identity
        for identity, parameter in zip(identities, optimizer.param_groups[group]["params"], strict=True)
        if parameter.requires_grad
    ]
    for candidates in ([i for i in identities if current["state"].get(i)], trainable, identities):
        if len(candidates) == length:
            return candidates
    raise TensorError(f"expected a state of {len(trainable)} parameters in group {group}, got one of {length}")


def _state_of(tensors: Mapping[str, Any], group: int, position: int) -> dict[str, Any]:
    prefix = f"__opt_state_{group}_{position}_"
    out: dict[str, Any] = {}
    for name, values in tensors.items():
        if not name.startswith(prefix):
            continue
        kind, _, key = name.removeprefix(prefix).partition("_")
        if kind == "istensor":
            out[key] = torch.tensor(np.asarray(values))
        else:
            number = float(np.asarray(values).reshape(-1)[0])
            out[key] = int(number) if number.is_integer() else number
    return out
