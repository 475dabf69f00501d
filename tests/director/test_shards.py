"""Registration, liveness by an injected clock, and what is told of envoys."""

from __future__ import annotations

from dataclasses import replace

import pytest

from openfl_aio.director.shards import Shards
from openfl_aio.domain import DeviceInfo, ShardInfo
from openfl_aio.errors import ConfigurationError, MessageTooLargeError, ShardNotFoundError


def make(most: int = 100) -> Shards:
    return Shards(sample_shape=["8", "8"], target_shape=["10"], health_check_period=60, most=most)


def shard(name: str = "one", n_samples: int = 0, devices: tuple[DeviceInfo, ...] = ()) -> ShardInfo:
    return ShardInfo(name, n_samples=n_samples, sample_shape=("8", "8"), target_shape=("10",), devices=devices)


@pytest.mark.parametrize(("sample", "target"), [(("8",), ("10",)), (("8", "8"), ("1",)), ((), ())])
def test_a_wrong_shape_is_not_accepted(sample: tuple[str, ...], target: tuple[str, ...]) -> None:
    shards = make()
    assert shards.register(ShardInfo("one", sample_shape=sample, target_shape=target), 0.0) is False
    assert len(shards) == 0
    assert "one" not in shards


def test_a_name_that_is_not_plain_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="not a plain name"):
        make().register(shard("../x"), 0.0)


def test_a_silent_envoy_is_offline_after_twice_the_period() -> None:
    shards = make()
    assert shards.register(shard(), 1000.0) is True
    assert shards.is_online("one", 1119.9)
    assert not shards.is_online("one", 1120.0)
    assert not shards.is_online("two", 1000.0)
    assert shards.update("one", running=False, devices=(), now=1200.0) == 60
    assert shards.is_online("one", 1300.0)


def test_registering_again_refreshes() -> None:
    shards = make()
    shards.register(shard(), 0.0)
    shards.register(shard(n_samples=5), 500.0)
    (envoy,) = shards.envoys(510.0, wall=10_000.0)
    assert envoy.shard.n_samples == 5
    assert envoy.is_online
    assert envoy.last_updated == 9990.0
    assert envoy.valid_seconds == 120.0
    assert not envoy.is_experiment_running


def test_a_parked_envoy_is_alive() -> None:
    shards = make()
    shards.register(shard(), 0.0)
    shards.park("one", 1.0)
    shards.park("one", 2.0)
    assert shards.parked == 2
    shards.unpark("one", 3.0)
    assert shards.is_online("one", 1e6)
    assert shards.envoys(1e6, wall=7.0)[0].last_updated == 7.0
    shards.unpark("one", 10.0)
    shards.unpark("one", 10.0)
    assert shards.parked == 0
    assert not shards.is_online("one", 1e6)


def test_parking_of_an_unknown_envoy_is_ignored() -> None:
    shards = make()
    shards.park("one", 0.0)
    shards.unpark("one", 0.0)
    assert shards.parked == 0


def test_an_update_of_an_unknown_envoy_says_so() -> None:
    with pytest.raises(ShardNotFoundError, match="Unknown shard one"):
        make().update("one", running=False, devices=(), now=0.0)


def test_devices_overwrite_by_index() -> None:
    shards = make()
    shards.register(shard(devices=(DeviceInfo(0, memory_total=1), DeviceInfo(1))), 0.0)
    shards.update("one", running=True, devices=(DeviceInfo(2), DeviceInfo(0, memory_total=9)), now=1.0)
    (envoy,) = shards.envoys(1.0, wall=1.0)
    assert envoy.shard.devices == (DeviceInfo(0, memory_total=9), DeviceInfo(1), DeviceInfo(2))
    assert envoy.is_experiment_running


def test_an_envoy_that_waits_and_never_registered_here_counts_with_our_shapes() -> None:
    shards = make()
    shards.park("one", 0.0)
    (envoy,) = shards.envoys(1000.0, wall=5000.0)
    assert (envoy.shard.sample_shape, envoy.shard.target_shape, envoy.is_online) == (("8", "8"), ("10",), True)
    shards.unpark("one", 1000.0, has_work=True)
    assert shards.is_online("one", 1001.0), "it is at work"
    shards.park("one", 2000.0)
    shards.unpark("one", 2001.0)
    assert "one" not in shards, "it went away"


def test_whoever_registers_after_all_is_kept() -> None:
    shards = make()
    shards.park("one", 0.0)
    assert shards.register(shard(n_samples=7), 1.0)
    shards.unpark("one", 2.0)
    (envoy,) = shards.envoys(3.0, wall=3.0)
    assert envoy.shard.n_samples == 7


def test_a_name_that_is_not_plain_may_not_wait_either() -> None:
    with pytest.raises(ConfigurationError, match="not a plain name"):
        make().make_room("../x", 0.0)


def test_who_has_been_offline_for_longest_makes_room() -> None:
    shards = make(most=3)
    for now, name in enumerate(("one", "two", "three")):
        assert shards.make_room(name, now) is None
        shards.register(shard(name), now)
    shards.park("one", 3)
    shards.unpark("one", 4)
    assert shards.make_room("one", 5) is None  # is known
    with pytest.raises(MessageTooLargeError, match=r"at most 3 envoys .* all of them are online: no room for 'four'"):
        shards.make_room("four", 120)
    assert shards.make_room("four", 122) == "two"
    shards.park("four", 122)
    assert "two" not in shards
    assert shards.make_room("five", 1000) == "three"
    assert shards.make_room("six", 1000) is None
    shards.register(shard("six"), 1000)
    assert shards.make_room("five", 5000) == "one"


def test_what_an_envoy_says_of_itself_is_bounded() -> None:
    shards = make()
    named = (DeviceInfo(0, name="x" * 2_000), DeviceInfo(1, cuda_version="x" * 2_000))
    shards.register(shard(devices=named), 0.0)
    with pytest.raises(MessageTooLargeError, match=r"at most 4000 characters .* got 4001 of 'one'"):
        shards.register(replace(shard(devices=named), description="x"), 0.0)
    with pytest.raises(MessageTooLargeError, match="at most 64 devices of an envoy, got 65 of 'one'"):
        shards.register(shard(devices=tuple(map(DeviceInfo, range(65)))), 0.0)
    shards.register(shard(devices=tuple(map(DeviceInfo, range(60)))), 0.0)
    shards.update("one", running=False, devices=map(DeviceInfo, range(64)), now=0.0)
    with pytest.raises(MessageTooLargeError, match="got 66"):
        shards.update("one", running=False, devices=map(DeviceInfo, (64, 65)), now=0.0)  # with those of before
    (envoy,) = shards.envoys(1.0, wall=1.0)
    assert len(envoy.shard.devices) == 64
