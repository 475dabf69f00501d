"""The federations that are killed: every aggregation function, every pipeline, stragglers, and both kinds of server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from openfl_aio.tensors.aggregation import KNOWN_AGGREGATIONS
from openfl_aio.tensors.pipelines import KNOWN_PIPELINES

__all__ = ["CASES", "Case"]


@dataclass(frozen=True, slots=True)
class Case:
    """A federation whose model has about ``elements`` numbers.

    ``cutoff``: seconds after which a round closes without its stragglers; None waits for all.
    ``director``: the process that is killed is a director which runs the federation as an experiment.
    ``tls``: everybody has a certificate, and shows it.
    ``chores``: other experiments come and go there meanwhile, and its database is of the first version.
    ``bounded``: a bounded session plays it too.
    """

    name: str
    aggregation: str = "weighted_average"
    pipeline: str = "no_compression"
    sites: int = 5
    rounds: int = 4
    elements: int = 1000
    delta_updates: bool = False
    cutoff: float | None = None
    durability: str = "process"
    tls: bool = False
    director: bool = False
    chores: bool = False
    bounded: bool = False

    @property
    def collaborators(self) -> tuple[str, ...]:
        """The names of the sites."""
        return tuple(f"site_{number}" for number in range(self.sites))


def _cases() -> tuple[Case, ...]:
    cases = [
        # 7 sites are the least with which Bulyan bears one that lies
        Case(name, aggregation=name, sites=7 if name == "bulyan" else 5, bounded=name == "adam")
        for name in sorted(KNOWN_AGGREGATIONS)
    ]
    cases += [
        Case(f"{name} pipeline", aggregation="adam", pipeline=name, delta_updates=True)
        for name in sorted(KNOWN_PIPELINES)
        if name != "no_compression"
    ]
    cases += [
        # beyond a mebibyte files are written over, and arrays lie in files
        Case("median, 1.6 MB", aggregation="median", elements=400_000, delta_updates=True, bounded=True),
        Case("power", durability="power", bounded=True),
        Case("power, median, 1.6 MB", aggregation="median", elements=400_000, durability="power"),
        Case("mtls", aggregation="median", elements=400_000, delta_updates=True, tls=True),
        Case("stragglers", cutoff=1.0, bounded=True),
        Case("stragglers, adam, stc", aggregation="adam", pipeline="stc", cutoff=1.0),
        Case("director", director=True),
        Case("director, come and go", director=True, chores=True, bounded=True),
        Case("director, yogi, eden", aggregation="yogi", pipeline="eden", delta_updates=True, director=True),
        Case("director, stragglers", cutoff=1.0, director=True),
        Case("director, power", durability="power", director=True),
        Case("director, mtls", tls=True, director=True, chores=True),
    ]
    return tuple(cases)


CASES: Final = _cases()
