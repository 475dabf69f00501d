"""What the benchmarks share: interleaved timing of two candidates, medians and ratios, a machine record, JSON.

Two candidates are timed alternately in one process, pair by pair, and the order within a pair changes each time: a
machine that slows down, or a neighbour that wakes up, then hits both. The figure to quote is the ratio, the median of
the ratios of the pairs; seconds depend on the machine.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["Candidate", "Comparison", "arguments", "compare", "expect", "machine", "options_of", "report"]

_PACKAGES = ("openfl-aio", "betterproto2", "grpclib", "numpy")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to do the job. ``run`` takes nothing; what it returns is dropped."""

    name: str
    run: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The seconds that one call took, pair by pair. ``nbytes`` is what a call processes, for a rate (0: no rate)."""

    case: str
    baseline: str
    candidate: str
    nbytes: int
    baseline_seconds: tuple[float, ...]
    candidate_seconds: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """How many times as fast as the baseline the candidate was, sorted."""
        pairs = zip(self.baseline_seconds, self.candidate_seconds, strict=True)
        return sorted(baseline / candidate for baseline, candidate in pairs)

    def summary(self) -> dict[str, Any]:
        """Return what is printed and written: seconds, MiB/s, and the ratio's median, lowest and highest."""
        ratios = self.ratios
        values: dict[str, Any] = {"case": self.case, "baseline": self.baseline, "candidate": self.candidate}
        for role, seconds in (("baseline", self.baseline_seconds), ("candidate", self.candidate_seconds)):
            middle = statistics.median(seconds)
            values[f"{role}_seconds"] = middle
            values[f"{role}_seconds_min"] = min(seconds)
            values[f"{role}_mib_per_second"] = self.nbytes / middle / 2**20 if self.nbytes else None
        values |= {"pairs": len(ratios), "ratio": statistics.median(ratios), "ratio_min": ratios[0]}
        values["ratio_max"] = ratios[-1]
        return values


def options_of(description: str | None, *, rounds: int = 15) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has: ``small``, ``pairs``, ``json``."""
    parser = argparse.ArgumentParser(description=(description or "").strip().splitlines()[0])
    parser.add_argument("--small", action="store_true", help="tiny sizes and few pairs: does it run, is it right?")
    parser.add_argument(
        "--pairs", type=int, default=0, metavar="N", help=f"pairs or rounds to time ({rounds}, or few with --small)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result and the machine record there")
    return parser


def arguments(description: str | None) -> argparse.Namespace:
    """Parse the options that every benchmark has."""
    parser = options_of(description)
    options = parser.parse_args()
    if options.pairs < 0:
        parser.error(f"--pairs: expected 1 or more, got {options.pairs}")
    options.pairs = options.pairs or (3 if options.small else 15)
    return options


def expect(condition: bool, message: str) -> None:
    """End the benchmark with ``message`` unless the result is right: a wrong answer has no speed."""
    if not condition:
        sys.exit(f"wrong result: {message}")


def compare(
    case: str, baseline: Candidate, candidate: Candidate, *, pairs: int, nbytes: int = 0, sample_seconds: float = 0.02
) -> Comparison:
    """Time ``pairs`` interleaved pairs, after a warm-up of both. A sample repeats its call for ``sample_seconds``."""
    calls = {one.name: _calls(one.run, sample_seconds) for one in (baseline, candidate)}
    seconds: dict[str, list[float]] = {baseline.name: [], candidate.name: []}
    for number in range(pairs):
        for one in (baseline, candidate) if number % 2 == 0 else (candidate, baseline):
            seconds[one.name].append(_sample(one.run, calls[one.name]))
    return Comparison(
        case, baseline.name, candidate.name, nbytes, tuple(seconds[baseline.name]), tuple(seconds[candidate.name])
    )


def _calls(run: Callable[[], object], sample_seconds: float) -> int:
    """Warm up, and return how many calls fill a sample."""
    _sample(run, 1)
    return max(1, round(sample_seconds / max(_sample(run, 3), 1e-9)))


def _sample(run: Callable[[], object], calls: int) -> float:
    """Return the seconds of one call, the mean of ``calls`` in a row, with the garbage collector held back."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return (time.perf_counter() - start) / calls
    finally:
        if enabled:
            gc.enable()


def machine() -> dict[str, Any]:
    """Return what the figures depend on: processor, memory, system, versions."""
    return {
        "processor": _processor(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def report(
    title: str,
    comparisons: Sequence[Comparison],
    options: argparse.Namespace,
    *,
    extra: Mapping[str, float] | None = None,
) -> None:
    """Print one table, and write the JSON file if one was asked for. ``extra`` are figures that are no times."""
    record = machine()
    summaries = [comparison.summary() for comparison in comparisons]
    print(title)
    print(f"{record['processor']}, {record['cpus']} CPUs, {record['python']}, {record['system']}")
    rows = [("case", "candidate", "baseline", "candidate ms", "baseline ms", "MiB/s", "times as fast")]
    for one in summaries:
        rate = one["candidate_mib_per_second"]
        rows.append(
            (
                one["case"],
                one["candidate"],
                one["baseline"],
                f"{one['candidate_seconds'] * 1e3:.4f}",
                f"{one['baseline_seconds'] * 1e3:.4f}",
                "" if rate is None else f"{rate:.0f}",
                f"{one['ratio']:.2f} ({one['ratio_min']:.2f} to {one['ratio_max']:.2f})",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for name, value in (extra or {}).items():
        print(f"{name}: {value:.1f}")
    if options.json is not None:
        result = {"title": title, "small": options.small, "machine": record, "comparisons": summaries}
        if extra:
            result["extra"] = dict(extra)
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
