"""One collaborator of the job in a process of its own: ``python -m tests.faults.member OPTIONS``."""

from __future__ import annotations

import json
import sys

import anyio

from openfl_aio.config import Endpoint
from tests.faults.job import take_part
from tests.faults.networks import QUICK_JOB
from tests.faults.processes import say, tls_of

__all__ = ["main"]


def main() -> None:
    options = json.loads(sys.argv[1])
    config = QUICK_JOB.collaborator(
        options["name"], options["ids"], Endpoint(port=options["port"]), tls_of(options.get("tls"))
    )

    async def work() -> None:
        await take_part(config, seconds=options["seconds"])

    say({})
    anyio.run(work)
    say({"over": True})


if __name__ == "__main__":
    main()
