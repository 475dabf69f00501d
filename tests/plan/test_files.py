from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from openfl_aio.config import DirectorConfig, Endpoint, ProcessLimits, Quotas, TLSConfig
from openfl_aio.errors import ConfigurationError
from openfl_aio.plan.files import (
    load_collaborators,
    load_data,
    load_director_config,
    load_director_file,
    load_envoy_config,
)


def _file(folder: Path, text: str, name: str = "config.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_director_file_of_openfl_is_read_unchanged(tmp_path: Path) -> None:
    text = """\
settings:
  listen_host: localhost
  listen_port: 50050
  sample_shape: ['28', '28', 3]
  target_shape: ['1']
  envoy_health_check_period: 5  # in seconds
"""
    config = load_director_config(_file(tmp_path, text))

    assert config.listen == Endpoint(host="localhost", port=50050)
    assert config.sample_shape == ("28", "28", "3")
    assert config.target_shape == ("1",)
    assert config.envoy_health_check_period == 5
    assert config.tls is None
    assert config.workspace is None
    assert config.public_host is None


def test_director_defaults_are_openfls(tmp_path: Path) -> None:
    config = load_director_config(_file(tmp_path, "settings: {listen_ip: localhost}"))

    assert config.listen == Endpoint(host="localhost", port=50051)
    assert config.envoy_health_check_period == 60
    assert not config.install_requirements
    assert not config.allow_plaintext_anywhere


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    text = "settings: {workspace: state, public_host: d.org}\nroot_certificate: ca\nprivate_key: /k\ncertificate: c/d.crt\n"
    config = load_director_config(_file(tmp_path, text))

    assert config.workspace == tmp_path / "state"
    assert config.public_host == "d.org"
    assert config.tls == TLSConfig(ca=tmp_path / "ca", certificate=tmp_path / "c" / "d.crt", private_key=Path("/k"))


def test_a_review_is_asked_for(tmp_path: Path) -> None:
    path = _file(tmp_path, "settings: {review_experiment: true}")

    assert load_director_file(path).config.review_experiment


def test_an_envoy_file_of_openfl_is_read_unchanged(tmp_path: Path) -> None:
    text = """\
params:
  cuda_devices: [0, 2]
  install_requirements: false

optional_plugin_components:
 cuda_device_monitor:
   template: openfl.plugins.processing_units_monitor.pynvml_monitor.PynvmlCUDADeviceMonitor
   settings: []

shard_descriptor:
  template: mnist_shard_descriptor.MnistShardDescriptor
  params:
    rank_worldsize: 1, 2
"""
    file = load_envoy_config(_file(tmp_path, text))
    config = file.config(name="env_one", director=Endpoint(port=50051))

    assert file.optional_plugin_components["cuda_device_monitor"]["settings"] == []
    assert not file.install_requirements
    assert not file.review_experiment
    assert config.name == "env_one"
    assert config.director.port == 50051
    assert config.shard_template == "mnist_shard_descriptor.MnistShardDescriptor"
    assert config.shard_params == {"rank_worldsize": "1, 2"}
    assert config.shard_path == tmp_path
    assert config.cuda_devices == (0, 2)
    assert config.tls is None


def test_the_least_envoy_file(tmp_path: Path) -> None:
    file = load_envoy_config(
        _file(tmp_path, "shard_descriptor: {template: 'my.shard:Shard', params: }\noptional_plugin_components: {}")
    )

    assert file.shard_params == {}
    assert file.cuda_devices == ()
    assert not file.install_requirements
    assert file.process_limits == ProcessLimits()


def test_limits_of_processes_are_ours_and_replace_the_defaults(tmp_path: Path) -> None:
    limits = "process_limits: {memory_bytes: 1000, task_seconds: null, environment: [SITE_*], run_as: alice}"
    file = load_envoy_config(_file(tmp_path, f"shard_descriptor: {{template: a.B}}\nparams: {{{limits}}}"))
    config = file.config(name="one", director=Endpoint())
    assert config.process_limits == ProcessLimits(
        memory_bytes=1000, task_seconds=None, environment=("SITE_*",), run_as="alice"
    )
    text = "settings: {process_limits: {cpu_seconds: 5}, quotas: {active: 3, disk_bytes: null}}"
    director = load_director_config(_file(tmp_path, text))
    assert director.quotas == Quotas(active=3, disk_bytes=None)
    assert director.process_limits == DirectorConfig().process_limits.model_copy(update={"cpu_seconds": 5.0})


@pytest.mark.parametrize("limits", ["{memory: 1}", "{memory_bytes: 0}", "{processes: many}", "{1: 2}"])
def test_wrong_limits_of_processes_are_named(tmp_path: Path, limits: str) -> None:
    path = _file(tmp_path, f"shard_descriptor: {{template: a.B}}\nparams:\n  process_limits: {limits}\n")
    name = re.escape(limits[1:].partition(":")[0])
    with pytest.raises(ConfigurationError, match=rf"line 3: params.process_limits: ProcessLimits: {name}: "):
        load_envoy_config(path)


def test_collaborators_and_data(tmp_path: Path) -> None:
    cols = _file(tmp_path, "# who\ncollaborators:\n  - one\n  - 2\n")
    data = _file(tmp_path, "# name,path\n\none,data/one\n two , a,b \n", "data.yaml")

    assert load_collaborators(cols) == ("one", "2")
    assert load_collaborators(_file(tmp_path, "collaborators:\n")) == ()
    assert load_collaborators(_file(tmp_path, "# nobody\n")) == ()
    assert load_data(data) == {"one": "data/one", "two": "a,b"}


def test_a_path_of_a_data_yaml_may_be_anything(tmp_path: Path) -> None:
    data = _file(tmp_path, " one , a b \ntwo,\r\nthree,a\x0cb\u2028c\n", "data.yaml")
    assert load_data(data) == {"one": "a b", "two": "", "three": "a\x0cb\u2028c"}


@pytest.mark.parametrize(
    ("load", "text", "message"),
    [
        (load_director_config, "", "settings: missing; expected keys such as listen_host"),
        (load_director_config, "setting: {}", "config.yaml, line 1: setting: unknown key; expected one of certificate"),
        (
            load_director_config,
            "settings:\n  listen_prt: 1",
            "line 2: settings.listen_prt: unknown key; expected one of",
        ),
        (load_director_config, "settings: {listen_port: x}", "expected a whole number from 0 to 65535, got 'x'"),
        (load_director_config, "settings: {sample_shape: 3}", "settings.sample_shape: expected a list, got 3"),
        (load_director_config, "settings: {sample_shape: [.5]}", "settings.sample_shape[0]: expected text, got 0.5"),
        (
            load_director_config,
            "settings: {envoy_health_check_period: 0}",
            "expected a whole number from 1 to 86400, got 0",
        ),
        (
            load_director_config,
            "settings: {listen_port: 1}\ncertificate: c",
            "root_certificate: missing; expected text",
        ),
        (load_director_config, "settings: [1]", "settings: expected a mapping of keys, got a list"),
        (load_envoy_config, "params: {}", "shard_descriptor.template: missing; expected text"),
        (load_envoy_config, "shard_descriptor: {template: a b}", "template: shard descriptor: expected a class path"),
        (load_envoy_config, "shard_descriptor: {template: a.B, params: {1: 2}}", "expected a parameter's name, got 1"),
        (load_envoy_config, "shard_descriptor: {template: a.B, param: {}}", "shard_descriptor.param: unknown key"),
        (load_envoy_config, "params: {gpu: 1}", "line 1: params.gpu: unknown key; expected one of cuda_devices"),
        (
            load_envoy_config,
            "shard_descriptor: {template: a.B}\nparams:\n  cuda_devices: [0, x]",
            "line 3: params.cuda_devices[1]: expected a whole number of at least 0, got 'x'",
        ),
        (load_collaborators, "collaborators: [a, a]", "collaborators[1]: expected each name once, got 'a' again"),
        (
            load_collaborators,
            "collaborators:\n - a\n - ../b",
            "line 3: collaborators[1]: collaborator '../b' is not a plain",
        ),
        (load_collaborators, "collaborators: a", "collaborators: expected a list, got 'a'"),
        (load_data, "one", "line 1: expected 'name,path', got 'one'"),
        (load_data, "\n,1", "line 2: expected 'name,path', got ',1'"),
        (load_data, "one,1\none,2", "line 2: expected each name once, got 'one' again"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, load: Callable[[Path], object], text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)) as caught:
        load(_file(tmp_path, text))

    assert str(caught.value).startswith(str(tmp_path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.yaml: cannot be read: No such file or directory"):
        load_director_config(tmp_path / "nowhere.yaml")
