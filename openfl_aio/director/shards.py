"""Which envoys exist, what data they hold and which are alive. Decides only: time comes in as an argument.

``now`` is a monotonic time in seconds, so that a clock jump loses no envoy; wall time is only told, never compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Final

from openfl_aio.domain import DeviceInfo, EnvoyInfo, ShardInfo, check_name
from openfl_aio.errors import MessageTooLargeError, ShardNotFoundError
from openfl_aio.wire.scan import MAX_DEVICES

__all__ = ["Shards"]

MAX_CHARACTERS: Final = 4_000  # of all that one envoy says of its shard and its devices


@dataclass(slots=True)
class _Shard:
    info: ShardInfo
    seen: float
    running: bool = False
    parked: int = 0
    provisional: bool = False  # known by its waiting alone


class Shards:
    """The registered shards of a director.

    ``health_check_period`` in seconds is what envoys are told; one that is silent for twice as long is offline.
    There are at most ``most``.
    """

    def __init__(
        self, *, sample_shape: Sequence[str], target_shape: Sequence[str], health_check_period: float, most: int
    ) -> None:
        self.most = most
        self.sample_shape = tuple(sample_shape)
        self.target_shape = tuple(target_shape)
        self.health_check_period = health_check_period
        self._shards: dict[str, _Shard] = {}

    def __len__(self) -> int:
        return len(self._shards)

    def __contains__(self, name: object) -> bool:
        return name in self._shards

    @property
    def valid_seconds(self) -> float:
        """How long a sign of life counts."""
        return 2 * self.health_check_period

    @property
    def parked(self) -> int:
        """How many calls of registered envoys wait for an experiment right now."""
        return sum(shard.parked for shard in self._shards.values())

    def accepts(self, info: ShardInfo) -> bool:
        """Return whether the shapes of a shard are the director's.

        Raises `ConfigurationError` for a bad name, `MessageTooLargeError` for a shard that says too much of itself.
        """
        check_name(info.name, what="envoy")
        _check_size(info)
        return self._fits(info)

    def _fits(self, info: ShardInfo) -> bool:
        return (info.sample_shape, info.target_shape) == (self.sample_shape, self.target_shape)

    def make_room(self, name: str, now: float) -> str | None:
        """Make sure that there is a place for ``name``, and return who lost his for it, if anybody had to.

        That is who was silent for longest among those that are offline; he registers when he comes again. Raises
        `MessageTooLargeError` if all are online, `ConfigurationError` for a bad name.
        """
        check_name(name, what="envoy")
        if name in self._shards or len(self._shards) < self.most:
            return None
        silent = [known for known in self._shards if not self.is_online(known, now)]
        if not silent:
            raise MessageTooLargeError(
                f"expected at most {self.most} envoys at this director, and all of them are online: "
                f"no room for {name!r}; raise limits.max_envoys if more are meant"
            )
        longest = min(silent, key=lambda known: self._shards[known].seen)
        del self._shards[longest]
        return longest

    def register(self, info: ShardInfo, now: float) -> bool:
        """Take or refresh a shard and return whether it was accepted.

        A refused envoy that was registered before keeps its old entry. `make_room` comes before. Raises like `accepts`.
        """
        if not self.accepts(info):
            return False
        known = self._shards.get(info.name)
        if known is None:
            self._shards[info.name] = _Shard(info, now)
        else:
            known.info, known.seen, known.provisional = info, now, False
        return True

    def restore(self, info: ShardInfo, now: float) -> None:
        """Take a shard as it was before a restart: registered, and offline until it gives a sign of life."""
        if self._fits(info):
            self._shards[info.name] = _Shard(info, now - self.valid_seconds)

    def update(self, name: str, *, running: bool, devices: Iterable[DeviceInfo], now: float) -> float:
        """Note a sign of life and return the health check period. Devices overwrite those of the same index.

        Raises `ShardNotFoundError` for an envoy that is not registered: it registers again on that.
        Raises `MessageTooLargeError` if it says too much of itself.
        """
        shard = self._shards.get(name)
        if shard is None:
            raise ShardNotFoundError(f"Unknown shard {name}")
        by_index = {device.index: device for device in (*shard.info.devices, *devices)}
        info = replace(shard.info, devices=tuple(by_index[index] for index in sorted(by_index)))
        _check_size(info)
        shard.info = info
        shard.running = running
        shard.seen = now
        return self.health_check_period

    def park(self, name: str, now: float) -> None:
        """Say that ``name`` began to wait for an experiment; while it waits it is alive.

        An unknown one counts as registered, with this director's shapes: an envoy of OpenFL 1.6 waits only after a
        director accepted it, and when that one was gone for a moment it waits on but never registers again.
        `make_room` comes before.
        """
        shard = self._shards.get(name)
        if shard is None:
            info = ShardInfo(name, sample_shape=self.sample_shape, target_shape=self.target_shape)
            shard = self._shards[name] = _Shard(info, now, provisional=True)
        shard.parked += 1
        shard.seen = now

    def unpark(self, name: str, now: float, *, has_work: bool = False) -> None:
        """Say that one wait of ``name`` ended. Who was known by waiting alone is forgotten, unless it ``has_work`` now."""
        shard = self._shards.get(name)
        if shard is not None:
            shard.parked = max(0, shard.parked - 1)
            shard.seen = now
            if shard.provisional and not shard.parked and not has_work:
                del self._shards[name]

    def is_online(self, name: str, now: float) -> bool:
        """Return whether the envoy gave a sign of life lately."""
        shard = self._shards.get(name)
        return shard is not None and (shard.parked > 0 or now < shard.seen + self.valid_seconds)

    def envoys(self, now: float, *, wall: float) -> tuple[EnvoyInfo, ...]:
        """Describe every registered envoy; ``wall`` is the Unix time of ``now``."""
        return tuple(
            EnvoyInfo(
                shard=shard.info,
                is_online=self.is_online(name, now),
                is_experiment_running=shard.running,
                last_updated=wall if shard.parked else wall - (now - shard.seen),
                valid_seconds=self.valid_seconds,
            )
            for name, shard in self._shards.items()
        )


def _check_size(info: ShardInfo) -> None:
    if len(info.devices) > MAX_DEVICES:
        raise MessageTooLargeError(
            f"expected at most {MAX_DEVICES} devices of an envoy, got {len(info.devices)} of {info.name!r}"
        )
    said = sum(len(value) for device in info.devices for value in astuple(device) if isinstance(value, str))
    if len(info.description) + said > MAX_CHARACTERS:
        raise MessageTooLargeError(
            f"expected at most {MAX_CHARACTERS} characters about a shard and its devices, "
            f"got {len(info.description) + said} of {info.name!r}"
        )
