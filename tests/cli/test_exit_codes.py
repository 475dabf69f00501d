from __future__ import annotations

import pytest

from openfl_aio import errors
from openfl_aio.cli.exit_codes import ExitCode, exit_code_of

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
