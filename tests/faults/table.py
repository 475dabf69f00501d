"""What was seen of each fault, and the table of it."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Seen", "heading", "row"]


@dataclass
class Seen:
    """One fault, played. ``counts`` are how often what happened; ``broken`` the promises that were not kept."""

    fault: str
    link: str
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    skipped: str = ""  # why it could not be played here


def heading() -> str:
    """Return the line above the table."""
    return f"{'fault':20}  {'link':9}  {'s':>6}  {'verdict':8}  what happened"


def row(seen: Seen) -> str:
    """Return the line of one fault."""
    verdict = "skipped" if seen.skipped else "BROKEN" if seen.broken else "ok"
    what = seen.skipped or "; ".join(seen.broken) or _told(seen)
    return f"{seen.fault:20}  {seen.link:9}  {seen.seconds:6.1f}  {verdict:8}  {what}"


def _told(seen: Seen) -> str:
    return ", ".join(f"{count} {name}" for name, count in seen.counts.items() if count)
