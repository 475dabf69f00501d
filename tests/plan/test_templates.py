from __future__ import annotations

import pytest

from openfl_aio.errors import ConfigurationError
from openfl_aio.plan import templates
from openfl_aio.plan.templates import AGGREGATIONS, ASSIGNERS, PIPELINES, Family, check_class_path
from openfl_aio.tensors.pipelines import KNOWN_PIPELINES

FAMILIES = [value for value in vars(templates).values() if isinstance(value, Family)]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.what)
def test_every_path_leads_to_one_name(family: Family) -> None:
    for name, paths in family.names.items():
        assert family.template_of(name) == paths[0]
        assert [family.name_of(path) for path in (name, *paths)] == [name] * (len(paths) + 1)
    assert not {path for paths in family.names.values() for path in paths} & set(family.elsewhere)


def test_what_openfl_has_and_we_have_not_is_told_from_the_unknown() -> None:
    with pytest.raises(ConfigurationError, match=r"'openfl\.component\.Assigner' of OpenFL is not available here"):
        ASSIGNERS.name_of("openfl.component.Assigner")
    with pytest.raises(ConfigurationError, match=r"^unknown aggregation function 'Sum'; known are openfl\.interface"):
        AGGREGATIONS.name_of("Sum")
    with pytest.raises(ConfigurationError, match=r"PrivilegedAggregationFunction' of OpenFL is not.*functions="):
        AGGREGATIONS.name_of("openfl.interface.aggregation_functions.experimental.PrivilegedAggregationFunction")
    with pytest.raises(
        ConfigurationError, match=r"SecureWeightedAverage' of OpenFL is not available here: it is of OpenFL's"
    ):
        AGGREGATIONS.name_of("openfl.interface.aggregation_functions.SecureWeightedAverage")
    with pytest.raises(ConfigurationError, match=r"'src\.mine\.Sum'.*imports no class that a plan names.*functions="):
        AGGREGATIONS.name_of("src.mine.Sum")


def test_every_pipeline_has_a_template() -> None:
    assert set(PIPELINES.names) == set(KNOWN_PIPELINES)
    assert PIPELINES.name_of("openfl.pipelines.eden_pipeline.EdenPipeline") == "eden"


@pytest.mark.parametrize("template", ["a.B", "a_1.b.C", "a.b:C", "_p._C"])
def test_class_paths(template: str) -> None:
    assert check_class_path(template, what="class") == template


@pytest.mark.parametrize(
    "template", ["", "A", "a.", ".A", "a..B", "a:b:C", "a:b.C", "a.B()", "../a.B", "a.B\n", "a." * 200 + "B"]
)
def test_what_names_no_class(template: str) -> None:
    with pytest.raises(ConfigurationError, match="class: expected a class path"):
        check_class_path(template, what="class")
