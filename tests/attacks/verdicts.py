"""What was seen in one attack, and which promises it breaks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.attacks.catalogue import NEUTRAL, WRONG, Attack

__all__ = ["Promises", "Seen", "judge"]


@dataclass(frozen=True)
class Promises:
    """What holds whatever a peer does. Milliseconds, MiB, per cent; ``slack`` multiplies every time.

    To the latencies that are allowed comes what the timers of the honest client were late, and those of the server
    but for its own work: on a machine that has more to do than it can, the server is not to blame for that part.
    """

    good: float = 99.0
    kept_p99: float = 250.0
    fresh_p99: float = 500.0
    memory_after: float = 16.0
    stall: float = 100.0
    log_kib: float = 256.0
    slack: float = 1.0


@dataclass
class Seen:
    """One attack, measured. Memory is above what the server had before, in MiB; times are seconds."""

    attack: str
    link: str
    seconds: float
    honest: dict[str, dict[str, Any]] = field(default_factory=dict)
    memory_peak: float = 0.0
    memory_after: float = 0.0
    stall: float = 0.0
    stall_by_clock: float = 0.0
    starved: float = 0.0
    processor: float = 0.0
    log_bytes: int = 0
    traceback: bool = False
    alive: bool = True
    attacker: dict[str, Any] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    tries: int = 1

    @property
    def noise(self) -> float:
        """Milliseconds that the machine adds to a call: what timers of both sides were late, but for one in a hundred."""
        return (self.honest.get("late", {}).get("p99") or 0.0) + self.starved * 1e3

    @property
    def only_times(self) -> bool:
        """Whether nothing was broken but latencies and stalls."""
        return all(text.startswith(("R1: p99", "R3:")) for text in self.broken)


def judge(attack: Attack, seen: Seen, promises: Promises) -> list[str]:
    """Return each promise that was broken, by its number and what was seen."""
    if not seen.alive:
        return ["R1: the server died"]
    broken = []
    for kind, limit in (("kept", promises.kept_p99), ("fresh", promises.fresh_p99)):
        calls = seen.honest.get(kind, {})
        if kind not in attack.honest:
            continue
        if not calls.get("calls") or calls["good"] < promises.good:
            broken.append(f"R1: {calls.get('good')} % of {kind} calls, {calls.get('failures')}")
        elif calls["p99"] > limit * promises.slack + seen.noise:
            broken.append(f"R1: p99 {kind} {calls['p99']:.0f} ms")
    if seen.memory_peak > attack.memory:
        broken.append(f"R2: +{seen.memory_peak:.0f} MiB")
    if seen.memory_after > promises.memory_after:
        broken.append(f"R2: +{seen.memory_after:.0f} MiB afterwards")
    if seen.stall * 1e3 > promises.stall * promises.slack:
        broken.append(f"R3: stall {seen.stall * 1e3:.0f} ms")
    if attack.processor is not None and seen.processor > attack.processor * seen.seconds * promises.slack:
        broken.append(f"R9: {100 * seen.processor / seen.seconds:.0f} % of a processor")
    broken += _ends(attack, seen, promises)
    if seen.log_bytes > promises.log_kib * 1024:
        broken.append(f"R18: {seen.log_bytes / 1024:.0f} KiB of log")
    if seen.traceback:
        broken.append("R18: a traceback")
    return broken


def _ends(attack: Attack, seen: Seen, promises: Promises) -> list[str]:
    """Judge how the attacker's connections and calls ended (R4, R5, R8)."""
    broken = []
    endings = {how: count for how, count in seen.attacker["endings"].items() if how not in ("refused", "dropped")}
    over = {how: count for how, count in endings.items() if how != "alive"}
    life = seen.attacker["longest_life"]
    # a call that was refused is an end too, where both are right
    ended_by_call = attack.outcomes and attack.ends and seen.attacker["outcomes"]
    if attack.ends and not ended_by_call:
        right = sum(over.get(how, 0) for how in attack.ends)
        if life > attack.within * promises.slack:
            broken.append(f"R4: a connection went on for {life:.1f} s")
        elif right == 0 or right * 2 < sum(over.values()):  # a reset by the kernel may overtake GOAWAY
            broken.append(f"R4: connections ended by {over or 'nothing'}, expected {_either(attack.ends)}")
    if attack.outcomes:
        outcomes = {how: count for how, count in seen.attacker["outcomes"].items() if how not in NEUTRAL}
        wrong = {how: count for how, count in outcomes.items() if how not in attack.outcomes}
        if wrong or not (outcomes or ended_by_end(attack, over)):
            broken.append(f"R8: calls ended by {wrong or 'nothing'}, expected {_either(attack.outcomes)}")
    return broken


def ended_by_end(attack: Attack, over: dict[str, int]) -> bool:
    """Return whether connections ended as they may: then their calls need not have been answered."""
    return any(over.get(how) for how in attack.ends)


def _either(ways: tuple[str, ...]) -> str:
    """Say which ways there are in words that fit a line."""
    every = "GOAWAY with an error"
    return " or ".join(
        [*([every] if set(WRONG) <= set(ways) else []), *(way for way in ways if way not in WRONG)] or ways
    )
