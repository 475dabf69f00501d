"""``python -m tests.fuzz [--seconds N] [--only TARGET] [--seed N]``: fuzz every target for a share of the time.

With atheris installed inputs are found by coverage; without it by spoiling the seeds at random.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WITH_ATHERIS = importlib.util.find_spec("atheris") is not None
INSTRUMENTED = ["openfl_aio.transport.http2", "openfl_aio.wire", "hpack"]


def by_chance(name: str, seconds: float, seed: int) -> None:
    """Run one target on spoiled seeds; a failure is raised after the input was printed."""
    from tests.fuzz.seeds import seeds, spoil
    from tests.fuzz.targets import TARGETS

    chance, target, kept = random.Random(seed), TARGETS[name], seeds(name)
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        data = spoil(chance, chance.choice(kept), kept)
        try:
            target(data)
        except BaseException:
            sys.stderr.write(f"{name} failed on {data.hex()}\n")
            raise
        count += 1
    sys.stdout.write(f"{name}: {count} inputs in {seconds:.0f} s, seed {seed}\n")


def by_coverage(name: str, seconds: float, seed: int, corpus: Path) -> None:
    """Run one target under atheris, which ends the process."""
    import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore] # in a session of its own

    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzz.seeds import seeds
        from tests.fuzz.targets import TARGETS
    for number, data in enumerate(seeds(name)):
        (corpus / f"seed-{number}").write_bytes(data)
    options = [f"-max_total_time={max(1, round(seconds))}", "-max_len=131072", f"-seed={seed or 1}", "-verbosity=1"]
    options += ["-rss_limit_mb=1024", "-timeout=10", f"-artifact_prefix={corpus}/failed-", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], TARGETS[name])
    atheris.Fuzz()


def run(name: str, seconds: float, seed: int, *, coverage: bool) -> bool:
    """Run one target in a process of its own; return whether nothing was found. What was found is printed."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.fuzz", "--target", name, "--seconds", str(seconds), "--seed", str(seed)]
        command += ["--corpus", folder] if coverage else []
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120)
        failed = list(Path(folder).glob("failed-*"))
        if done.returncode == 0 and not failed:
            statistics = [line for line in done.stderr.splitlines() if "number_of_executed_units" in line]
            found = f"{name}: {statistics[0].split()[-1]} inputs by coverage\n" if statistics else done.stdout
            sys.stdout.write(found)
            sys.stdout.flush()
            return True
        sys.stdout.write(f"{name} FAILED\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}\n")
        for path in failed:
            sys.stdout.write(f"input: {path.read_bytes().hex()}\n")
        return False


def main() -> int:
    """Fuzz, and return an exit code: 1 if anything was found."""
    from tests.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="for all targets together")
    parser.add_argument("--only", choices=sorted(TARGETS), help="one target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-atheris", action="store_true", help="spoil seeds at random even if atheris is there")
    arguments = parser.parse_args()
    names = [arguments.only] if arguments.only else list(TARGETS)
    coverage = WITH_ATHERIS and not arguments.no_atheris
    share = arguments.seconds / len(names)
    good = [run(name, share, arguments.seed, coverage=coverage) for name in names]
    return 0 if all(good) else 1


def one_target() -> None:
    """Run the one target that the command line names, in this process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--corpus", type=Path)
    arguments = parser.parse_args()
    if arguments.corpus is None:
        by_chance(arguments.target, arguments.seconds, arguments.seed)
    else:
        by_coverage(arguments.target, arguments.seconds, arguments.seed, arguments.corpus)


if __name__ == "__main__":
    if "--target" in sys.argv:
        one_target()
    else:
        sys.exit(main())
