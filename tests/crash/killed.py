"""The process that is killed: a module of openfl_aio, run as by ``python -m``, with failpoints under it.

``python -m tests.crash.killed OPTIONS MODULE [ARGUMENT …]``. ``OPTIONS`` is JSON: ``record`` is a file to which the name
of each failpoint that is reached is appended, ``kill`` a name and the how-manieth time, ``except`` names of which each
other kills. All may be missing.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

from tests.crash.failpoints import Failpoints


def main() -> None:
    options = json.loads(sys.argv[1])
    record, kill = options.get("record"), options.get("kill")
    if "except" in options:
        end: tuple[str, int] | frozenset[str] | None = frozenset(options["except"])
    else:
        end = None if kill is None else (kill[0], kill[1])
    Failpoints(None if record is None else Path(record), end).install()
    sys.argv[:] = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
