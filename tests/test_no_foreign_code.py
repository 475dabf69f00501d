"""A server process neither unpickles nor imports what came over the wire: every call that could is listed here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import openfl_aio

PACKAGE = Path(openfl_aio.__file__).parent

# what turns bytes or text into running code, wherever it is taken from
NAMES = {"eval", "exec", "compile", "__import__"}
MODULES = {
    "cloudpickle",
    "code",
    "ctypes",
    "dill",
    "imp",
    "importlib",
    "joblib",
    "marshal",
    "multiprocessing",
    "pickle",
    "pkgutil",
    "runpy",
    "shelve",
    "subprocess",
}
ATTRIBUTES = {
    ("os", "system"),
    ("os", "popen"),
    ("anyio", "open_process"),
    ("anyio", "run_process"),
    ("asyncio", "create_subprocess_exec"),
    ("asyncio", "create_subprocess_shell"),
}
PREFIXES = (("os", "exec"), ("os", "spawn"), ("os", "posix_spawn"), ("os", "fork"))

OURS = "a name of our own, from a table in the source"
CHILD = "runs in a child process only"
STARTS = "starts a child process with a fixed command"

ALLOWED = {
    "__init__": {"importlib": OURS},
    "cli.roles": {"importlib": OURS},
    "collaborator.templates": {"importlib": "the collaborator's own plan, or a child process of an envoy"},
    "compat.__init__": {"importlib": OURS},
    "compat.imports.adapters": {"importlib": CHILD},
    "compat.imports.finder": {"importlib": CHILD},
    "compat.imports.plugins": {"importlib": CHILD},
    "confinement.guardian": {"ctypes": "prctl of the C library", "os.execv": STARTS, "os.fork": STARTS},
    "confinement.process": {"anyio.open_process": STARTS},
    "demo.processes": {"anyio.open_process": STARTS},
    "compat.imports.optimizers": {"importlib": CHILD},
    "director.foreign": {"subprocess": "names of pipes"},
    "director.pickled_child": {"importlib": CHILD, "pickle": CHILD},
    "envoy.child": {"importlib": CHILD},
    "envoy.process_runner": {"subprocess": "names of pipes"},
    "transport.http2.memory": {"ctypes": "malloc_trim of the C library"},
}
CHILDREN = {module for module, found in ALLOWED.items() if CHILD in found.values()}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def trees() -> dict[str, ast.Module]:
    return {module_name(path): ast.parse(path.read_text(), str(path)) for path in sorted(PACKAGE.rglob("*.py"))}


def dangerous(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from (alias.name.split(".")[0] for alias in node.names if alias.name.split(".")[0] in MODULES)
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in MODULES:
                yield module.split(".")[0]
            case ast.ImportFrom(module="os", names=names):
                yield from (f"os.{alias.name}" for alias in names if is_dangerous("os", alias.name))
            case ast.Name(id=name) if name in NAMES:
                yield name
            case ast.Attribute(value=ast.Name(id=owner), attr=attribute) if is_dangerous(owner, attribute):
                yield f"{owner}.{attribute}"
            case ast.keyword(arg="shell" | "allow_pickle", value=ast.Constant(value=False)):
                pass
            case ast.keyword(arg="shell" | "allow_pickle" as argument):
                yield f"{argument}="
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="yaml"), attr="load" | "unsafe_load" | "full_load" as how)
            ):
                yield f"yaml.{how}"


def is_dangerous(owner: str, attribute: str) -> bool:
    return (owner, attribute) in ATTRIBUTES or any(
        owner == module and attribute.startswith(prefix) for module, prefix in PREFIXES
    )


def imported(tree: ast.Module, module: str, known: set[str]) -> set[str]:
    """Return which modules of the package ``tree`` imports, however deep in a function."""
    found = set()
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            short = name.removeprefix("openfl_aio.")
            found.update({short, f"{short}.__init__"} & known)
    return found - {module}


def test_whatever_could_run_foreign_code_is_known_and_has_a_reason() -> None:
    found = {module: sorted(set(dangerous(tree))) for module, tree in trees().items()}
    listed = {module: sorted(reasons) for module, reasons in ALLOWED.items()}
    assert {module: names for module, names in found.items() if names} == listed


@pytest.mark.parametrize("server", ["aggregator.run", "director.run"])
def test_a_server_imports_nothing_of_its_children(server: str) -> None:
    parsed = trees()
    reached, todo = set(), [server]
    while todo:
        module = todo.pop()
        if module not in reached:
            reached.add(module)
            todo.extend(imported(parsed[module], module, set(parsed)))
    assert len(reached) > 50, "the walk along the imports has lost its way"
    assert not reached & CHILDREN
    assert "collaborator.templates" not in reached


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("eval('1')", ["eval"]),
        ("from pickle import loads", ["pickle"]),
        ("import importlib.util", ["importlib"]),
        ("from os import system", ["os.system"]),
        ("os.execvp('sh', [])", ["os.execvp"]),
        ("run('ls', shell=True)", ["shell="]),
        ("numpy.load(path, allow_pickle=flag)", ["allow_pickle="]),
        ("numpy.load(path, allow_pickle=False)", []),
        ("yaml.load(text)", ["yaml.load"]),
        ("re.compile('a')", []),
    ],
)
def test_the_search_finds_what_it_is_for(source: str, names: list[str]) -> None:
    assert list(dangerous(ast.parse(source))) == names
