from __future__ import annotations

import pytest

from openfl_aio import errors
from openfl_aio.exit_codes import ExitCode, exit_code_of, report

ABSTRACT = {errors.OpenFLAioError}


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_of_ours_has_an_exit_code_of_its_own(name: str) -> None:
    kind: type[errors.OpenFLAioError] = getattr(errors, name)
    if kind not in ABSTRACT:
        assert exit_code_of(kind("no")) is not ExitCode.BUG


def test_the_unforeseen_is_a_bug_and_an_interrupt_is_none() -> None:
    assert exit_code_of(RuntimeError("oh")) is ExitCode.BUG
    assert exit_code_of(KeyboardInterrupt()) is ExitCode.INTERRUPTED


def test_the_most_specific_error_decides() -> None:
    assert exit_code_of(errors.StorageFullError("full")) is ExitCode.STORAGE
    assert exit_code_of(errors.DeadlineExceededError("late")) is ExitCode.UNREACHABLE


def test_an_error_is_told_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(errors.ConfigurationError("port 80 is in use")) == 2
    assert capsys.readouterr().err == "error: port 80 is in use\n"


def test_of_a_group_the_first_error_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    inner = ExceptionGroup("inner", [errors.TaskError("loss is nan"), RuntimeError("cut off")])
    assert report(ExceptionGroup("outer", [inner])) is ExitCode.FAILED
    assert capsys.readouterr().err == "error: loss is nan\n"


def test_the_unforeseen_says_how_to_see_more(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert report(RuntimeError("oh"), debug=True) is ExitCode.BUG
    assert "unforeseen RuntimeError: oh; run again with --debug" in capsys.readouterr().err
    assert "RuntimeError: oh" in caplog.text
