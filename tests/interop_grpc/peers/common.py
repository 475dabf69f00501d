"""What the peers' programs share. They run in an environment of their own: grpcio and protobuf, nothing of ours."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

# imported by name: only the peers' environments have it, and no type checker needs to
grpc: Any = importlib.import_module("grpc")

UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


def arguments(description: str | None) -> argparse.Namespace:
    """Return the command line and make the generated modules importable."""
    parser = argparse.ArgumentParser(description=description)
    for name in ("stubs", "ca", "certificate", "key"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    sys.path.insert(0, str(options.stubs))
    return options


def say(**what: Any) -> None:
    """Write one line of JSON for the program that started this one."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()
