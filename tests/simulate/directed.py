"""What a seed means for a director with its envoys: experiments, and all that goes wrong while they run."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from openfl_aio.tensors.aggregation import KNOWN_AGGREGATIONS, get_aggregation
from tests.simulate.network import Cut, Links
from tests.simulate.schedule import Death

__all__ = ["DIRECTOR", "Directed", "draw_directed"]

DIRECTOR: Final = "director"
STEPS: Final = 300  # that the director takes for an experiment, about; an envoy takes a fifth
SECONDS: Final = 60.0  # that an experiment takes, about


@dataclass(frozen=True, slots=True)
class Directed:
    """A director, its envoys, the experiments of one user, and their faults.

    ``together``: the experiments are submitted at once, else one after the other. ``deaths``: how the lives of a process
    end, by name; of the director they may end in an orderly way instead, after the seconds of ``stops``. ``disk``: seconds
    that anything takes on a disk, at most. ``removes``: each experiment is removed when it has been followed to its end.
    """

    seed: int
    sites: int = 3
    experiments: int = 1
    together: bool = False
    rounds: int = 2
    aggregation: str = "weighted_average"
    delta_updates: bool = False
    disk: float = 0.0
    links: Links = field(default_factory=Links)
    deaths: tuple[tuple[str, Death], ...] = ()
    stops: tuple[float, ...] = ()
    removes: bool = False

    @property
    def collaborators(self) -> tuple[str, ...]:
        """The names of the envoys."""
        return tuple(f"site_{number}" for number in range(self.sites))

    def of(self, name: str) -> list[Death]:
        """Return how the lives of a process end, in order."""
        return [death for who, death in self.deaths if who == name]

    def without_faults(self) -> Directed:
        """Return one of the experiments where nothing goes wrong."""
        return replace(self, seed=0, experiments=1, together=False, disk=0.0, links=Links(), deaths=(), stops=())

    def __str__(self) -> str:
        faults = [
            *(f"{name} dies {death}" for name, death in self.deaths),
            *(f"{DIRECTOR} is stopped after {seconds:.3f} s" for seconds in self.stops),
            *(f"{cut.host} is cut off from {cut.begin:.0f} to {cut.end:.0f} s" for cut in self.links.cuts),
        ]
        return (
            f"seed {self.seed}: {self.sites} envoys, {self.experiments} experiments of {self.rounds} rounds, "
            f"{self.aggregation}, {', '.join(faults) or 'nobody dies'}"
        )


def draw_directed(seed: int) -> Directed:
    """Return the schedule of ``seed``. Seeds in a row go round all aggregation functions."""
    rng = random.Random(f"directed {seed}")
    names = sorted(KNOWN_AGGREGATIONS)
    aggregation = names[seed % len(names)]
    sites = max(2, get_aggregation(aggregation).least) + rng.randrange(2)
    envoys = [f"site_{number}" for number in range(sites)]
    experiments = rng.choice((1, 1, 2))
    return Directed(
        seed,
        sites=sites,
        experiments=experiments,
        together=rng.random() < 0.3,
        rounds=rng.randint(2, 4),
        aggregation=aggregation,
        delta_updates=rng.random() < 0.5,
        disk=rng.choice((0.0, 0.01, 0.2)),
        links=Links(
            delay=rng.choice((0.0, 0.05, 1.0)),
            breaks=rng.choice((0.0, 0.3, 0.7)),
            cuts=tuple(_cut(rng, [DIRECTOR, *envoys], experiments) for _ in range(rng.randint(0, 2))),
        ),
        deaths=(
            *((DIRECTOR, _death(rng, STEPS)) for _ in range(rng.randint(0, 5))),
            *((rng.choice(envoys), _death(rng, STEPS // 5)) for _ in range(rng.randint(0, 3))),
        ),
        stops=tuple(rng.uniform(0, SECONDS) for _ in range(rng.choice((0, 1)))),
        removes=rng.random() < 0.3,
    )


def _cut(rng: random.Random, hosts: Iterable[str], experiments: int) -> Cut:
    begin = rng.uniform(0, SECONDS * experiments)
    return Cut(rng.choice(list(hosts)), begin, begin + rng.choice((5.0, 40.0, 120.0)))


def _death(rng: random.Random, steps: int) -> Death:
    if rng.random() < 0.4:
        return Death(seconds=rng.uniform(0, SECONDS))
    # often in the beginning: there it takes up again what was under way
    return Death(step="step", count=rng.randint(1, rng.choice((steps // 5, steps))))
