"""Names come from certificates; without TLS they are claims."""

from __future__ import annotations

from typing import Any

import pytest

from openfl_aio.errors import AuthenticationError, AuthorizationError, LocalProtocolError
from openfl_aio.transport.identity import DEFAULT_NAME, Caller, as_caller, check_speaks_for, current_caller, identify


def subject(*names: str) -> dict[str, Any]:
    return {"subject": ((("countryName", "XX"),), *((("commonName", name),) for name in names))}


def test_certificate_names_the_caller_whatever_it_claims() -> None:
    caller = identify(certificate=subject("one"), metadata={"client_id": "two"}, address="10.0.0.1")
    assert caller == Caller("one", authenticated=True, address="10.0.0.1")


@pytest.mark.parametrize(
    "names", [(), ("one", "two"), ("one\ntwo",), ("",), ("é",), ("a" * 65,), (" one",), ("one ",), ("one\0",)]
)
def test_certificate_without_one_printable_name_is_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(AuthenticationError, match="common name"):
        identify(certificate=subject(*names), metadata={}, address="")


def test_claims_are_marked_as_such() -> None:
    assert identify(certificate=None, metadata={"client_id": "one"}, address="") == Caller("one", authenticated=False)
    assert identify(certificate=None, metadata={}, address="") == Caller("__default__", authenticated=False)


@pytest.mark.parametrize("claim", ["", "a\nb", b"one", "x" * 101])
def test_claims_must_be_names(claim: object) -> None:
    with pytest.raises(AuthenticationError, match="client_id"):
        identify(certificate=None, metadata={"client_id": claim}, address="")


async def test_current_caller_ends_with_its_block() -> None:
    with as_caller(Caller("outer", authenticated=False)):
        with as_caller(Caller("inner", authenticated=True)):
            assert current_caller().name == "inner"
        assert current_caller().name == "outer"
    with pytest.raises(LocalProtocolError, match="no caller"):
        current_caller()


@pytest.mark.parametrize("authenticated", [True, False])
def test_a_message_names_its_caller(authenticated: bool) -> None:
    check_speaks_for(Caller("one", authenticated), "one")
    for other in ("two", "One", "one ", "", DEFAULT_NAME):
        with pytest.raises(AuthorizationError, match="may not speak for"):
            check_speaks_for(Caller("one", authenticated), other)


def test_who_claims_nothing_is_believed_what_the_message_says() -> None:
    check_speaks_for(Caller(DEFAULT_NAME, authenticated=False), "one")
    with pytest.raises(AuthorizationError):
        check_speaks_for(Caller(DEFAULT_NAME, authenticated=True), "one")
