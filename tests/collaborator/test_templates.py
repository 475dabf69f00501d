from __future__ import annotations

from pathlib import Path

import pytest

from openfl_aio.collaborator.templates import import_class, split_template
from openfl_aio.errors import ConfigurationError


@pytest.mark.parametrize("template", ["a.b.C", "a.b:C"])
def test_both_spellings_of_a_template(template: str) -> None:
    assert split_template(template, what="runner") == ("a.b", "C")


@pytest.mark.parametrize("template", ["", "C", "a.", ".C", "a b.C", "../a.C", "a:b:C"])
def test_what_is_no_template_is_refused(template: str) -> None:
    with pytest.raises(ConfigurationError, match="names no class"):
        split_template(template, what="runner")


def test_a_class_comes_from_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend("/nowhere")
    (tmp_path / "templates_found.py").write_text("class Thing:\n    value = 3\n")
    assert import_class("templates_found.Thing", path=tmp_path, what="thing").value == 3
    assert import_class("templates_found:Thing", path=None, what="thing").value == 3


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\nclass A: pass\nclass B: pass\n", "has no class 'Thing', only A, B"),
        ("Thing = 3\n", "has no class 'Thing', only none"),
        ("import no_such_package_here\n", "needs 'no_such_package_here', which is not installed here"),
        ("1 / 0\n", "raised ZeroDivisionError"),
        ("def (\n", "raised SyntaxError"),
    ],
)
def test_each_failure_has_its_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    monkeypatch.syspath_prepend("/nowhere")
    name = f"templates_bad_{abs(hash(source))}"
    (tmp_path / f"{name}.py").write_text(source)
    with pytest.raises(ConfigurationError, match=message):
        import_class(f"{name}.Thing", path=tmp_path, what="thing")


def test_an_absent_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend("/nowhere")
    with pytest.raises(ConfigurationError, match="no module 'templates_absent'"):
        import_class("templates_absent.Thing", path=tmp_path, what="thing")
