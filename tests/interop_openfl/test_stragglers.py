"""Our straggler policies against OpenFL 1.6's own, on the same reports at the same times.

Runs where ``openfl==1.6`` is installed too: ``nox -s interop_openfl``.
"""

from __future__ import annotations

import math
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openfl.component import straggler_handling_functions as theirs
from openfl.component.straggler_handling_functions import cutoff_time_based_straggler_handling as cutoff_module

from openfl_aio.aggregator.stragglers import make_straggler_policy
from openfl_aio.config import StragglerConfig

pytestmark = pytest.mark.cell(
    server="in one process", client="straggler policies", must="the same decision on the same reports", link="none"
)

START = 1000.0
NOT_STARTED = None
# quarters of a second, so that times add up without rounding and the limit itself is drawn often
quarters = st.integers(0, 40).map(lambda number: number / 4)
counts = st.integers(1, 12).flatmap(lambda asked: st.tuples(st.integers(0, asked), st.just(asked)))


def names(count: int) -> set[str]:
    return {f"c{number}" for number in range(count)}


def their_cutoff(done: int, asked: int, seconds: float, minimum: int, elapsed: float | None) -> bool:
    started_at = NOT_STARTED if elapsed is None else START
    policy = theirs.CutoffTimeBasedStragglerHandling(
        round_start_time=started_at, straggler_cutoff_time=seconds, minimum_reporting=minimum
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutoff_module, "time", types.SimpleNamespace(time=lambda: START + (elapsed or 0.0)))
        return bool(policy.straggler_cutoff_check(done, asked))


def our_cutoff(done: int, asked: int, seconds: float, minimum: int, elapsed: float | None) -> bool:
    config = StragglerConfig(kind="cutoff", cutoff_seconds=seconds, minimum_reporting=minimum)
    started_at = NOT_STARTED if elapsed is None else START
    policy = make_straggler_policy(config)
    return policy.closes(names(done), names(asked), started_at, START + (elapsed or 0.0))


def their_share(done: int, asked: int, share: float, minimum: int) -> bool:
    policy = theirs.PercentageBasedStragglerHandling(percent_collaborators_needed=share, minimum_reporting=minimum)
    return bool(policy.straggler_cutoff_check(done, asked))


def our_share(done: int, asked: int, share: float, minimum: int) -> bool:
    policy = make_straggler_policy(StragglerConfig(kind="percentage", percentage=share, minimum_reporting=minimum))
    return policy.closes(names(done), names(asked), START, START)


@given(counts, quarters, st.integers(1, 14), st.none() | quarters)
def test_a_cutoff_closes_the_rounds_that_it_closes_in_openfl(
    reports: tuple[int, int], seconds: float, minimum: int, elapsed: float | None
) -> None:
    done, asked = reports
    ours = our_cutoff(done, asked, seconds, minimum, elapsed)
    if elapsed is not None and (elapsed == seconds or (elapsed > seconds and done == asked < minimum)):
        assert ours or not their_cutoff(done, asked, seconds, minimum, elapsed)  # see the two tests below
    else:
        assert ours == their_cutoff(done, asked, seconds, minimum, elapsed)


@pytest.mark.parametrize(
    ("elapsed", "in_openfl", "here"), [(9.75, False, False), (10.0, False, True), (10.25, True, True)]
)
def test_at_the_very_limit_openfl_waits_for_a_report_that_may_never_come(
    elapsed: float, in_openfl: bool, here: bool
) -> None:
    """Its timer asks once, at the cutoff; a clock that is not past it by then leaves the round open."""
    assert their_cutoff(2, 3, 10.0, 2, elapsed) is in_openfl
    assert our_cutoff(2, 3, 10.0, 2, elapsed) is here


def test_nobody_missing_is_enough_even_if_more_than_all_are_to_report() -> None:
    """OpenFL closes such a round before the cutoff, and after it never."""
    assert their_cutoff(3, 3, 10.0, 4, 9.0)
    assert not their_cutoff(3, 3, 10.0, 4, 11.0)
    assert not their_share(3, 3, 1.0, 4)
    assert our_cutoff(3, 3, 10.0, 4, 9.0)
    assert our_cutoff(3, 3, 10.0, 4, 11.0)
    assert our_share(3, 3, 1.0, 4)


@given(st.integers(1, 12), quarters, st.integers(1, 3), quarters)
def test_without_a_result_no_round_closes(asked: int, seconds: float, minimum: int, elapsed: float) -> None:
    assert not their_cutoff(0, asked, seconds, minimum, elapsed)
    assert not our_cutoff(0, asked, seconds, minimum, elapsed)
    for share in (0.0, 0.01, 1.0):
        assert not their_share(0, asked, share, minimum)
        assert not our_share(0, asked, share, minimum)


def test_a_cutoff_of_infinity_is_none() -> None:
    assert not their_cutoff(2, 3, math.inf, 1, 1e9)
    assert not make_straggler_policy(StragglerConfig()).closes(names(2), names(3), START, START + 1e9)


@given(
    st.integers(1, 100).flatmap(lambda asked: st.tuples(st.integers(0, asked), st.just(asked))),
    st.integers(0, 100).map(lambda hundredths: hundredths / 100) | st.floats(0, 1),
    st.integers(1, 14),
)
def test_a_share_closes_the_rounds_that_it_closes_in_openfl(
    reports: tuple[int, int], share: float, minimum: int
) -> None:
    done, asked = reports
    ours = our_share(done, asked, share, minimum)
    if done == asked < minimum or 0 < share * asked - done <= 1e-9:
        assert ours is (done >= minimum or done == asked)  # see the tests above and below
    else:
        assert ours == their_share(done, asked, share, minimum)


@pytest.mark.parametrize(
    ("share", "asked", "fewest"), [(0.5, 3, 2), (0.34, 3, 2), (0.33, 3, 1), (1 / 3, 3, 1), (0.75, 6, 5), (0.0, 4, 1)]
)
def test_a_share_that_does_not_divide_needs_one_more(share: float, asked: int, fewest: int) -> None:
    for decide in (their_share, our_share):
        closing = [done for done in range(asked + 1) if decide(done, asked, share, 1)]
        assert closing == list(range(fewest, asked + 1)), decide


@pytest.mark.parametrize(("share", "asked", "exact"), [(0.07, 100, 7), (0.55, 100, 55), (0.14, 50, 7)])
def test_a_share_that_divides_needs_no_more_for_the_sake_of_binary_rounding(
    share: float, asked: int, exact: int
) -> None:
    """0.07 * 100 is 7.000000000000001, so that OpenFL waits for an eighth."""
    assert not their_share(exact, asked, share, 1)
    assert their_share(exact + 1, asked, share, 1)
    assert our_share(exact, asked, share, 1)
    assert not our_share(exact - 1, asked, share, 1)


@pytest.mark.parametrize("policy", [theirs.CutoffTimeBasedStragglerHandling, theirs.PercentageBasedStragglerHandling])
def test_neither_waits_for_nobody(policy: type) -> None:
    with pytest.raises(ValueError, match="minimum_reporting"):
        policy(minimum_reporting=0)
    with pytest.raises(ValueError, match="minimum_reporting"):
        StragglerConfig(minimum_reporting=0)
