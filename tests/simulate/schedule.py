"""What a seed means: a federation, and all that goes wrong in it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Final

from openfl_aio.config import AggregatorConfig, Durability, StragglerConfig
from openfl_aio.tensors.aggregation import KNOWN_AGGREGATIONS, get_aggregation
from openfl_aio.tensors.pipelines import KNOWN_PIPELINES

__all__ = ["AGGREGATOR", "STEPS", "Death", "Network", "Schedule", "draw"]

AGGREGATOR: Final = "aggregator"
MANY_SITES: Final = 71
MOST_FULL: Final = 60.0  # seconds for which the disk is full
EVERY: Final = 25  # of so many seeds in a row one is a federation of `MANY_SITES`

STEPS: Final = (
    "write",
    "commit",
    "committed",
    "flush",
    "flushed",
    "save",
    "saved",
    "best",
    "best saved",
    "drop",
    "dropped",
    "forget uploads",
    "uploads forgotten",
    "load",
    "entries",
    "thread",
)
"""Where a server may die besides at a time: before and after everything that it does to its disk."""

MOST_COUNTS: Final = {"write": 200, "load": 1, "entries": 1, "best": 3, "best saved": 3} | dict.fromkeys(
    ("save", "saved", "drop", "dropped", "forget uploads", "uploads forgotten"), 4
)
"""How often a life comes to a step at most, about, where it is not a dozen times."""


@dataclass(frozen=True, slots=True)
class Death:
    """How a life of the server ends: after ``seconds``, or at the ``count``-th time that it comes to ``step``.

    Where it ``stops`` nobody kills it: it is told to end, and does so in an orderly way.
    """

    seconds: float | None = None
    step: str = ""
    count: int = 0
    stops: bool = False

    def __str__(self) -> str:
        if self.stops:
            return f"never but stops after {self.seconds:.3f} s"
        return f"after {self.seconds:.3f} s" if self.seconds is not None else f"at {self.step} {self.count}"


@dataclass(frozen=True, slots=True)
class Network:
    """Probabilities, for each attempt of a call, of what goes wrong; and how long a way takes at most, in seconds.

    ``lose_request`` and ``lose_reply``: it never arrives. ``repeat``: it arrives once more, up to a minute later.
    ``cut``: the connection breaks while the call is under way. ``alter``: results whose answer has come are handed in
    again with other content.
    """

    lose_request: float = 0.0
    lose_reply: float = 0.0
    repeat: float = 0.0
    cut: float = 0.0
    alter: float = 0.0
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """A federation and its faults.

    ``dropout``: share of the sites that fall silent in a round until it is over. ``site_dies``: how probable it is that a
    site dies and begins anew before it asks for a round's work. ``disk``: seconds that the disk takes for anything, at most;
    it is full between the moments of each pair in ``full``.
    """

    seed: int
    sites: int = 3
    rounds: int = 3
    aggregation: str = "weighted_average"
    pipeline: str = "no_compression"
    delta_updates: bool = False
    durability: Durability = "process"
    stragglers: StragglerConfig = field(default_factory=StragglerConfig)
    network: Network = Network()
    dropout: float = 0.0
    site_dies: float = 0.0
    disk: float = 0.0
    deaths: tuple[Death, ...] = ()
    full: tuple[tuple[float, float], ...] = ()

    @property
    def collaborators(self) -> tuple[str, ...]:
        """The names of the sites."""
        return tuple(f"site_{number}" for number in range(self.sites))

    @property
    def waits_for_all(self) -> bool:
        """Whether no clock and no chance has a say in what counts."""
        return self.stragglers.kind == "wait_for_all"

    def config(self) -> AggregatorConfig:
        """Return the federation's configuration."""
        return AggregatorConfig(
            uuid=AGGREGATOR,
            federation_uuid=f"simulated_{self.seed}",
            collaborators=self.collaborators,
            rounds=self.rounds,
            aggregation=self.aggregation,
            pipeline=self.pipeline,
            stragglers=self.stragglers,
            durability=self.durability,
        )

    def without_faults(self) -> Schedule:
        """Return the same federation where nothing goes wrong."""
        return replace(self, network=Network(), dropout=0.0, site_dies=0.0, deaths=(), full=())

    def __str__(self) -> str:
        parts = [
            f"seed {self.seed}: {self.sites} sites, {self.rounds} rounds, {self.aggregation}, {self.pipeline}",
            *(["deltas"] if self.delta_updates else []),
            self.durability,
            self.stragglers.kind,
            "dies " + (", ".join(map(str, self.deaths)) or "never"),
            *(f"no room from {begin:.0f} to {end:.0f} s" for begin, end in self.full),
        ]
        return ", ".join(parts)


