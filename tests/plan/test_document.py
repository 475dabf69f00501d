from __future__ import annotations

import re

import pytest

from openfl_aio.errors import ConfigurationError
from openfl_aio.plan.document import Document

TEXT = """\
host: localhost
ports: [1, 2]
nested:
  names:
    - one
    - two
  share: 0.5
  flag: true
  nothing: null
twice: 1
twice: 2
"""


@pytest.fixture
def document() -> Document:
    return Document.parse(TEXT, source="file.yaml")


def test_values_are_read_by_path(document: Document) -> None:
    assert document.string("host") == "localhost"
    assert document.integer("ports", 1) == 2
    assert document.strings("nested", "names") == ("one", "two")
    assert document.number("nested", "share") == 0.5
    assert document.boolean("nested", "flag")
    assert document.integer("twice") == 2
    assert document.get("host", "deeper") is None
    assert document.get("ports", 9) is None


def test_absent_and_null_are_the_default(document: Document) -> None:
    assert document.string("nested", "nothing", default="x") == "x"
    assert document.integer("nowhere", default=3) == 3
    assert document.mapping("nowhere") == {}
    assert document.items("nowhere") == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("ports",), 2),
        (("nested", "names", 1), 6),
        (("nested", "absent"), 3),
        (("twice",), 11),
        (("nested", "names", 7), 4),
        (("absent",), None),
    ],
)
def test_an_error_names_the_nearest_line(document: Document, path: tuple[str | int, ...], line: int | None) -> None:
    where = f"file.yaml, line {line}: " if line else "file.yaml: "

    assert str(document.error(path, "wrong")).startswith(where)
    assert str(document.error((), "wrong")) == "file.yaml: wrong"


def test_values_that_came_from_elsewhere_have_no_line() -> None:
    assert str(Document({"a": 1}, source="here").error(("a", 0), "wrong")) == "here: a[0]: wrong"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({}, "a mapping"),
        ((1,), "a list"),
        (None, "nothing"),
        (2**300, "a very large number"),
        ("x" * 80, "'" + "x" * 56 + "..."),
    ],
)
def test_values_are_shown_short(value: object, shown: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(f"got {shown}") if value is not None else "missing"):
        Document({"a": value}, source="here").boolean("a")


@pytest.mark.parametrize(
    ("minimum", "maximum", "bounds"),
    [(None, None, ""), (1, None, " of at least 1"), (None, 9, " of at most 9"), (1, 9, " from 1 to 9")],
)
def test_bounds_are_told(minimum: int | None, maximum: int | None, bounds: str) -> None:
    with pytest.raises(ConfigurationError, match=f"expected a whole number{bounds}, got 'x'"):
        Document({"a": "x"}, source="here").integer("a", minimum=minimum, maximum=maximum)


def test_merge_keys_work_and_cannot_explode() -> None:
    small = "base: &b {x: 1}\nmore:\n  <<: *b\n  y: 2\n"
    assert Document.parse(small, source="f").mapping("more") == {"x": 1, "y": 2}

    levels = ["a0: &a0 {k0: 1, k1: 1, k2: 1}"]
    levels += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 30)]
    outcome: object
    try:
        outcome = Document.parse("\n".join(levels), source="f").mapping("a29")
    except ConfigurationError as exc:
        outcome = re.sub(".*(more than 1000 keys by merging).*", r"\1", str(exc), flags=re.DOTALL)
    # from 6.0.4 on PyYAML merges each key once, and nothing explodes
    assert outcome in ("more than 1000 keys by merging", {"k0": 1, "k1": 1, "k2": 1})


def test_aliases_are_counted() -> None:
    with pytest.raises(ConfigurationError, match="f, line 2: expected YAML, got an error: more than 1000 aliases"):
        Document.parse("a: &a x\nb: [" + "*a, " * 1001 + "]", source="f")


def test_what_yaml_cannot_write_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="expected values that YAML can write"):
        Document.parse("a: 0x" + "f" * 5000, source="f").dump()


def test_an_empty_text_may_be_allowed() -> None:
    assert Document.parse("# nothing\n", source="f", empty_allowed=True).data == {}
