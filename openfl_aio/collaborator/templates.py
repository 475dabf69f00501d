"""Classes named in plans and configuration files: found and imported, with a clear sentence for each way it can fail."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

from openfl_aio.errors import ConfigurationError

__all__ = ["import_class", "split_template"]

_TEMPLATE = re.compile(r"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)[.:](?P<name>[A-Za-z_]\w*)")


def split_template(template: str, *, what: str) -> tuple[str, str]:
    """Return module and class name of ``"module.Class"`` or ``"module:Class"``. Raises `ConfigurationError`."""
    match = _TEMPLATE.fullmatch(template)
    if match is None:
        raise ConfigurationError(f"{what} {template!r} names no class; write 'module.Class' or 'module:Class'")
    return match["module"], match["name"]


def import_class(template: str, *, path: Path | None, what: str) -> type[Any]:
    """Import the class that ``template`` names; ``path`` is a folder that is importable from now on.

    Runs foreign code: only for the process that is meant to run it. Raises `ConfigurationError` if the module or
    class is absent, or if the module raises while it is imported.
    """
    module_name, name = split_template(template, what=what)
    if path is not None and str(path) not in sys.path:
        sys.path.insert(0, str(path))
        importlib.invalidate_caches()
    where = "the Python path" if path is None else str(path)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (module_name == exc.name or module_name.startswith(f"{exc.name}.")):
            raise ConfigurationError(f"{what} {template!r}: no module {module_name!r} in {where}") from None
        raise ConfigurationError(
            f"{what} {template!r}: module {module_name!r} needs {exc.name!r}, which is not installed here"
        ) from exc
    except Exception as exc:
        raise ConfigurationError(
            f"{what} {template!r}: importing {module_name!r} raised {type(exc).__name__}: {exc}"
        ) from exc
    found = getattr(module, name, None)
    if not isinstance(found, type):
        classes = sorted(key for key, value in vars(module).items() if isinstance(value, type))
        raise ConfigurationError(
            f"{what} {template!r}: module {module_name!r} has no class {name!r}, only {', '.join(classes) or 'none'}"
        )
    return found
