"""Every cell of the experiment table, and the questions asked of the registry."""

from __future__ import annotations

import pytest

from openfl_aio.director.experiments import TRANSITIONS, Experiment, ExperimentEvent, Experiments
from openfl_aio.domain import ExperimentStatus
from openfl_aio.errors import AlreadyExistsError, ConfigurationError, ExperimentNotFoundError, InvalidStateError

S = ExperimentStatus
E = ExperimentEvent


def in_status(status: ExperimentStatus, name: str = "exp") -> Experiments:
    experiments = Experiments()
    experiments.restore(Experiment(name, "ada", ("one", "two"), "archive", status=status, federation_uuid="plan_1"))
    return experiments


@pytest.mark.parametrize("event", list(E))
@pytest.mark.parametrize("status", list(S))
def test_every_cell(status: ExperimentStatus, event: ExperimentEvent) -> None:
    experiments = in_status(status)
    target = TRANSITIONS.get((status, event))
    if status.ended:
        assert experiments.handle("exp", event, error="late") is False
        assert experiments.get("exp").status is status
        assert experiments.get("exp").error == ""
    elif target is None:
        with pytest.raises(InvalidStateError, match=f"is {status.value}: it cannot {event.value}"):
            experiments.handle("exp", event)
        assert experiments.get("exp").status is status
    else:
        assert experiments.handle("exp", event, error="why") is True
        assert experiments.get("exp").status is target
        assert experiments.get("exp").error == "why"


def test_submission_is_pending_and_belongs_to_the_submitter() -> None:
    experiments = Experiments()
    experiment = experiments.submit("exp", owner="ada", collaborators=["one"], archive_id="a1")
    assert experiment.status is S.PENDING
    assert experiments.visible("exp", "ada") is experiment
    assert experiments.owned_by("ada") == (experiment,)
    assert experiments.owned_by("eve") == ()
    assert experiments.holds(experiment)
    assert len(experiments) == 1


@pytest.mark.parametrize("name", ["", ".", "..", "../victim", "/abs", "a/b", "a\nb", "x" * 101, "é"])
def test_a_name_that_is_not_plain_is_refused(name: str) -> None:
    experiments = Experiments()
    with pytest.raises(ConfigurationError, match="not a plain name"):
        experiments.submit(name, owner="ada", collaborators=["one"], archive_id="a1")
    assert len(experiments) == 0


@pytest.mark.parametrize(
    ("collaborators", "message"),
    [([], "lists no collaborator"), (["one", "one"], "twice"), (["a b"], "not a plain name")],
)
def test_bad_collaborator_lists_are_refused(collaborators: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Experiments().submit("exp", owner="ada", collaborators=collaborators, archive_id="a1")


@pytest.mark.parametrize(("status", "owner"), [(S.FINISHED, "eve"), (S.PENDING, "ada"), (S.IN_PROGRESS, "ada")])
def test_a_taken_name_is_refused(status: S, owner: str) -> None:
    experiments = in_status(status)
    with pytest.raises(AlreadyExistsError, match="'exp' is taken"):
        experiments.submit("exp", owner=owner, collaborators=["one"], archive_id="a2")


@pytest.mark.parametrize("status", [S.FINISHED, S.FAILED, S.REJECTED])
def test_an_owner_may_run_an_ended_experiment_again(status: S) -> None:
    experiments = in_status(status)
    again = experiments.submit("exp", owner="ada", collaborators=["two"], archive_id="a2")
    assert experiments.get("exp") is again
    assert (len(experiments), again.status) == (1, S.PENDING)


def test_absent_and_foreign_are_told_alike() -> None:
    experiments = in_status(S.PENDING)
    with pytest.raises(ExperimentNotFoundError) as foreign:
        experiments.visible("exp", "eve")
    with pytest.raises(ExperimentNotFoundError) as absent:
        Experiments().visible("exp", "eve")
    assert str(foreign.value) == str(absent.value)


def test_only_collaborators_take_part() -> None:
    experiments = in_status(S.IN_PROGRESS)
    assert experiments.takes_part("exp", "one").name == "exp"
    with pytest.raises(ExperimentNotFoundError):
        experiments.takes_part("exp", "three")
    with pytest.raises(ExperimentNotFoundError):
        experiments.takes_part("other", "one")
    with pytest.raises(ExperimentNotFoundError):
        experiments.get("other")


@pytest.mark.parametrize("status", list(S))
def test_work_is_handed_out_only_in_progress(status: ExperimentStatus) -> None:
    assert in_status(status).next_for("one") == ("exp" if status is S.IN_PROGRESS else None)


def test_work_is_handed_out_in_order_and_again_until_done() -> None:
    experiments = in_status(S.IN_PROGRESS, "first")
    experiments.restore(Experiment("second", "ada", ("one",), "b", status=S.IN_PROGRESS))
    assert experiments.next_for("one") == "first"
    assert experiments.next_for("one") == "first"
    assert experiments.next_for("one", over={"first"}) == "second"
    experiments.envoy_done("first", "one")
    assert experiments.next_for("one") == "second"
    assert experiments.next_for("two") == "first"
    assert experiments.next_for("three") is None


def test_done_of_unknown_names_is_ignored() -> None:
    experiments = in_status(S.IN_PROGRESS)
    experiments.envoy_done("other", "one")
    experiments.envoy_done("exp", "three")
    assert experiments.get("exp").done == set()


def test_only_the_owner_removes() -> None:
    experiments = in_status(S.FINISHED)
    assert experiments.remove("exp", "eve") is None
    assert experiments.remove("other", "ada") is None
    assert len(experiments) == 1
    removed = experiments.remove("exp", "ada")
    assert removed is not None
    assert removed.name == "exp"
    assert not experiments.holds(removed)
    assert len(experiments) == 0
