"""The process that attacks: one attack, one thread, within bounds. Prints its record as JSON.

``python -m tests.attacks.attacker NAME PORT SECONDS [CERTIFICATES]``. It imports nothing of the server's.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from tests.attacks import connections, contents, floods, heads, hoards, hostile, ours
from tests.attacks.catalogue import ATTACKS, Stage
from tests.attacks.wire import Target

__all__ = ["ATTACKS"]

MODULES = (floods, heads, hoards, contents, hostile, ours, connections)  # importing them fills the list
MEMORY_BYTES = 512 * 2**20


def main() -> None:
    name, port, seconds, *certificates = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    target = Target("127.0.0.1", int(port), Path(certificates[0]) if certificates else None)
    stage = Stage(target, float(seconds))
    ATTACKS[name].play(stage)
    sys.stdout.write(json.dumps(stage.report()) + "\n")


if __name__ == "__main__":
    main()
