"""Let networks, disks, clocks and processes fail under a federation on this machine, and judge what comes out.

``python -m tests.faults [--bounded] [--seed N] [--only WORD …] [--link plaintext|mtls]``

A job of six rounds and three collaborators must end with the model that it has without faults, equal to the last bit,
and each result must count exactly once. Everything listens on the loopback. The exit code is 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path

import anyio

from openfl_aio.testing.ca import ThrowawayCA
from tests.faults import hosts, networks
from tests.faults.director import OWNER
from tests.faults.hosts import HOSTS
from tests.faults.job import NAMES
from tests.faults.networks import MTLS, NETWORKS, PLAINTEXT
from tests.faults.table import Seen, heading, row


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bounded", action="store_true", help="fewer and gentler faults: what CI plays")
    parser.add_argument("--seed", type=int, default=None, help="of everything that is drawn; a new one each time")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="faults with one of these in their name")
    parser.add_argument("--link", choices=(PLAINTEXT, MTLS), help="play over this only")
    parser.add_argument("--list", action="store_true", help="list the faults and end")
    return parser.parse_args()


def through_networks(options: argparse.Namespace, ca: ThrowawayCA, seed: int) -> Iterator[Seen]:
    """Play the faults of networks."""
    expected: dict[int, str] = {}
    for link in (PLAINTEXT, MTLS):
        for fault in NETWORKS.values():
            if not wanted(options, fault.name, link) or (options.bounded and fault.bounded is None):
                continue
            elements = fault.job.elements
            if elements not in expected:
                expected[elements] = anyio.run(networks.reference, fault.job)
            for time in range(1 if options.bounded else fault.times):
                yield anyio.run(
                    partial(
                        networks.play,
                        fault,
                        link,
                        ca,
                        seed=seed + time,
                        bounded=options.bounded,
                        expected=expected[elements],
                    )
                )


def on_hosts(options: argparse.Namespace, ca: ThrowawayCA, seed: int, folder: Path) -> Iterator[Seen]:
    """Play the faults of hosts."""
    for host in HOSTS.values():
        for link in host.links:
            if wanted(options, host.name, link) and (host.bounded or not options.bounded):
                expected = anyio.run(networks.reference, host.job)
                yield anyio.run(
                    partial(
                        hosts.play,
                        host,
                        link,
                        ca,
                        seed=seed,
                        bounded=options.bounded,
                        expected=expected,
                        folder=folder / f"{host.name}-{link}",
                    )
                )


def wanted(options: argparse.Namespace, name: str, link: str) -> bool:
    return options.link in (None, link) and (not options.only or any(word in name for word in options.only))


def total(everything: list[Seen], name: str) -> int:
    return sum(seen.counts.get(name, 0) for seen in everything)


def main() -> int:
    options = arguments()
    if options.list:
        for name, what in [(one.name, one.what) for one in NETWORKS.values()] + [
            (one.name, one.what) for one in HOSTS.values()
        ]:
            sys.stdout.write(f"{name:20} {what}\n")
        return 0
    logging.getLogger("openfl_aio").addHandler(logging.NullHandler())
    logging.getLogger("openfl_aio").propagate = False
    seed = random.randrange(10**6) if options.seed is None else options.seed
    sys.stdout.write(f"seed {seed}\n{heading()}\n")
    everything: list[Seen] = []
    with tempfile.TemporaryDirectory(prefix="faults-") as temporary:
        ca = ThrowawayCA(Path(temporary) / "certificates")
        for name in (*NAMES, OWNER):
            ca.client(name)
        played = chain(through_networks(options, ca, seed), on_hosts(options, ca, seed, Path(temporary)))
        for seen in played:
            everything.append(seen)
            sys.stdout.write(row(seen) + "\n")
            sys.stdout.flush()
    broken = [seen for seen in everything if seen.broken]
    judged = [seen for seen in everything if not seen.skipped]
    for seen in broken:
        sys.stdout.write(f"BROKEN {seen.fault} ({seen.link}): {'; '.join(seen.broken)}\n")
    totals = ", ".join(
        f"{total(everything, name)} {name}" for name in ("cuts", "lost", "holes", "full", "pauses", "jumps")
    )
    sys.stdout.write(f"{totals}\n{len(judged) - len(broken)} of {len(judged)} jobs ended as if nothing had happened\n")
    return 1 if broken or not judged else 0


if __name__ == "__main__":
    sys.exit(main())
