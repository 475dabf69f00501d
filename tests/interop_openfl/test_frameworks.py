"""The framework adapter, the FedProx optimizers and the splitters that stand in for OpenFL's own, against those."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch: Any = pytest.importorskip("torch")
real_adapter: Any = pytest.importorskip("openfl.plugins.frameworks_adapters.pytorch_adapter")

from openfl.utilities import data_splitters as real_splitters  # noqa: E402

from openfl_aio.collaborator.frameworks.torch import get_tensors, set_tensors  # noqa: E402
from openfl_aio.compat.imports import adapters, fedcurv_torch, fedprox_torch, splitters  # noqa: E402

pytestmark = pytest.mark.cell(
    server="in one process", client="framework adapters", must="the same tensors, steps and splits", link="none"
)

LOG_NORMAL = {"mu": 0, "sigma": 2.0, "num_classes": 4, "classes_per_col": 2, "min_samples_per_class": 5}
ADAPTER = real_adapter.FrameworkAdapterPlugin
OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.1),
    "fedprox": lambda parameters: fedprox_torch.FedProxAdam(parameters, lr=0.1),
}


def network() -> Any:
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 1))


def steps(model: Any, optimizer: Any) -> None:
    source = torch.Generator().manual_seed(5)
    for _ in range(3):
        samples = torch.randn(8, 3, generator=source)
        optimizer.zero_grad()
        (model(samples) - samples.sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_tensors_of_a_trained_model_are_called_the_same(kind: str) -> None:
    model = network()
    optimizer = OPTIMIZERS[kind](model.parameters())
    steps(model, optimizer)
    ours, theirs = get_tensors(model, optimizer), ADAPTER.get_tensor_dict(model, optimizer)
    assert sorted(ours) == sorted(theirs)
    for name, values in theirs.items():
        np.testing.assert_array_equal(ours[name], values, err_msg=name)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_what_either_reads_the_other_puts_back(kind: str) -> None:
    models = []
    for read, write in ((ADAPTER.get_tensor_dict, set_tensors), (get_tensors, ADAPTER.set_tensor_dict)):
        source, target = network(), network()
        sent, received = OPTIMIZERS[kind](source.parameters()), OPTIMIZERS[kind](target.parameters())
        steps(source, sent)
        write(target, dict(read(source, sent)), received)
        steps(target, received)
        models.append(get_tensors(target, received))
    for name, values in models[0].items():
        np.testing.assert_array_equal(models[1][name], values, err_msg=name)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.5},
        {"momentum": 0.9, "nesterov": True},
        {"weight_decay": 0.1},
    ],
)
def test_fedprox_sgd_makes_the_same_steps(settings: dict[str, Any]) -> None:
    compare("FedProxOptimizer", {"lr": 0.05, "mu": 0.3, **settings})


@pytest.mark.parametrize("settings", [{}, {"amsgrad": True}, {"weight_decay": 0.1}])
def test_fedprox_adam_makes_the_same_steps(settings: dict[str, Any]) -> None:
    compare("FedProxAdam", {"lr": 0.05, "mu": 0.3, **settings})


def compare(name: str, settings: dict[str, Any]) -> None:
    theirs = pytest.importorskip("openfl.utilities.optimizers.torch.fedprox", exc_type=ImportError)
    models = []
    for module in (fedprox_torch, theirs):
        model = network()
        optimizer = getattr(module, name)(model.parameters(), **settings)
        optimizer.set_old_weights([torch.ones_like(parameter) for parameter in model.parameters()])
        steps(model, optimizer)
        models.append(get_tensors(model))
    for key, values in models[1].items():
        np.testing.assert_allclose(models[0][key], values, rtol=1e-5, atol=1e-6, err_msg=key)


def test_fedcurv_adds_the_same_penalty() -> None:
    theirs = pytest.importorskip("openfl.utilities.fedcurv.torch.fedcurv")
    batches = [(torch.randn(4, 3), torch.tensor([0, 1, 1, 0])) for _ in range(3)]
    models = []
    for module in (fedcurv_torch, theirs):
        torch.manual_seed(2)
        model = torch.nn.Linear(3, 2)
        curve = module.FedCurv(model, importance=10.0)
        penalties = []
        for _ in range(2):
            curve.on_train_begin(model)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for sample, target in batches:
                optimizer.zero_grad()
                penalty = curve.get_penalty(model)
                penalties.append(float(penalty))
                (torch.nn.functional.cross_entropy(model(sample), target) + penalty).backward()
                optimizer.step()
            curve.on_train_end(model, batches, "cpu")
            # as if the other sites had terms of the same size
            set_tensors(
                model,
                {name: v * (2 if name[-2:] in ("_u", "_v", "_w") else 1) for name, v in get_tensors(model).items()},
            )
        models.append((get_tensors(model), penalties))
    assert models[1][1][-1] > 0
    np.testing.assert_allclose(models[0][1], models[1][1], rtol=1e-5)
    assert list(models[0][0]) == list(models[1][0])
    for name, values in models[1][0].items():
        np.testing.assert_allclose(models[0][0][name], values, rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("EqualNumPyDataSplitter", {"seed": 3}),
        ("EqualNumPyDataSplitter", {"shuffle": False}),
        ("RandomNumPyDataSplitter", {"seed": 3}),
        ("RandomNumPyDataSplitter", {"shuffle": False}),
        ("DirichletNumPyDataSplitter", {"alpha": 0.4}),
        ("LogNormalNumPyDataSplitter", LOG_NORMAL),
    ],
)
def test_the_same_seed_deals_the_same(name: str, settings: dict[str, Any]) -> None:
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(4), 60))
    ours = getattr(splitters, name)(**settings).split(labels, 8)
    theirs = getattr(real_splitters, name)(**settings).split(labels, 8)
    for part, expected in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_adapter_s_helpers_that_the_tutorials_import_do_the_same(kind: str) -> None:
    model, other = network(), network()
    optimizer, received = OPTIMIZERS[kind](model.parameters()), OPTIMIZERS[kind](other.parameters())
    assert adapters.get_optimizer_state(optimizer) == real_adapter._get_optimizer_state(optimizer)
    steps(model, optimizer)
    pairs = [
        (adapters.to_cpu_numpy(model.state_dict()), real_adapter.to_cpu_numpy(model.state_dict())),
        (adapters.get_optimizer_state(optimizer), real_adapter._get_optimizer_state(optimizer)),
    ]
    for ours, theirs in pairs:
        assert sorted(ours) == sorted(theirs)
        for name, values in theirs.items():
            np.testing.assert_array_equal(ours[name], values, err_msg=name)
    if "__opt_group_lengths" in pairs[1][1]:
        adapters.set_optimizer_state(received, "cpu", pairs[1][1])
        assert str(received.state_dict()) == str(optimizer.state_dict())
    for to_arrays in (adapters.to_cpu_numpy, real_adapter.to_cpu_numpy):
        with pytest.raises(ValueError, match="tensors"):
            to_arrays({"text": "much"})
