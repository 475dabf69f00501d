"""Registration, liveness by an injected clock, and what is told of envoys."""

from __future__ import annotations

import pytest

from openfl_aio.director.shards import Shards
from openfl_aio.domain import DeviceInfo, ShardInfo
from openfl_aio.errors import ConfigurationError, ShardNotFoundError


def make() -> Shards:
    return Shards(sample_shape=["8", "8"], target_shape=["10"], health_check_period=60)


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
        make().park("../x", 0.0)
