from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from openfl_aio.aggregator.assigner import make_assigner
from openfl_aio.aggregator.rounds import (
    FederationAborted,
    FederationComplete,
    Phase,
    RoundClosed,
    RoundOpened,
    Rounds,
)
from openfl_aio.aggregator.stragglers import Cutoff, StragglerPolicy, WaitForAll
from openfl_aio.config import AggregatorConfig
from openfl_aio.domain import Task, Verdict
from openfl_aio.errors import AuthorizationError, ConfigurationError, InvalidStateError

NAMES = ("a", "b", "c")
TASKS = ("aggregated_model_validation", "train", "locally_tuned_model_validation")


def make(policy: StragglerPolicy | None = None, *, rounds: int = 2, initial_round: int = 0) -> Rounds[str]:
    config = AggregatorConfig(collaborators=NAMES, rounds=rounds)
    return Rounds(NAMES, rounds, make_assigner(config), policy or WaitForAll(), initial_round=initial_round)


def report_all(machine: Rounds[str], name: str, now: float = 0.0) -> None:
    for task in machine.tasks_left(name):
        assert machine.report(name, machine.round_number, task.name, f"{name}/{task.name}", now) is Verdict.ACCEPTED


def test_a_federation_of_two_rounds() -> None:
    machine = make()
    assert machine.events() == [RoundOpened(0)]
    assignment = machine.tasks("a", 0.0)
    assert assignment is not None
    assert [task.name for task in assignment.tasks] == list(TASKS)
    assert machine.tasks("a", 0.0) == assignment
    for name in NAMES:
        report_all(machine, name)
        assert machine.tasks(name, 0.0) is None
    (closed,) = machine.events()
    assert isinstance(closed, RoundClosed)
    assert list(closed.results) == sorted(TASKS)
    assert list(closed.results["train"].items()) == [(name, f"{name}/train") for name in NAMES]
    machine.round_aggregated(0.0)
    assert machine.events() == [RoundOpened(1)]
    for name in NAMES:
        report_all(machine, name)
    machine.events()
    machine.round_aggregated(0.0)
    assert machine.events() == [FederationComplete(2)]
    assert machine.phase is Phase.COMPLETE
    assert machine.phase.ended
    assert machine.report("a", 1, "train", "late", 0.0) is Verdict.COMPLETE
    answer = machine.tasks("a", 0.0)
    assert answer is not None
    assert answer.quit
    machine.stop("too late")
    assert machine.phase is Phase.COMPLETE
    assert "2/2 complete" in repr(machine)


@pytest.mark.parametrize(
    ("reported", "told"),
    [
        (["train"], list(TASKS)),
        (["aggregated_model_validation", "train"], ["train", "locally_tuned_model_validation"]),
        (["locally_tuned_model_validation", "train"], ["aggregated_model_validation"]),
        (["aggregated_model_validation"], ["train", "locally_tuned_model_validation"]),
    ],
)
def test_who_lost_its_local_model_trains_again_before_it_validates(reported: list[str], told: list[str]) -> None:
    machine = make()
    for task in reported:
        assert machine.report("a", 0, task, "first", 0.0) is Verdict.ACCEPTED
    assignment = machine.tasks("a", 0.0)
    assert assignment is not None
    assert [task.name for task in assignment.tasks] == told
    if "train" in reported:
        assert machine.report("a", 0, "train", "again", 0.0) is not Verdict.ACCEPTED
        assert machine.result("a", "train") == "first"


def test_refusals() -> None:
    machine = make()
    with pytest.raises(AuthorizationError, match="mallory"):
        machine.tasks("mallory", 0.0)
    with pytest.raises(InvalidStateError, match="not assigned"):
        machine.admit("a", 0, "fly")
    with pytest.raises(InvalidStateError, match="collecting"):
        machine.round_aggregated(0.0)
    assert machine.report("a", 7, "train", "x", 0.0) is Verdict.WRONG_ROUND
    assert machine.report("a", 0, "train", "x", 0.0) is Verdict.ACCEPTED
    assert machine.report("a", 0, "train", "y", 0.0) is Verdict.DUPLICATE
    assert [task.name for task in machine.assigned("a")] == list(TASKS)


