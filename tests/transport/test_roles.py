"""Which role may make which call, and who has which."""

from __future__ import annotations

from typing import cast

import pytest

from openfl_aio.aggregator.service import Aggregator
from openfl_aio.aggregator.servicer import AggregatorServicer
from openfl_aio.config import Limits
from openfl_aio.director.service import Director
from openfl_aio.director.servicer import DirectorServicer
from openfl_aio.errors import AuthenticationError, AuthorizationError
from openfl_aio.transport.identity import Caller
from openfl_aio.transport.roles import AGGREGATOR, CALLS, DIRECTOR, Role, Roles

ENVOY, USER, OPERATOR, COLLABORATOR = Role.ENVOY, Role.USER, Role.OPERATOR, Role.COLLABORATOR


def find(_: str) -> Aggregator:
    raise AssertionError("nobody calls")


def test_every_call_that_is_served_has_a_row() -> None:
    director = DirectorServicer(cast("Director", None), limits=Limits())
    assert set(CALLS) == {*AggregatorServicer(find).__mapping__(), *director.__mapping__()}


@pytest.mark.parametrize(
    ("roles", "name", "expected"),
    [
        (Roles(), "anybody", {ENVOY, USER, COLLABORATOR}),
        (Roles(envoys=("one",)), "one", {ENVOY, COLLABORATOR}),
        (Roles(envoys=("one",)), "ada", {USER}),
        (Roles(users=("ada",)), "ada", {USER}),
        (Roles(users=("ada",)), "one", {ENVOY, COLLABORATOR}),
        (Roles(envoys=("one",), users=("ada",)), "eve", set()),
        (Roles(envoys=("both",), users=("both",)), "both", {ENVOY, USER, COLLABORATOR}),
        (Roles(envoys=(), users=("ada",)), "one", set()),
        (Roles(operators=("root",)), "root", {ENVOY, USER, COLLABORATOR, OPERATOR}),
        (Roles(envoys=("one",), users=("ada",), operators=("root",)), "root", {OPERATOR}),
        (Roles(collaborators=("one",)), "one", {ENVOY, USER, COLLABORATOR}),
        (Roles(collaborators=("one",)), "two", {ENVOY, USER}),
        (Roles(envoys=("one",)), "One", {USER}),
        (Roles(envoys=("one",)), "on", {USER}),
    ],
)
def test_who_has_which_role(roles: Roles, name: str, expected: set[Role]) -> None:
    assert roles.of(name) == expected


def test_a_role_is_needed_for_each_call() -> None:
    roles = Roles(envoys=("one",), users=("ada",), operators=("root",))
    holders = {"one": {ENVOY, COLLABORATOR}, "ada": {USER}, "root": {OPERATOR}, "eve": set()}
    for name, held in holders.items():
        for path, allowed in CALLS.items():
            caller = Caller(name, authenticated=True)
            if held & allowed:
                roles.check(path, caller)
                continue
            with pytest.raises((AuthenticationError, AuthorizationError), match="may not call"):
                roles.check(path, caller)


def test_the_refusal_ends_a_collaborator_of_1_6() -> None:
    with pytest.raises(AuthenticationError):
        Roles(collaborators=("one",)).check(AGGREGATOR + "GetTasks", Caller("two", authenticated=True))
    with pytest.raises(AuthorizationError):
        Roles(envoys=("one",)).check(DIRECTOR + "WaitExperiment", Caller("two", authenticated=True))


def test_a_call_without_a_row_is_nobodys() -> None:
    with pytest.raises(AuthorizationError, match="for nobody"):
        Roles().check(DIRECTOR + "Later", Caller("one", authenticated=True))


def test_claims_have_every_role() -> None:
    Roles(collaborators=()).check(AGGREGATOR + "GetTasks", Caller("one", authenticated=False))
