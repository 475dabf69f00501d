"""Our generated classes for the interoperability protos: made when first asked for, kept until the process ends."""

from __future__ import annotations

import atexit
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

PROTOS = Path(__file__).parent / "protos"
SOURCES = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
PACKAGE = "interop_stubs"


def run_protoc(python: str, *options: str) -> None:
    """Run the compiler in the environment of ``python``. Raises with what it said if it fails."""
    bin_folder = str(Path(python).parent)  # where the compiler looks for its plugins
    done = subprocess.run(
        [python, "-m", "grpc_tools.protoc", "-I", str(PROTOS), *options, *SOURCES],
        env={**os.environ, "PATH": bin_folder + os.pathsep + os.environ.get("PATH", "")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"protoc failed: {done.stderr}")


@cache
def _package() -> str:
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    target = folder / PACKAGE
    target.mkdir()
    options = [f"--python_betterproto2_opt={side}_generation=async" for side in ("server", "client")]
    run_protoc(sys.executable, f"--python_betterproto2_out={target}", *options)
    sys.path.insert(0, str(folder))
    return PACKAGE


def testing() -> Any:
    """Return the module of gRPC's test service."""
    return importlib.import_module(f"{_package()}.grpc.testing")


def probe() -> Any:
    """Return the module of the probe."""
    return importlib.import_module(f"{_package()}.interop")
