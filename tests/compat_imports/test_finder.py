from __future__ import annotations

import importlib
import pickle
import sys
from types import ModuleType

import pytest

from openfl_aio.compat.imports import install, uninstall
from openfl_aio.compat.imports.names import MODULES
from tests.compat_imports.tutorials import ARCHIVES, ELSEWHERE

pytestmark = pytest.mark.usefixtures("names")

NEEDS = {"fedcurv_torch": "torch", "fedprox_torch": "torch", "fedprox_keras": "keras", "pynvml_monitor": "pynvml"}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_every_name_of_the_table_is_there(module: str) -> None:
    found = importlib.import_module(module)
    for name, place in MODULES[module].items():
        needed = NEEDS.get(place.partition(":")[0].rpartition(".")[2])
        if needed is None or importlib.util.find_spec(needed) is not None:
            assert getattr(found, name) is not None
    assert found.__all__ == sorted(MODULES[module])


@pytest.mark.parametrize("statement", ARCHIVES)
def test_the_tutorials_import_what_they_need_at_a_site(statement: str) -> None:
    if ".torch" in statement:
        pytest.importorskip("torch")
    found: dict[str, object] = {}
    exec(statement, found)
    assert not [name for name, value in found.items() if value is None]


@pytest.mark.parametrize("statement", ELSEWHERE)
def test_what_no_envoy_runs_is_refused_with_a_remedy(statement: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="--real-openfl"):
        exec(statement, {})


def test_an_import_statement_and_a_pickle_find_the_same_class() -> None:
    from openfl.interface.interactive_api.experiment import (
        TaskInterface,
        TaskKeeper,
    )

    assert TaskInterface is TaskKeeper
    named = b"copenfl.interface.interactive_api.experiment\nTaskKeeper\n."
    assert pickle.loads(named) is TaskKeeper


def test_what_is_not_there_says_what_can_be_done() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"'openfl\.native'; install OpenFL .* --real-openfl"):
        importlib.import_module("openfl.native")
    module = importlib.import_module("openfl.utilities")
    with pytest.raises(AttributeError, match=r"no 'merge_configs' .* only \['LocalTensor'"):
        _ = module.merge_configs


def test_other_packages_are_left_alone_and_all_is_undone() -> None:
    assert importlib.import_module("openfl_aio").__name__ == "openfl_aio"
    importlib.import_module("openfl.utilities")
    install()
    uninstall()
    assert not [name for name in sys.modules if name == "openfl" or name.startswith("openfl.")]
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("openfl")


def test_not_beside_openfl_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    uninstall()
    monkeypatch.setitem(sys.modules, "openfl", ModuleType("openfl"))
    with pytest.raises(RuntimeError, match="OpenFL itself is imported already"):
        install()