def draw(seed: int) -> Schedule:
    """Return the schedule of ``seed``. Seeds in a row go round all aggregation functions."""
    rng = random.Random(f"schedule {seed}")
    names = sorted(KNOWN_AGGREGATIONS)
    aggregation = names[seed % len(names)]
    least = max(3, get_aggregation(aggregation).least)
    many = seed % EVERY == 0
    if many:
        # a round that may close early must still have enough for the function
        aggregation, sites = rng.choice(names), MANY_SITES
        stragglers = rng.choice(
            (
                StragglerConfig(kind="cutoff", cutoff_seconds=rng.uniform(20, 60), minimum_reporting=40),
                StragglerConfig(kind="percentage", percentage=0.8, minimum_reporting=40),
            )
        )
    else:
        sites = least + rng.randrange(3)
        stragglers = rng.choice((StragglerConfig(), StragglerConfig(), _stragglers(rng, least)))
    pipeline = rng.choice(sorted(KNOWN_PIPELINES)) if rng.random() < 0.5 else "no_compression"
    delta_updates = rng.random() < 0.5
    # it rounds whole models and differences alike: a site that begins anew, and so fetches a model as a whole, has
    # other bits than it had, and what it makes of them has too
    dies_alike = not (delta_updates and pipeline == "random_shift")
    return Schedule(
        seed,
        sites=sites,
        rounds=2 if many else rng.randint(2, 4),
        aggregation=aggregation,
        pipeline=pipeline,
        delta_updates=delta_updates,
        durability=rng.choice(("process", "power")),
        stragglers=stragglers,
        network=Network(
            lose_request=rng.choice((0.0, 0.05, 0.2)),
            lose_reply=rng.choice((0.0, 0.05, 0.2)),
            repeat=rng.choice((0.0, 0.1)),
            cut=rng.choice((0.0, 0.05, 0.1)),
            alter=rng.choice((0.0, 0.1)),
            delay=rng.choice((0.0, 0.1, 5.0)),
        ),
        dropout=0.08 if many or stragglers.kind != "wait_for_all" else 0.0,
        site_dies=rng.choice((0.0, 0.05, 0.2)) if dies_alike else 0.0,
        disk=rng.choice((0.0, 0.01, 0.5)),
        deaths=_deaths(rng),
        full=tuple(_full(rng) for _ in range(rng.choice((0, 0, 1, 2)))),
    )


def _stragglers(rng: random.Random, least: int) -> StragglerConfig:
    if rng.random() < 0.5:
        return StragglerConfig(kind="cutoff", cutoff_seconds=rng.uniform(1, 60), minimum_reporting=least)
    return StragglerConfig(kind="percentage", percentage=rng.uniform(0.5, 0.9), minimum_reporting=least)


def _deaths(rng: random.Random) -> tuple[Death, ...]:
    deaths = [_death(rng) for _ in range(rng.randint(0, 4))]
    if rng.random() < 0.3:
        deaths.insert(rng.randint(0, len(deaths)), Death(seconds=rng.uniform(0, 60), stops=True))
    return tuple(deaths)


def _full(rng: random.Random) -> tuple[float, float]:
    begin = rng.uniform(0, rng.choice((5, 60)))
    return begin, begin + rng.uniform(0, MOST_FULL)


def _death(rng: random.Random) -> Death:
    if rng.random() < 0.3:
        return Death(seconds=rng.uniform(0, 0.5) if rng.random() < 0.5 else rng.uniform(0, 100))
    step = rng.choice(STEPS)
    return Death(step=step, count=rng.randint(1, MOST_COUNTS.get(step, 12)))
