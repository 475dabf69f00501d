from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import openfl_aio

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(openfl_aio.__path__, "openfl_aio.")
    if "_generated" not in module.name and not module.name.endswith("__main__") and ".demo.workspace" not in module.name
)
# extras; a missing one is no fault, but nothing else may be missing
FRAMEWORKS = {"pynvml", "torch", "keras", "jax"}


@pytest.mark.parametrize("name", openfl_aio.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    assert getattr(openfl_aio, name).__doc__


def test_what_type_checkers_see_is_what_there_is_at_run_time() -> None:
    tree = ast.parse(Path(openfl_aio.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported == set(openfl_aio.__all__)
    assert dir(openfl_aio) == sorted(openfl_aio.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        openfl_aio.Nothing  # noqa: B018


@pytest.mark.parametrize("name", MODULES)
def test_a_module_defines_what_it_exports(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name not in FRAMEWORKS:
            raise
        pytest.skip(f"{exc.name} is not installed")
    assert module.__doc__
    exported = getattr(module, "__all__", [])
    assert len(set(exported)) == len(exported)
    assert [missing for missing in exported if not hasattr(module, missing)] == []


def test_importing_the_package_loads_no_server_and_no_database() -> None:
    check = "import sys, openfl_aio; sys.exit(any(m in sys.modules for m in ('sqlalchemy', 'grpclib', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", check], check=False, timeout=30).returncode == 0