def test_cutoff_leaves_stragglers_out() -> None:
    machine = make(Cutoff(10.0, 1))
    assert machine.next_timer() is None
    machine.tasks("a", 5.0)
    machine.tasks("b", 6.0)
    assert machine.next_timer() == 15.0
    report_all(machine, "a", 6.0)
    machine.report("b", 0, "train", "half", 6.0)
    machine.handle_timer(14.0)
    assert machine.phase is Phase.COLLECTING
    machine.handle_timer(15.0)
    closed = machine.events()[-1]
    assert isinstance(closed, RoundClosed)
    assert closed.stragglers == ("b", "c")
    assert {name for results in closed.results.values() for name in results} == {"a"}
    assert machine.report("b", 0, TASKS[0], "late", 16.0) is Verdict.STRAGGLER
    assert machine.next_timer() is None


def test_a_cutoff_with_too_few_reports_closes_at_the_next_one() -> None:
    machine = make(Cutoff(10.0, 2))
    machine.tasks("a", 0.0)
    report_all(machine, "a", 1.0)
    machine.handle_timer(10.0)
    assert machine.phase is Phase.COLLECTING
    assert machine.next_timer() is None
    machine.handle_timer(11.0)
    report_all(machine, "b", 20.0)
    assert any(isinstance(event, RoundClosed) for event in machine.events())


def test_stop_and_nothing_to_do() -> None:
    machine = make()
    machine.stop("director went away")
    machine.stop("again")
    assert machine.events() == [RoundOpened(0), FederationAborted(0, "director went away")]
    assert machine.reason == "director went away"
    answer = machine.tasks("a", 0.0)
    assert answer is not None
    assert answer.quit
    resumed = make(initial_round=2)
    assert resumed.phase is Phase.COMPLETE
    assert resumed.events() == [FederationComplete(2)]


class RestsInRoundOne:
    def tasks(self, collaborator: str, round_number: int) -> tuple[Task, ...]:
        return (Task("train"),) if round_number == 0 and collaborator == "a" else ()


def test_an_assigner_that_gives_nobody_a_task() -> None:
    machine: Rounds[str] = Rounds(NAMES, 2, RestsInRoundOne(), WaitForAll())
    assert machine.tasks("b", 0.0) is None
    report_all(machine, "a")
    with pytest.raises(ConfigurationError, match="round 1"):
        machine.round_aggregated(0.0)


class RoundsMachine(RuleBasedStateMachine):
    """Any order of commands: rounds only go up, a closed round has whole results, an assignment stays until reported."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = make(Cutoff(5.0, 1), rounds=3)
        self.now = 0.0
        self.highest = 0
        self.accepted: set[tuple[int, str, str]] = set()

    @rule(name=st.sampled_from(NAMES))
    def ask(self, name: str) -> None:
        answer = self.machine.tasks(name, self.now)
        assert answer == self.machine.tasks(name, self.now)
        if answer is not None and not answer.quit:
            told = {(answer.round_number, name, task.name) for task in answer.tasks}
            if (answer.round_number, name, "locally_tuned_model_validation") in told:
                told.discard((answer.round_number, name, "train"))  # done before or not, it makes what is validated
            assert not told & self.accepted

    @rule(name=st.sampled_from(NAMES), task=st.sampled_from(TASKS), back=st.integers(0, 1))
    def report(self, name: str, task: str, back: int) -> None:
        number = self.machine.round_number - back
        verdict = self.machine.report(name, number, task, f"{number}/{name}/{task}", self.now)
        if verdict is Verdict.ACCEPTED:
            assert (number, name, task) not in self.accepted
            self.accepted.add((number, name, task))

    @rule(seconds=st.floats(0.1, 4.0))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.machine.handle_timer(self.now)

    @precondition(lambda self: self.machine.phase is Phase.AGGREGATING)
    @rule()
    def aggregate(self) -> None:
        self.machine.round_aggregated(self.now)

    @precondition(lambda self: self.machine.round_number == 2)
    @rule()
    def stop(self) -> None:
        self.machine.stop("enough")

    @invariant()
    def rounds_go_up_and_results_are_whole(self) -> None:
        assert self.machine.round_number >= self.highest
        self.highest = self.machine.round_number
        for event in self.machine.events():
            if isinstance(event, RoundClosed):
                assert all(set(results) == set(event.results["train"]) for results in event.results.values())
                assert not set(event.results["train"]) & set(event.stragglers)
        timer = self.machine.next_timer()
        assert timer is None or timer > self.now


TestRoundsMachine = RoundsMachine.TestCase
TestRoundsMachine.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
