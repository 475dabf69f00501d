"""The pull to the old weights, against the same thing written as part of the loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch: Any = pytest.importorskip("torch")

from openfl_aio.compat.imports.fedprox_torch import FedProxAdam, FedProxOptimizer  # noqa: E402

MU = 0.3


def train(optimizer: Any, parameter: Any, *, pull_in_loss: bool) -> Any:
    old = torch.ones(4)
    if not pull_in_loss:
        optimizer.set_old_weights([old])
    for _ in range(5):
        optimizer.zero_grad()
        loss = (parameter - torch.arange(4.0)).square().sum()
        if pull_in_loss:
            loss = loss + MU / 2 * (parameter - old).square().sum()
        loss.backward()
        optimizer.step()
    return parameter.detach().numpy()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_sgd(momentum: float, decay: float) -> None:
    ours, theirs = (torch.zeros(4, requires_grad=True) for _ in range(2))
    prox = FedProxOptimizer([ours], lr=0.1, mu=MU, momentum=momentum, weight_decay=decay)
    plain = torch.optim.SGD([theirs], lr=0.1, momentum=momentum, weight_decay=decay)
    np.testing.assert_allclose(
        train(prox, ours, pull_in_loss=False), train(plain, theirs, pull_in_loss=True), rtol=1e-5
    )


@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam(amsgrad: bool) -> None:
    ours, theirs = (torch.zeros(4, requires_grad=True) for _ in range(2))
    prox = FedProxAdam([ours], lr=0.1, mu=MU, amsgrad=amsgrad, weight_decay=0.1)
    plain = torch.optim.Adam([theirs], lr=0.1, amsgrad=amsgrad, weight_decay=0.1)
    np.testing.assert_allclose(
        train(prox, ours, pull_in_loss=False), train(plain, theirs, pull_in_loss=True), rtol=1e-4
    )


def test_without_old_weights_there_is_no_pull_and_wrong_values_are_refused() -> None:
    ours = torch.zeros(2, requires_grad=True)
    optimizer = FedProxOptimizer([ours], lr=1.0, mu=MU)
    ours.sum().backward()
    optimizer.step()
    np.testing.assert_array_equal(ours.detach().numpy(), [-1, -1])
    with pytest.raises(ValueError, match="mu must be at least 0"):
        FedProxOptimizer([ours], mu=-1)
    with pytest.raises(ValueError, match="betas from 0 to below 1"):
        FedProxAdam([ours], betas=(0.9, 1.0))
