"""OpenFL 1.6's FedProx optimizers for PyTorch: SGD and Adam with a pull to the round's first weights (Li et al. 2020).

``set_old_weights`` gives those weights, one list for the parameters of a group; without them there is no pull.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.optim import SGD, Optimizer

__all__ = ["FedProxAdam", "FedProxOptimizer"]


def _pulls(group: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Yield each parameter with a gradient and ``mu`` times its distance from the old weight, None without one."""
    old = group.get("w_old")
    for index, parameter in enumerate(group["params"]):
        if parameter.grad is not None:
            yield parameter, None if old is None else group["mu"] * (parameter - old[index])


class FedProxOptimizer(SGD):
    """SGD whose step goes on by ``mu`` times the distance; without Nesterov the pull is part of the momentum."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        mu: float = 0.0,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
    ) -> None:
        if mu < 0.0:
            raise ValueError(f"mu must be at least 0, got {mu}")
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov)
        for group in self.param_groups:
            group["mu"] = mu

    def set_old_weights(self, old_weights: list[Any]) -> None:
        """Pull to ``old_weights`` from now on."""
        for group in self.param_groups:
            group["w_old"] = old_weights

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step; return what ``closure`` does."""
        pulls = [(group, list(_pulls(group))) for group in self.param_groups]
        loss = super().step(closure)
        for group, pairs in pulls:
            for parameter, pull in pairs:
                if pull is None:
                    continue
                parameter.add_(pull, alpha=-group["lr"])
                if group["momentum"] != 0 and not group["nesterov"]:
                    self.state[parameter]["momentum_buffer"].add_(pull)
        return loss


class FedProxAdam(Optimizer):
    """Adam (Kingma and Ba 2015) on gradients with the pull in them. The state's ``step`` is a plain number, as in 1.6."""

    def __init__(
        self,
        params: Iterable[Any],
        mu: float = 0,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
    ) -> None:
        if mu < 0.0 or lr < 0.0 or eps < 0.0 or weight_decay < 0.0 or not all(0.0 <= beta < 1.0 for beta in betas):
            raise ValueError(
                f"expected mu, lr, eps and weight_decay of at least 0 and betas from 0 to below 1, "
                f"got {mu}, {lr}, {eps}, {weight_decay} and {betas}"
            )
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad, "mu": mu}
        super().__init__(params, defaults)

    def set_old_weights(self, old_weights: list[Any]) -> None:
        """Pull to ``old_weights`` from now on."""
        for group in self.param_groups:
            group["w_old"] = old_weights

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step; return what ``closure`` does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter, pull in _pulls(group):
                gradient = parameter.grad if pull is None else parameter.grad + pull
                if group["weight_decay"] != 0:
                    gradient = gradient.add(parameter, alpha=group["weight_decay"])
                self._move(parameter, gradient, group)
        return loss

    def _move(self, parameter: Any, gradient: Any, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state.update(step=0, exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter))
            if group["amsgrad"]:
                state["max_exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        first, second = group["betas"]
        state["exp_avg"].mul_(first).add_(gradient, alpha=1 - first)
        state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        variance = state["exp_avg_sq"]
        if group["amsgrad"]:
            variance = torch.maximum(state["max_exp_avg_sq"], variance, out=state["max_exp_avg_sq"])
        spread = (variance.sqrt() / math.sqrt(1 - second ** state["step"])).add_(group["eps"])
        parameter.addcdiv_(state["exp_avg"], spread, value=-group["lr"] / (1 - first ** state["step"]))
