"""FedCurv for PyTorch (Shoham et al. 2019) as OpenFL 1.6 does it: a penalty for moving what matters to the other sites.

A parameter ``p`` gets three buffers in the model, which travel and are summed at the director: ``p_u``, the diagonal of
the Fisher information, ``p_v`` = u * p and ``p_w`` = u * p^2. As in 1.6 the diagonal is that of the last batch, divided
by the number of batches: sites that took another one would not add up with those of 1.6.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch.nn import functional

__all__ = ["FedCurv", "get_buffer", "register_buffer"]

_TERMS: Final = ("u", "v", "w")


def register_buffer(module: Any, name: str, value: Any) -> None:
    """Set the buffer ``name`` of ``module``, which may be in a submodule: ``conv1.bias``."""
    path, _, last = name.rpartition(".")
    module.get_submodule(path).register_buffer(last, value)


def get_buffer(module: Any, target: str) -> Any:
    """Return the buffer ``target`` of ``module``. Raises `AttributeError` if there is none."""
    return module.get_buffer(target)


class FedCurv:
    """Call `on_train_begin`, add `get_penalty` to the loss of each step, and call `on_train_end`.

    ``importance`` is the penalty's weight, lambda in the paper.
    """

    def __init__(self, model: Any, importance: float) -> None:
        self.importance = importance
        self._params: dict[str, Any] = {}
        for name, parameter in list(model.named_parameters()):
            self._keep(model, name, *(torch.zeros_like(parameter, requires_grad=False) for _ in _TERMS))

    def on_train_begin(self, model: Any) -> None:
        """Note what is trained."""
        self._params = {name: parameter.detach().clone() for name, parameter in _trained(model)}

    def get_penalty(self, model: Any) -> Any:
        """Return the penalty of the other sites' terms for where ``model`` is; 0 before the first training."""
        if not self._params:
            return 0
        penalty: Any = 0
        for name, parameter in _trained(model):
            u, v, w = (
                get_buffer(model, f"{name}_{term}").detach() - getattr(self, f"{name}_{term}").detach()
                for term in _TERMS
            )
            penalty = penalty + (parameter**2 * u - 2 * parameter * v + w).sum()
        return (self.importance * penalty).float()

    def on_train_end(self, model: Any, data_loader: Any, device: str) -> None:
        """Compute this site's terms for the trained ``model``, whose outputs are scores of classes."""
        for name, fisher in self._fisher(model, data_loader, device).items():
            parameter = model.get_parameter(name).detach()
            self._keep(model, name, fisher, fisher * parameter, fisher * parameter**2)

    def _fisher(self, model: Any, data_loader: Any, device: str) -> dict[str, Any]:
        out = {name: torch.zeros_like(parameter).to(device) for name, parameter in self._params.items()}
        model.eval()
        model.to(device)
        for sample, target in data_loader:
            model.zero_grad()
            scores = functional.log_softmax(model(sample.to(device)), dim=1)
            functional.nll_loss(scores, target.to(device)).backward()
            out = {name: parameter.grad.detach() ** 2 / len(data_loader) for name, parameter in _trained(model)}
        return out

    def _keep(self, model: Any, name: str, *terms: Any) -> None:
        """Keep the terms of a parameter in the model, to be sent, and here, to be subtracted from the sums."""
        for term, value in zip(_TERMS, terms, strict=True):
            register_buffer(model, f"{name}_{term}", value.clone())
            setattr(self, f"{name}_{term}", value.clone())


def _trained(model: Any) -> Iterator[tuple[str, Any]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
