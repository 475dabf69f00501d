"""Every check of the project, one session each. `python -m nox -l` lists them."""

from __future__ import annotations

import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nox
from nox.command import CommandFailed

nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_existing_virtualenvs = True
nox.needs_version = ">=2024.10"

PYPROJECT = nox.project.load_toml("pyproject.toml")
# the classifiers are the one place that says which versions are supported
PYTHONS = [
    classifier.rsplit(" ", 1)[1]
    for classifier in PYPROJECT["project"]["classifiers"]
    if classifier.startswith("Programming Language :: Python :: 3.")
]
# the benchmarks that have grpcio beside ours
NETWORK = (
    "raw_socket.py",
    "upload.py",
    "download.py",
    "fanout.py",
    "small_calls.py",
    "latency_under_load.py",
    "long_poll.py",
)

# the benchmarks that have the real OpenFL beside ours
REAL = ("rounds_of_1_6.py", "upload_from_1_6.py", "experiment_latency.py")
# newer numpy has no `newshape`, which OpenFL uses; torch is for the Eden pipeline of 1.6 and later
OPENFL = {
    "1.5.1": ("openfl==1.5.1", "numpy<2.4"),
    "1.6": ("openfl==1.6", "numpy<2.4", "torch==2.13.0"),
    "1.7.1": ("openfl==1.7.1", "numpy<2.4"),
    "1.8": ("openfl==1.8", "numpy<2.4"),
    "1.9": ("openfl==1.9", "numpy<2.4"),
}
# the first and the last Python 3 that each of them says it supports; of 1.6 what it has in common with this package,
# beside which it runs in one process (by itself it has 3.8 to 3.11)
SUPPORTED = {"1.5.1": (8, 11), "1.6": (11, 11), "1.7.1": (10, 12), "1.8": (10, 12), "1.9": (10, 12)}
# those of which a bounded run of the interop matrix has a case
BOUNDED = ("1.7.1", "1.9")
# tests that compare with the real OpenFL in one process, so that they run in its environment
IN_ONE_PROCESS = (
    "test_pipelines.py",
    "test_aggregation.py",
    "test_own_functions.py",
    "test_frameworks.py",
    "test_stragglers.py",
    "test_assigners.py",
    "test_delta.py",
    "test_plans.py",
)


def install(session: nox.Session, *groups: str) -> None:
    """Install the package as it stands and the named dependency groups."""
    requirements = nox.project.dependency_groups(PYPROJECT, *groups)
    session.install("-e", ".", *requirements)


def interpreter(oldest: int, newest: int) -> str | None:
    """Return a Python from 3.``oldest`` to 3.``newest``: the one that runs nox, else the newest on the PATH that starts."""
    if oldest <= sys.version_info.minor <= newest:
        return sys.executable
    for minor in range(newest, oldest - 1, -1):
        found = shutil.which(f"python3.{minor}")
        # what is found may be a launcher of a version that is not there
        if found and subprocess.run([found, "-c", "import venv, ensurepip"], capture_output=True).returncode == 0:
            return found
    return None


def peer(session: nox.Session, name: str, *requirements: str, base: str = sys.executable) -> str:
    """Return the Python of an environment of its own with ``requirements`` in it: others' software, as a peer to test with.

    Made by ``base`` once and kept beside nox's own environments; changed requirements make it anew.
    """
    folder = Path(session.cache_dir).absolute().parent / "peers" / name
    python, stamp = folder / "bin" / "python", folder / "requirements.txt"
    wanted = "\n".join([*requirements, f"# {base}"])
    if not stamp.is_file() or stamp.read_text() != wanted:
        session.run_install(base, "-m", "venv", "--clear", str(folder), silent=True, external=True)
        session.run_install(str(python), "-m", "pip", "install", "--quiet", *requirements, external=True)
        stamp.write_text(wanted)
    return str(python)


class UnavailableError(Exception):
    """A release of OpenFL cannot be had on this machine, and why."""


