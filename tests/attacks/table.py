"""The table of what was seen, one line an attack."""

from __future__ import annotations

from tests.attacks.verdicts import Seen

COLUMNS = (
    ("attack", 27),
    ("link", 9),
    ("kept %", 6),
    ("p99 ms", 6),
    ("fresh %", 7),
    ("p99 ms", 6),
    ("noise ms", 8),
    ("stall ms", 8),
    ("peak MiB", 8),
    ("after", 6),
    ("CPU s", 5),
    ("log KiB", 7),
    ("verdict", 7),
    ("ended by", 8),
)


def heading() -> str:
    """Return the line above the table."""
    return _line([name for name, _ in COLUMNS])


def row(seen: Seen) -> str:
    """Return the line of one attack."""
    kept, fresh = seen.honest.get("kept", {}), seen.honest.get("fresh", {})
    verdict = "ok" if not seen.broken else " ".join(dict.fromkeys(text.partition(":")[0] for text in seen.broken))
    return _line(
        [
            seen.attack,
            seen.link,
            _number(kept.get("good")),
            _number(kept.get("p99")),
            _number(fresh.get("good")),
            _number(fresh.get("p99")),
            _number(seen.noise),
            _number(seen.stall * 1e3),
            f"{seen.memory_peak:+.0f}",
            f"{seen.memory_after:+.0f}",
            f"{seen.processor:.1f}",
            _number(seen.log_bytes / 1024) + ("!" if seen.traceback else ""),
            verdict + (f" ({seen.tries})" if seen.tries > 1 else ""),
            ended(seen),
        ]
    )


def ended(seen: Seen) -> str:
    """Say how connections and calls ended, the most frequent first."""
    both = {**seen.attacker.get("endings", {}), **seen.attacker.get("outcomes", {})}
    both = {how: count for how, count in both.items() if how != "dropped"}
    return " ".join(f"{how}×{count}" for how, count in sorted(both.items(), key=lambda item: -item[1])[:4])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _line(cells: list[str]) -> str:
    parts = [
        cell.ljust(width) if name in ("attack", "link", "verdict", "ended by") else cell.rjust(width)
        for cell, (name, width) in zip(cells, COLUMNS, strict=True)
    ]
    return "  ".join(parts).rstrip()
