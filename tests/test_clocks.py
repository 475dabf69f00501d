"""Intervals are measured by clocks that never jump: who asks for the time of day is listed here with the reason."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "openfl_aio"
WALL = {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today")}
MAY_ASK = {
    "cli/pki.py": "dates the entries of a deny list",
    "compat/director_client.py": "tells the time at which an envoy was described, as OpenFL does",
    "director/service.py": "tells when an experiment was made, and when an envoy was last seen",
    "pki/ca.py": "an authority begins and ends by the calendar",
    "pki/issue.py": "a certificate begins and ends by the calendar",
    "pki/revocation.py": "a revocation list says when it was made",
    "transport/tls.py": "a revocation list is judged by the calendar",
}


def asks_for_the_time_of_day(source: str) -> bool:
    return any(
        isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and (node.value.id, node.attr) in WALL
        for node in ast.walk(ast.parse(source))
    )


def test_the_search_finds_what_it_is_for() -> None:
    assert asks_for_the_time_of_day("import time\nstarted = time.time()")
    assert asks_for_the_time_of_day("now = datetime.now(UTC)")
    assert not asks_for_the_time_of_day("import time\nstarted = time.monotonic()")


def test_nobody_else_asks_for_the_time_of_day() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if "_generated" not in path.parts and asks_for_the_time_of_day(path.read_text())
    }
    assert found - set(MAY_ASK) == set(), "measure intervals with the loop's time or time.monotonic()"
    assert set(MAY_ASK) - found == set(), "remove who asks no more"