def openfl(session: nox.Session, release: str, *more: str, name: str = "openfl") -> str:
    """Return the Python of an environment with a release of OpenFL, on an interpreter that it supports."""
    oldest, newest = SUPPORTED[release]
    base = interpreter(oldest, newest)
    if base is None:
        versions = f"3.{oldest} to 3.{newest}" if oldest < newest else f"3.{oldest}"
        raise UnavailableError(
            f"no Python for OpenFL {release}: it needs {versions}, and the PATH has none that starts"
        )
    try:
        return peer(session, f"{name}-{release}", *OPENFL[release], *more, base=base)
    except CommandFailed:
        raise UnavailableError(f"OpenFL {release} could not be installed with {base}: pip said why") from None


def run_tests(session: nox.Session) -> None:
    """Run the suite; arguments after ``--`` go to pytest."""
    install(session, "test")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the test suite on the interpreter that runs nox."""
    run_tests(session)


@nox.session(python=PYTHONS, name="tests_all")
def tests_all(session: nox.Session) -> None:
    """Run the test suite on every supported Python that is installed."""
    run_tests(session)


@nox.session
def frameworks(session: nox.Session) -> None:
    """Test the adapters of PyTorch, Keras and Flax, each with the framework itself."""
    install(session, "test")
    session.install("-e", ".[torch,keras,flax]")
    folders = ("tests/collaborator/frameworks", "tests/compat_imports")
    session.run("python", "-m", "pytest", *folders, *session.posargs, env={"KERAS_BACKEND": "jax"})


@nox.session
def demo(session: nox.Session) -> None:
    """Run the demonstration; arguments after ``--`` go to it."""
    session.install("-e", ".[demo]")
    session.run("openfl-aio", "demo", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting and the direction of imports."""
    install(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Type-check the package and its tests, strictly."""
    install(session, "types")
    session.run("mypy")


@nox.session
def coverage(session: nox.Session) -> None:
    """Measure branch coverage: 100 % for what decides, a floor for the rest."""
    install(session, "test")
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "combine")
    session.run("coverage", "report", "--skip-covered", "--fail-under=90")
    deciding = ["tensors/*", "wire/*", "aggregator/rounds.py", "aggregator/assigner.py", "aggregator/stragglers.py"]
    deciding += ["collaborator/resolver.py", "director/experiments.py", "director/shards.py", "transport/budgets.py"]
    engine = "blocks budget engine frames headers messages outgoing reader room sender streams windows"
    deciding += [f"transport/http2/{name}.py" for name in engine.split()]
    session.run(
        "coverage", "report", "--fail-under=100", "--include", ",".join(f"openfl_aio/{path}" for path in deciding)
    )


@nox.session
def protos(session: nox.Session) -> None:
    """Regenerate the messages from proto/ and fail if they differ; ``-- --write`` replaces them."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "protos"))
    target = Path("openfl_aio/wire/_generated")
    sources = sorted(str(path) for path in Path("proto").rglob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        options = [f"--python_betterproto2_opt={side}_generation=async" for side in ("server", "client")]
        session.run(
            "python",
            "-m",
            "grpc_tools.protoc",
            "-I",
            "proto",
            f"--python_betterproto2_out={folder}",
            *options,
            *sources,
        )
        if "--write" in session.posargs:
            shutil.rmtree(target)
            shutil.copytree(folder, target)
            return
        fresh = {path.relative_to(folder) for path in Path(folder).rglob("*") if path.is_file()}
        kept = {path.relative_to(target) for path in target.rglob("*") if path.is_file() and path.suffix != ".pyc"}
        differing = sorted(
            str(path)
            for path in fresh | kept
            if path not in fresh
            or path not in kept
            or not filecmp.cmp(Path(folder) / path, target / path, shallow=False)
        )
        if differing:
            session.error(f"generated messages are stale: {', '.join(differing)}; run `nox -s protos -- --write`")


@nox.session
def interop_protobuf(session: nox.Session) -> None:
    """Compare our codec with google-protobuf, both directions."""
    install(session, "test")
    session.install("grpcio-tools>=1.70", "protobuf>=5.29")
    session.run("python", "-m", "pytest", "tests/interop", *session.posargs)


@nox.session
def interop_grpc(session: nox.Session) -> None:
    """Run gRPC's interoperability cases against grpcio, oldest and newest; ``-- --bounded`` for the newest and us alone."""
    install(session, "test", "protos")
    arguments = [argument for argument in session.posargs if argument != "--bounded"]
    if "--bounded" in session.posargs:
        arguments += ["-k", "not test_grpcio_calls_grpcio and not huge_messages"]
    peers = {"newest": peer(session, "interop-newest", "grpcio", "grpcio-tools")}
    if "--bounded" not in session.posargs:
        peers["oldest"] = peer(session, "interop-oldest", "grpcio==1.60.0", "grpcio-tools==1.60.0")
    environment = {"INTEROP_PEERS": ",".join(f"{name}={python}" for name, python in peers.items())}
    session.run("python", "-m", "pytest", "tests/interop_grpc", *arguments, env=environment)


@nox.session(venv_backend="none")
def interop_openfl(session: nox.Session) -> None:
    """Run ours with the real OpenFL, print one matrix of all that ran; ``-- --bounded`` leaves out what is long.

    There are two runs: what compares in one process runs in the environment of OpenFL 1.6, the rest between processes,
    with each release in an environment of its own. A red run does not keep the other from running.
    """
    groups = [*PYPROJECT["project"]["dependencies"], *nox.project.dependency_groups(PYPROJECT, "test")]
    try:
        real = openfl(session, "1.6", *groups)
    except UnavailableError as error:
        session.error(f"{error}; nothing here can run without it")
    # on the same Python, for what frontends pickle; pandas is for a tutorial's functions, which our director runs
    ours = peer(session, "openfl-ours", "-e", ".", *groups, "pandas", base=interpreter(*SUPPORTED["1.6"]) or real)
    bounded = "--bounded" in session.posargs
    arguments = [argument for argument in session.posargs if argument != "--bounded"]
    matrix = Path(session.create_tmp()).absolute() / "matrix.jsonl"
    matrix.unlink(missing_ok=True)
    environment = {"INTEROP_MATRIX": str(matrix), "OPENFL16_PYTHON": real}
    for release in BOUNDED if bounded else [release for release in OPENFL if release != "1.6"]:
        variable = f"OPENFL{release.replace('.', '')}"
        try:
            environment[f"{variable}_PYTHON"] = openfl(session, release)
        except UnavailableError as error:
            environment[f"{variable}_MISSING"] = str(error)
    folder = Path("tests/interop_openfl")
    inside = [str(folder / name) for name in IN_ONE_PROCESS]
    outside = [str(folder), *(f"--ignore={name}" for name in inside), *(["-m", "not full"] if bounded else [])]
    red = []
    for name, python, where in (
        ("in one process", real, ["-W", "ignore", *inside]),
        ("between processes", ours, outside),
    ):
        session.log(f"tests {name}")
        paths = {"PYTHONPATH": str(Path.cwd())} if python == real else {}
        try:
            command = (python, "-m", "pytest", *where, *arguments)
            session.run(*command, external=True, env={**environment, **paths})
        except CommandFailed:
            red.append(name)
    session.run(ours, "-m", "tests.interop_openfl.matrix", str(matrix), external=True)
    if red:
        session.error(f"red: tests {' and '.join(red)}")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure the network beside grpcio: ``-- [--small] [--pairs N] [--only WORD] [--json FOLDER] [SCRIPT ...]``."""
    install(session, "test")  # a benchmark starts the processes of the tests with the real OpenFL
    python = peer(session, "bench", "grpcio", "numpy", "protobuf", "grpcio-tools")
    names = {path.name for path in Path("benchmarks").glob("[!_]*.py")}
    options = list(session.posargs)
    scripts = [name for name in options if name in names] or list(NETWORK)
    options = [option for option in options if option not in names]
    folder = None
    if "--json" in options:
        at = options.index("--json")
        folder = Path(options[at + 1])
        folder.mkdir(parents=True, exist_ok=True)
        del options[at : at + 2]
    for script in scripts:
        more = [] if folder is None else ["--json", str(folder / Path(script).with_suffix(".json"))]
        more += ["--peer-python", python] if script in NETWORK else []
        more += ["--openfl-python", openfl(session, "1.6", name="rounds-openfl")] if script in REAL else []
        session.run("python", f"benchmarks/{script}", *options, *more)


@nox.session
def bench_peers(session: nox.Session) -> None:
    """Measure rounds beside Flower, NVFlare and OpenFL: ``-- [--small] [--tuned] [--only WORD] [--json FILE]``."""
    install(session)
    others = {"flower": ("flwr==1.42.0", "numpy"), "nvflare": ("nvflare==2.9.0", "numpy")}
    peers = [f"--peer={name}={peer(session, f'rounds-{name}', *wanted)}" for name, wanted in others.items()]
    peers += [f"--peer=openfl-{release}={openfl(session, release, name='rounds-openfl')}" for release in ("1.6", "1.9")]
    session.run("python", "benchmarks/rounds_of_peers.py", *peers, *session.posargs)


@nox.session
def bench_smoke(session: nox.Session) -> None:
    """Run each benchmark at a small size, with grpcio beside: does it still run and check its own result?"""
    install(session, "test")
    python = peer(session, "bench", "grpcio", "numpy", "protobuf", "grpcio-tools")
    for script in sorted(Path("benchmarks").glob("[!_]*.py")):
        if script.name == "experiment_latency.py":
            continue  # nothing stands in for the real OpenFL's frontend
        more = ["--peer-python", python] if script.name in NETWORK else []
        session.run("python", str(script), "--small", *more)


@nox.session
def attacks(session: nox.Session) -> None:
    """Attack our own server on the loopback and judge whether it holds; ``-- --bounded`` is what CI runs."""
    install(session, "test")
    session.run("python", "-m", "tests.identity")
    session.run("python", "-m", "tests.attacks", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """Let networks, disks, clocks and processes fail under a federation; ``-- --bounded`` is what CI runs."""
    install(session, "test")
    session.run("python", "-m", "tests.faults", *session.posargs)


@nox.session
def crash(session: nox.Session) -> None:
    """Kill our own servers wherever they write, and judge whether what they answered holds; ``-- --bounded`` for less."""
    install(session, "test")
    session.run("python", "-m", "tests.crash", *session.posargs)


@nox.session
def simulate(session: nox.Session) -> None:
    """Play federations with faults drawn from seeds on virtual time, and judge each; ``-- --bounded`` is what CI runs."""
    install(session, "test")
    session.run("python", "-m", "tests.simulate", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Fuzz what the bytes of a peer reach; ``-- --seconds N`` for all targets together (120 if nothing is said)."""
    install(session, "test")
    # with atheris inputs are found by coverage; where it has no wheel, by chance
    session.run_install("python", "-m", "pip", "install", "--quiet", "atheris", success_codes=[0, 1])
    session.run("python", "-m", "tests.fuzz", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Build the wheel and see that it installs, imports and carries its type marker."""
    session.install("build>=1.2")
    with tempfile.TemporaryDirectory() as folder:
        session.run("python", "-m", "build", "--wheel", "--outdir", folder)
        wheel = next(Path(folder).glob("*.whl"))
        session.install("--force-reinstall", str(wheel))
        session.chdir(folder)
        check = "import importlib.resources as r, openfl_aio; assert (r.files('openfl_aio') / 'py.typed').is_file()"
        session.run("python", "-c", check)
