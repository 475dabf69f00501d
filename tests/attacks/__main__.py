"""Attack our own server on this machine, with bounded effort, and judge whether it keeps its promises.

``python -m tests.attacks [--seconds 5] [--only NAME …] [--link plaintext|mtls] [--bounded] [--json FILE]``

Each attack gets a server of its own (with ``--bounded`` they share one), an honest client beside it, and one
attacking process of one thread. Everything listens on the loopback. The exit code is 1 if any promise was broken.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from openfl_aio.testing.ca import ThrowawayCA
from tests.attacks import drain
from tests.attacks.attacker import ATTACKS
from tests.attacks.catalogue import MTLS, PLAINTEXT, Attack
from tests.attacks.processes import ROOT, Helper, Peak, processor_seconds, resident, until_quiet
from tests.attacks.table import heading, row
from tests.attacks.verdicts import Promises, Seen, judge

NAMES = ("one", "two", "three")
SETTLE_SECONDS = 5.0
BOUNDED_SECONDS = 1.0


class Arena:
    """Makes servers and honest clients, and plays attacks between them."""

    def __init__(self, folder: Path, seconds: float, *, bounded: bool) -> None:
        self.folder = folder
        self.seconds = seconds
        self.bounded = bounded
        self.promises = Promises(slack=4.0 if bounded else 1.0)
        self.ca = ThrowawayCA(folder / "certificates")
        self.clients = self.ca.layout.client("one").certificate.parent
        for name in NAMES:
            self.ca.client(name)
        self._stack = ExitStack()
        self._honest: dict[str, Helper] = {}
        self._servers: dict[str, tuple[Helper, dict[str, Any]]] = {}
        self._count = 0

    def close(self) -> None:
        self._stack.close()

    def tls(self, link: str, name: str | None = None) -> dict[str, str] | None:
        """Return certificate paths of the server, or of the client ``name``; None for plaintext."""
        if link == PLAINTEXT:
            return None
        config = self.ca.server() if name is None else self.ca.client(name)
        return {"ca": str(config.ca), "certificate": str(config.certificate), "private_key": str(config.private_key)}

    def honest(self, link: str) -> Helper:
        """Return the honest client, which serves for all attacks."""
        if link not in self._honest:
            helper = Helper("honest", {"tls": self.tls(link, "two")}, self.folder / f"honest-{link}.log")
            self._stack.callback(helper.end)
            helper.hear()
            self._honest[link] = helper
        return self._honest[link]

    @contextmanager
    def server(self, attack: Attack, link: str, *, alone: bool = False) -> Iterator[tuple[Helper, dict[str, Any]]]:
        """Give a server and its ports: a new one, or with ``bounded`` the common one if it is an ordinary one."""
        common = self.bounded and not attack.limits and attack.files is None and not alone
        if common and link in self._servers and self._servers[link][0].process.poll() is None:
            yield self._servers[link]
            return
        self._count += 1
        workspace = self.folder / f"server-{self._count}"
        workspace.mkdir()
        options = {"tls": self.tls(link), "workspace": str(workspace), "limits": attack.limits, "files": attack.files}
        helper = Helper("served", options, workspace / "log")
        try:
            ports = helper.hear()
            if common:
                self._servers[link] = (helper, ports)
                self._stack.callback(helper.end)
            yield helper, ports
        finally:
            if not common:
                helper.end()

    def play(self, attack: Attack, link: str, *, tries: int) -> Seen:
        """Play one attack and measure; again if only times were broken, which a busy machine breaks too."""
        for number in range(1, tries + 1):
            try:
                seen = self.play_once(attack, link)
            except (RuntimeError, subprocess.TimeoutExpired) as exc:  # the others are to be seen nevertheless
                seen = Seen(attack.name, link, self.seconds, broken=[f"not measured: {exc}"])
            seen.tries = number
            if not seen.broken or not seen.only_times:
                break
        return seen

    def play_once(self, attack: Attack, link: str) -> Seen:
        """Play one attack and measure."""
        seconds = max(self.seconds, attack.lasts)
        honest = self.honest(link)
        with self.server(attack, link) as (server, ports):
            port = ports[attack.service]
            honest.ask(do="begin", port=port, service=attack.service)
            time.sleep(0.3)
            honest.ask(do="end")  # imports, certificates and code paths are warm now
            log_start = server.log.stat().st_size
            idle, busy = resident(server.pid), processor_seconds(server.pid)
            seen = Seen(attack.name, link, seconds)
            with Peak(server.pid) as peak:
                honest.ask(do="begin", port=port, service=attack.service)
                server.ask(do="begin")
                seen.attacker = self._attack(attack, link, port, seconds)
                if server.process.poll() is not None:
                    seen.alive = False
                else:
                    stalls = server.ask(do="tell", seconds=60)
                    seen.stall, seen.stall_by_clock = stalls["stall"], stalls["stall_by_clock"]
                    seen.starved = stalls["starved"]
                seen.honest = honest.ask(do="end", seconds=60)
            seen.processor = processor_seconds(server.pid) - busy
            seen.memory_peak = peak.highest - idle
            seen.memory_after = (
                until_quiet(server.pid, SETTLE_SECONDS, below=idle + self.promises.memory_after / 2) - idle
            )
            with server.log.open("rb") as log:
                log.seek(log_start)
                written = log.read()
            seen.log_bytes, seen.traceback = len(written), b"Traceback" in written
            if seen.traceback or "--keep-logs" in sys.argv:
                (self.folder / f"{attack.name}-{link}.log").write_bytes(written[:200_000])
        seen.broken = judge(attack, seen, self.promises)
        return seen

    def _attack(self, attack: Attack, link: str, port: int, seconds: float) -> dict[str, Any]:
        command = [sys.executable, "-m", "tests.attacks.attacker", attack.name, str(port), str(seconds)]
        if link == MTLS:
            command.append(str(self.clients))
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds + 60, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"the attacker {attack.name} failed: {done.stderr[-3000:]}")
        record: dict[str, Any] = json.loads(done.stdout)
        return record


def chosen(options: argparse.Namespace) -> list[tuple[Attack, str]]:
    """Return the attacks to play, each with its link."""
    unknown = set(options.only) - set(ATTACKS) - set(drain.CHECKS)
    if unknown:
        raise SystemExit(
            f"--only: unknown {', '.join(sorted(unknown))}; known are {', '.join([*ATTACKS, *drain.CHECKS])}"
        )
    return [
        (attack, link)
        for link in (PLAINTEXT, MTLS)
        if options.link in (None, link)
        for attack in ATTACKS.values()
        if link in attack.links
        and (attack.name in options.only if options.only else not options.bounded or link in attack.bounded)
    ]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.attacks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=None, help="of each attack (5; 1 with --bounded)")
    parser.add_argument("--tries", type=int, default=3, help="of an attack that broke nothing but latencies (3)")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="play only these attacks and checks")
    parser.add_argument("--link", choices=(PLAINTEXT, MTLS), help="play over this only")
    parser.add_argument("--bounded", action="store_true", help="a choice of attacks, a second each, looser times")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was seen there")
    parser.add_argument("--folder", type=Path, help="keep logs and workspaces in this folder")
    parser.add_argument(
        "--keep-logs", action="store_true", help="keep every server log, not only those with a traceback"
    )
    parser.add_argument("--list", action="store_true", help="list the attacks and end")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    if options.list:
        for attack in ATTACKS.values():
            sys.stdout.write(f"{attack.name:28} {attack.what}\n")
        for name, check in drain.CHECKS.items():
            sys.stdout.write(f"{name:28} {(check.__doc__ or '').splitlines()[0]}\n")
        return 0
    seconds = options.seconds or (BOUNDED_SECONDS if options.bounded else 5.0)
    everything: list[Seen] = []
    sys.stdout.write(heading() + "\n")
    with tempfile.TemporaryDirectory(prefix="attacks-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        arena = Arena(folder, seconds, bounded=options.bounded)
        try:
            for attack, link in chosen(options):
                seen = arena.play(attack, link, tries=options.tries)
                everything.append(seen)
                sys.stdout.write(row(seen) + "\n")
                sys.stdout.flush()
            failed_checks = drain.run(arena, options)
        finally:
            arena.close()
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(seen) for seen in everything], indent=1) + "\n")
    failed = [seen for seen in everything if seen.broken]
    for seen in failed:
        sys.stdout.write(f"BROKEN {seen.attack} ({seen.link}): {'; '.join(seen.broken)}\n")
    sys.stdout.write(f"{len(everything) - len(failed)} of {len(everything)} attacks came to nothing\n")
    return 1 if failed or failed_checks else 0


if __name__ == "__main__":
    sys.exit(main())
