"""What OpenFL calls its building blocks, and what we call them.

A plan names classes by dotted path (``template``). Nothing named there is imported by a server: a path is looked up
here and gives our own name. OpenFL re-exports its classes from several packages, and plans use any of the paths.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from openfl_aio.errors import ConfigurationError
from openfl_aio.plan.releases import LATER_CLASSES, LATER_FUNCTIONS

__all__ = [
    "AGGREGATIONS",
    "AGGREGATORS",
    "ASSIGNERS",
    "COLLABORATORS",
    "DATA_LOADERS",
    "PIPELINES",
    "STRAGGLER_POLICIES",
    "TASK_RUNNERS",
    "Family",
    "check_class_path",
]

_CLASS_PATH: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*[.:][A-Za-z_]\w*")


@dataclass(frozen=True)
class Family:
    """One kind of building block.

    ``names`` maps our name to OpenFL's paths for it, the one we write first. ``elsewhere`` are paths of OpenFL that are
    recognised and refused, because nothing here does the same, and ``reasons`` why, where it is not plain. ``remedy`` says
    what to do instead of either.
    """

    what: str
    names: dict[str, tuple[str, ...]]
    elsewhere: tuple[str, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    remedy: str = ""

    def name_of(self, template: str) -> str:
        """Return our name for a dotted path, or for our name itself; else `ConfigurationError` with the known ones."""
        for name, paths in self.names.items():
            if template == name or template in paths:
                return name
        known = ", ".join(sorted(paths[0] for paths in self.names.values())) + self.remedy
        if template in self.elsewhere:
            reason = f": {self.reasons[template]}" if template in self.reasons else ""
            raise ConfigurationError(
                f"{self.what} {template!r} of OpenFL is not available here{reason}; known are {known}"
            )
        raise ConfigurationError(f"unknown {self.what} {template[:200]!r}; known are {known}")

    def template_of(self, name: str) -> str:
        """Return the dotted path that we write for our name (or for another path of the same block)."""
        return self.names[self.name_of(name)][0]


def check_class_path(template: str, *, what: str) -> str:
    """Return ``template`` if it can name a class (``package.module.Class`` or ``package.module:Class``)."""
    if len(template) > 300 or not _CLASS_PATH.fullmatch(template):
        raise ConfigurationError(
            f"{what}: expected a class path such as 'package.module.Class', got {template[:300]!r}"
        )
    return template


AGGREGATORS: Final = Family(
    "aggregator",
    {
        "aggregator": (
            "openfl.component.Aggregator",
            "openfl.component.aggregator.Aggregator",
            "openfl.component.aggregator.aggregator.Aggregator",
        )
    },
)

COLLABORATORS: Final = Family(
    "collaborator",
    {
        "collaborator": (
            "openfl.component.Collaborator",
            "openfl.component.collaborator.Collaborator",
            "openfl.component.collaborator.collaborator.Collaborator",
        )
    },
)

ASSIGNERS: Final = Family(
    "assigner",
    {
        "random_grouped": (
            "openfl.component.RandomGroupedAssigner",
            "openfl.component.assigner.RandomGroupedAssigner",
            "openfl.component.assigner.random_grouped_assigner.RandomGroupedAssigner",
        ),
        "static_grouped": (
            "openfl.component.StaticGroupedAssigner",
            "openfl.component.assigner.StaticGroupedAssigner",
            "openfl.component.assigner.static_grouped_assigner.StaticGroupedAssigner",
        ),
    },
    elsewhere=(
        "openfl.component.Assigner",
        "openfl.component.assigner.Assigner",
        "openfl.component.assigner.custom_assigner.Assigner",
    ),
)

STRAGGLER_POLICIES: Final = Family(
    "straggler handling policy",
    {
        "cutoff": (
            "openfl.component.straggler_handling_functions.CutoffTimeBasedStragglerHandling",
            "openfl.component.CutoffTimeBasedStragglerHandling",
            "openfl.component.straggler_handling_functions.cutoff_time_based_straggler_handling."
            "CutoffTimeBasedStragglerHandling",
            *LATER_CLASSES["cutoff"],
        ),
        "percentage": (
            "openfl.component.straggler_handling_functions.PercentageBasedStragglerHandling",
            "openfl.component.PercentageBasedStragglerHandling",
            "openfl.component.straggler_handling_functions.percentage_based_straggler_handling."
            "PercentageBasedStragglerHandling",
            *LATER_CLASSES["percentage"],
        ),
        "wait_for_all": LATER_CLASSES["wait_for_all"],
    },
)

PIPELINES: Final = Family(
    "compression pipeline",
    {
        name: (f"openfl.pipelines.{cls}", f"openfl.pipelines.{name}_pipeline.{cls}")
        for name, cls in (
            ("no_compression", "NoCompressionPipeline"),
            ("random_shift", "RandomShiftPipeline"),
            ("kc", "KCPipeline"),
            ("skc", "SKCPipeline"),
            ("stc", "STCPipeline"),
            ("eden", "EdenPipeline"),
        )
    },
)

_FUNCTIONS: Final = "openfl.interface.aggregation_functions"
_OWN_FUNCTIONS: Final = "openfl_aio.tensors.aggregation"

AGGREGATIONS: Final = Family(
    "aggregation function",
    {
        "weighted_average": (f"{_FUNCTIONS}.WeightedAverage", f"{_FUNCTIONS}.weighted_average.WeightedAverage"),
        "median": (f"{_FUNCTIONS}.Median", f"{_FUNCTIONS}.median.Median"),
        "geometric_median": (f"{_FUNCTIONS}.GeometricMedian", f"{_FUNCTIONS}.geometric_median.GeometricMedian"),
        "fedcurv_weighted_average": (
            f"{_FUNCTIONS}.FedCurvWeightedAverage",
            f"{_FUNCTIONS}.fedcurv_weighted_average.FedCurvWeightedAverage",
        ),
        "adagrad": (
            f"{_FUNCTIONS}.AdagradAdaptiveAggregation",
            f"{_FUNCTIONS}.adagrad_adaptive_aggregation.AdagradAdaptiveAggregation",
        ),
        "adam": (
            f"{_FUNCTIONS}.AdamAdaptiveAggregation",
            f"{_FUNCTIONS}.adam_adaptive_aggregation.AdamAdaptiveAggregation",
        ),
        "yogi": (
            f"{_FUNCTIONS}.YogiAdaptiveAggregation",
            f"{_FUNCTIONS}.yogi_adaptive_aggregation.YogiAdaptiveAggregation",
        ),
        # beyond OpenFL, so that the paths are ours
        "bulyan": (f"{_OWN_FUNCTIONS}.Bulyan",),
        "fedavgm": (f"{_OWN_FUNCTIONS}.FedAvgM",),
        "krum": (f"{_OWN_FUNCTIONS}.Krum",),
        "multi_krum": (f"{_OWN_FUNCTIONS}.MultiKrum",),
        "trimmed_mean": (f"{_OWN_FUNCTIONS}.TrimmedMean",),
    },
    elsewhere=(
        *LATER_FUNCTIONS,
        # the bases of users' own
        f"{_FUNCTIONS}.AggregationFunction",
        f"{_FUNCTIONS}.core.AggregationFunction",
        f"{_FUNCTIONS}.core.interface.AggregationFunction",
        f"{_FUNCTIONS}.core.AdaptiveAggregation",
        f"{_FUNCTIONS}.core.adaptive_aggregation.AdaptiveAggregation",
        f"{_FUNCTIONS}.experimental.PrivilegedAggregationFunction",
        f"{_FUNCTIONS}.experimental.privileged_aggregation.PrivilegedAggregationFunction",
    ),
    reasons=LATER_FUNCTIONS,
    remedy="; a server imports no class that a plan names: give a function of your own to an embedded "
    "openfl_aio.Aggregator, by the name of its task in functions=",
)

# OpenFL's own runners and loaders. A plan may name them (every plan of its interactive frontend does), a server only
# passes them on, and a participant that has OpenFL installed can import them.
TASK_RUNNERS: Final = Family(
    "task runner of OpenFL",
    {
        "core_task_runner": (
            "openfl.federated.task.task_runner.CoreTaskRunner",
            "openfl.federated.task_runner.CoreTaskRunner",
        ),
        "task_runner": ("openfl.federated.TaskRunner", "openfl.federated.task.TaskRunner"),
        "keras": ("openfl.federated.KerasTaskRunner", "openfl.federated.task.KerasTaskRunner"),
        "pytorch": ("openfl.federated.PyTorchTaskRunner", "openfl.federated.task.PyTorchTaskRunner"),
        "tensorflow": ("openfl.federated.TensorFlowTaskRunner", "openfl.federated.task.TensorFlowTaskRunner"),
        "federated_model": ("openfl.federated.FederatedModel", "openfl.federated.task.FederatedModel"),
        "gandlf": ("openfl.federated.task.runner_gandlf.GaNDLFTaskRunner",),
    },
)

DATA_LOADERS: Final = Family(
    "data loader of OpenFL",
    {
        "data_loader": ("openfl.federated.DataLoader", "openfl.federated.data.DataLoader"),
        "keras": ("openfl.federated.KerasDataLoader", "openfl.federated.data.KerasDataLoader"),
        "pytorch": ("openfl.federated.PyTorchDataLoader", "openfl.federated.data.PyTorchDataLoader"),
        "tensorflow": ("openfl.federated.TensorFlowDataLoader", "openfl.federated.data.TensorFlowDataLoader"),
        "federated_data_set": ("openfl.federated.FederatedDataSet", "openfl.federated.data.FederatedDataSet"),
        "gandlf": ("openfl.federated.data.loader_gandlf.GaNDLFDataLoaderWrapper",),
    },
)
