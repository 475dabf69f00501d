"""The interop matrix: which server met which client, what had to come of it, and what did, over all runs of one session.

A test says what it is by ``@pytest.mark.cell(server=…, client=…, must=…)``; a module's mark is the default for its
tests, and a parameter's mark is the closest. In the texts ``{name}`` is the parameter of that name, in words. The
parameters ``release`` and ``tls`` or ``security`` say themselves which release and link it is; where there is none,
``release=`` and ``link=`` of the mark do.

Each run of pytest adds its cases to the file that the variable ``INTEROP_MATRIX`` names. ``python -m
tests.interop_openfl.matrix FILE`` prints the table; it fails if no run had a case.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import pytest

__all__ = ["Case", "read", "table"]

FILE: Final = "INTEROP_MATRIX"
WORDS: Final = {"ours": "our", "adopted": "our adopting", "facade": "our facade's"}
NOT_RUN: Final = "not run: pytest ended before"
COLUMNS: Final = ("server", "client", "OpenFL", "cases", "passed", "failed", "skipped", "plaintext", "mTLS", "must")
NUMBERS: Final = slice(3, 9)
MUST_WIDTH: Final = 60


@dataclass(frozen=True)
class Case:
    """One test as the matrix has it. ``outcome``: passed, failed or skipped, with a ``reason`` unless it passed."""

    test: str
    server: str
    client: str
    release: str
    link: str
    must: str
    outcome: str = "skipped"
    reason: str = NOT_RUN


def described(item: pytest.Item) -> Case:
    """Return the case that the marks and parameters of a test describe."""
    said: dict[str, str] = {"server": "not in the matrix", "client": item.nodeid.partition("::")[0], "must": "pass"}
    for node in item.listchain():  # from the module down; what a parameter adds is the last of its function's
        for mark in node.own_markers:
            if mark.name == "cell":
                said |= mark.kwargs
    spec = getattr(item, "callspec", None)
    given: Mapping[str, Any] = spec.params if spec is not None else {}
    words = {name: in_words(value) for name, value in given.items()}
    texts = {name: said[name].format_map(words) for name in ("server", "client", "must")}
    release, link = said.get("release", "1.6"), said.get("link", "plaintext")
    secured = given.get("tls", given.get("security"))
    if secured is not None:
        link = "mTLS" if secured in (True, "mtls") else "plaintext"
    return Case(item.nodeid, release=str(given.get("release", release)), link=link, **texts)


def in_words(value: object) -> str:
    """Return a parameter as a word: of several, each kind once."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        return " + ".join(dict.fromkeys(in_words(one) for one in value))
    return WORDS.get(str(value), str(value))


# ---- what pytest calls; conftest.py imports these

CASE: Final = pytest.StashKey[Case]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Note what is going to run, so that a run that dies leaves no gap."""
    for item in session.items:
        item.stash[CASE] = described(item)
        add(item.stash[CASE])


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Note a file that was skipped as a whole, or that cannot be read."""
    if report.outcome != "passed":
        add(Case(report.nodeid, "not in the matrix", report.nodeid, "", "", "pass", report.outcome, reason_of(report)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note what came of a test once its clean-up is done: that may fail too."""
    report = yield
    case = item.stash[CASE]
    if report.outcome != "passed" or (report.when == "call" and case.outcome != "failed"):
        reason = "" if report.outcome == "passed" else reason_of(report)
        case = Case(**{**asdict(case), "outcome": report.outcome, "reason": reason})
        item.stash[CASE] = case
    if report.when == "teardown":
        add(case)
    return report


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Let a run without a case be: whether any run had one is judged with the table."""
    if FILE in os.environ and exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = pytest.ExitCode.OK


def reason_of(report: pytest.CollectReport | pytest.TestReport) -> str:
    """Return why it was skipped, or the last line of why it failed."""
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    lines = str(report.longrepr).strip().splitlines()
    return lines[-1] if lines else ""


def add(case: Case) -> None:
    """Append a case to the session's file, if there is one. A later line of a test replaces an earlier one."""
    if FILE in os.environ:
        with Path(os.environ[FILE]).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(case)) + "\n")


# ---- the table


def read(path: Path) -> list[Case]:
    """Return what came of each test in the file, in the order in which they were selected."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return list({case.test: case for case in (Case(**json.loads(line)) for line in lines)}.values())


def table(cases: Iterable[Case]) -> str:
    """Return the matrix with its total, and below it what failed and why something was skipped."""
    cases = list(cases)
    rows: dict[tuple[str, str, str], list[Case]] = {}
    servers = list(dict.fromkeys(case.server for case in cases))
    for case in sorted(cases, key=lambda case: servers.index(case.server)):
        rows.setdefault((case.server, case.client, case.release), []).append(case)
    lines = [list(COLUMNS), *([*key, *counted(row)] for key, row in rows.items())]
    total = ["total", "", "", *counted(cases)[:-1], ""]
    widths = [max(len(line[column]) for line in (*lines, total)) for column in range(len(COLUMNS) - 1)]
    rule = "-" * (sum(widths) + 2 * len(widths) + MUST_WIDTH)
    out = [*formatted(lines[0], widths), rule]
    for line in lines[1:]:
        out += formatted(line, widths)
    out += [rule, *formatted(total, widths)]
    out += [f"failed: {case.test}: {case.reason}" for case in cases if case.outcome == "failed"]
    skips = Counter(
        (case.server, case.client, case.release, case.reason) for case in cases if case.outcome == "skipped"
    )
    out += [
        f"skipped: {number} of {server} x {client} ({release}): {reason}"
        for (server, client, release, reason), number in skips.items()
    ]
    return "\n".join(out)


def counted(cases: list[Case]) -> list[str]:
    """Return the figures of a row, and what its cases must do."""
    outcomes, links = Counter(case.outcome for case in cases), Counter(case.link for case in cases)
    numbers = [len(cases), *(outcomes[name] for name in ("passed", "failed", "skipped"))]
    numbers += [links[name] for name in ("plaintext", "mTLS")]
    return [*map(str, numbers), "; ".join(dict.fromkeys(case.must for case in cases))]


def formatted(line: list[str], widths: list[int]) -> list[str]:
    """Return a row of the table in as many lines as its last column needs."""
    first, *more = textwrap.wrap(line[-1], MUST_WIDTH) or [""]
    cells = [text.ljust(width) for text, width in zip(line[:-1], widths, strict=True)]
    cells[NUMBERS] = [text.strip().rjust(width) for text, width in zip(line[NUMBERS], widths[NUMBERS], strict=True)]
    indent = " " * (sum(widths) + 2 * len(widths))
    return ["  ".join([*cells, first]).rstrip(), *(indent + text for text in more)]


def main(arguments: list[str]) -> int:
    """Print the matrix of a file; 1 if it has no case."""
    cases = read(Path(arguments[0]))
    if not cases:
        sys.stderr.write("no run of this session selected a test: see -k, -m and the paths that were given\n")
        return 1
    sys.stdout.write(f"\nThe real OpenFL and ours\n\n{table(cases)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
