"""The table of what came of the federations, one line each."""

from __future__ import annotations

from tests.crash.session import Played

__all__ = ["heading", "row"]

COLUMNS = (
    ("case", 24),
    ("rounds", 6),
    ("lives", 5),
    ("at points", 9),
    ("at random", 9),
    ("answered", 8),
    ("slowest start", 13),
    ("verdict", 7),
)


def heading() -> str:
    """Return the line above the table."""
    return _line([name for name, _ in COLUMNS])


def row(played: Played) -> str:
    """Return the line of one federation."""
    return _line(
        [
            played.case.name,
            str(played.case.rounds),
            str(len(played.lives)),
            str(played.at_points),
            str(played.at_random),
            str(played.answered),
            f"{played.slowest:.2f} s",
            "BROKEN" if played.broken else "ok",
        ]
    )


def _line(cells: list[str]) -> str:
    parts = [
        cell.ljust(width) if name in ("case", "verdict") else cell.rjust(width)
        for cell, (name, width) in zip(cells, COLUMNS, strict=True)
    ]
    return "  ".join(parts).rstrip()
