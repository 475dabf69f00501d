"""Makes ``import openfl.…`` find our classes: a finder on the meta path that knows a table of names and nothing else."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final

from openfl_aio.compat.imports.names import MODULES, ROOT

__all__ = ["install", "uninstall"]

_REMEDY: Final = (
    "install OpenFL in the envoy's environment and start the envoy with --real-openfl, if the experiment needs it"
)


class _Names(MetaPathFinder, Loader):
    """Finds and makes the modules of the table. A name is looked up when it is used, so no framework is imported early."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != ROOT and not fullname.startswith(f"{ROOT}."):
            return None
        if fullname not in MODULES:
            raise ModuleNotFoundError(f"openfl_aio has nothing in the place of {fullname!r}; {_REMEDY}", name=fullname)
        package = any(other.startswith(f"{fullname}.") for other in MODULES)
        return ModuleSpec(fullname, self, origin="openfl_aio", is_package=package)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None  # an ordinary one

    def exec_module(self, module: ModuleType) -> None:
        names = MODULES[module.__name__]

        def find(name: str) -> Any:
            if name not in names:
                raise AttributeError(
                    f"openfl_aio has no {name!r} in the place of {module.__name__!r}, only {sorted(names)}; {_REMEDY}",
                    name=name,
                    obj=module,
                )
            where, _, attribute = names[name].partition(":")
            found = getattr(import_module(where), attribute)
            setattr(module, name, found)
            return found

        module.__dict__.update(__all__=sorted(names), __getattr__=find)


_FINDER: Final = _Names()


def install() -> None:
    """Let ``openfl`` and what is below it be ours in this process, also where OpenFL is installed.

    Raises `RuntimeError` if OpenFL itself was imported before: a process must not have both.
    """
    loaded = sys.modules.get(ROOT)
    if loaded is not None and getattr(loaded, "__loader__", None) is not _FINDER:
        raise RuntimeError(f"OpenFL itself is imported already, from {getattr(loaded, '__file__', '?')}")
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


def uninstall() -> None:
    """Take the names away again: for tests, which share a process."""
    if _FINDER in sys.meta_path:
        sys.meta_path.remove(_FINDER)
    for name in [name for name, module in sys.modules.items() if getattr(module, "__loader__", None) is _FINDER]:
        del sys.modules[name]
