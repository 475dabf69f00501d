"""The interop matrix: every test is in it, whatever came of it, over several runs of pytest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interop_openfl.matrix import Case, main, read, table

CONFTEST = """
from tests.interop_openfl.matrix import (
    pytest_collection_finish, pytest_collectreport, pytest_runtest_makereport, pytest_sessionfinish
)
def pytest_configure(config):
    config.addinivalue_line("markers", "cell(server, client, must, release, link): what it is")
"""
TESTS = """
import os
import pytest

pytestmark = pytest.mark.cell(server="our aggregator", client="{kind} collaborators")

@pytest.mark.cell(must="train")
@pytest.mark.parametrize(
    ("kind", "tls"), [("real", False), pytest.param({"a": "ours", "b": "real"}, True, marks=pytest.mark.cell(must="mix"))]
)
def test_passes(kind, tls):
    pass

@pytest.mark.cell(client="its own", link="none", must="fail")
def test_fails():
    raise AssertionError("not the same")

@pytest.fixture
def broken():
    yield
    raise OSError("no clean end")

@pytest.mark.cell(client="its own", must="end")
@pytest.mark.parametrize("security", ["mtls"])
def test_ends_badly(broken, security):
    pass

@pytest.mark.cell(client="its own", must="meet")
@pytest.mark.parametrize("release", ["1.9"])
def test_is_skipped(release):
    pytest.skip("no Python for it")

@pytest.mark.cell(client="its own")
def test_dies():
    os._exit(3)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_cells.py").write_text(TESTS)
    (tmp_path / "test_plain.py").write_text("def test_of_nobody():\n    pass\n")
    (tmp_path / "test_gone.py").write_text("import pytest\npytest.importorskip('no_such_module')\n")
    return tmp_path


def run(folder: Path, *arguments: str) -> int:
    """Run pytest as a run of the session; its exit code."""
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "INTEROP_MATRIX": str(folder / "matrix")}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # none is used, and they take longer than the tests
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-c",
        os.devnull,
        "--rootdir",
        str(folder),
        str(folder),
        *arguments,
    ]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True).returncode


def test_every_test_is_a_case_by_its_marks_and_parameters(folder: Path) -> None:
    assert run(folder, "-k", "not test_dies") == 1
    cases = {case.test.partition("::")[2]: case for case in read(folder / "matrix")}
    plain, mixed = (case for name, case in cases.items() if name.startswith("test_passes"))
    assert (plain.server, plain.client, plain.release) == ("our aggregator", "real collaborators", "1.6")
    assert (plain.link, plain.must, plain.outcome, plain.reason) == ("plaintext", "train", "passed", "")
    assert (mixed.client, mixed.link, mixed.must) == ("our + real collaborators", "mTLS", "mix")
    failed, ended = cases["test_fails"], cases["test_ends_badly[mtls]"]
    assert (failed.outcome, failed.link, "AssertionError" in failed.reason) == ("failed", "none", True)
    assert (ended.outcome, ended.link, "OSError" in ended.reason) == ("failed", "mTLS", True)
    skipped = cases["test_is_skipped[1.9]"]
    assert (skipped.outcome, skipped.release, skipped.reason) == ("skipped", "1.9", "no Python for it")
    assert (cases["test_of_nobody"].server, cases["test_of_nobody"].outcome) == ("not in the matrix", "passed")
    assert [case.outcome for case in cases.values() if case.client == "test_gone.py"] == ["skipped"]
    assert len(cases) == 7


def test_a_run_that_dies_leaves_no_gap(folder: Path) -> None:
    assert run(folder, "-k", "test_dies or nobody") == 3
    outcomes = {case.test.rpartition("::")[2]: case.outcome for case in read(folder / "matrix") if "::" in case.test}
    assert outcomes == {"test_dies": "skipped", "test_of_nobody": "skipped"}
    assert "not run: pytest ended before" in table(read(folder / "matrix"))


def test_a_run_may_be_empty_and_not_all_of_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "test_gone.py").unlink()
    assert run(folder, "-k", "no_such_test") == 0
    assert main([str(folder / "matrix")]) == 1
    assert "no run of this session selected a test" in capsys.readouterr().err
    assert run(folder, "-k", "nobody") == 0
    assert main([str(folder / "matrix")]) == 0
    assert "test_plain.py" in capsys.readouterr().out


def test_the_table_has_a_row_a_meeting_and_a_total() -> None:
    outcomes = ["passed", "passed", "failed", "skipped"]
    links = ["plaintext", "mTLS", "mTLS", "plaintext"]
    cases = [
        Case(f"t{number}", "our director", "real envoys", "1.6", link, f"do {number}", outcome, "it said so")
        for number, (outcome, link) in enumerate(zip(outcomes, links, strict=True))
    ]
    cases.append(Case("other", "in one process", "pipelines", "1.6", "none", "be the same", "passed", ""))
    lines = [line.split() for line in table(cases).splitlines()]
    assert lines[2][:10] == ["our", "director", "real", "envoys", "1.6", "4", "2", "1", "1", "2"]
    assert lines[2][10:] == ["2", "do", "0;", "do", "1;", "do", "2;", "do", "3"]
    assert lines[3] == ["in", "one", "process", "pipelines", "1.6", "1", "1", "0", "0", "0", "0", "be", "the", "same"]
    assert lines[5] == ["total", "5", "3", "1", "1", "2", "2"]
    assert table(cases).splitlines()[6:] == [
        "failed: t2: it said so",
        "skipped: 1 of our director x real envoys (1.6): it said so",
    ]
