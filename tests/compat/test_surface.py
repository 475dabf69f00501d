"""The documented surface of OpenFL's transport: names, parameters, defaults, and what is awaited, as data."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openfl_aio import compat
from openfl_aio.aggregator.service import Aggregator
from openfl_aio.config import AggregatorConfig
from openfl_aio.director.service import Director

CLIENT_FILES = "tls=True, root_certificate=None, private_key=None, certificate=None"
CALL = "request, context"

# class -> method -> (parameters without annotations, what it is)
SURFACE: dict[str, dict[str, tuple[str, str]]] = {
    "AggregatorGRPCClient": {
        "__init__": (
            "agg_addr, agg_port, disable_client_auth, root_certificate, certificate, private_key, tls=True, "
            "aggregator_uuid=None, federation_uuid=None, single_col_cert_common_name=None, **kwargs",
            "function",
        ),
        "create_insecure_channel": ("uri", "function"),
        "create_tls_channel": ("uri, root_certificate, disable_client_auth, certificate, private_key", "coroutine"),
        "disconnect": ("", "coroutine"),
        "reconnect": ("", "coroutine"),
        "validate_response": ("reply, collaborator_name", "function"),
        "get_tasks": ("collaborator_name", "coroutine"),
        "get_aggregated_tensor": (
            "collaborator_name, tensor_name, round_number, report, tags, require_lossless",
            "coroutine",
        ),
        "send_local_task_results": (
            "collaborator_name, round_number, task_name, data_size, named_tensors",
            "coroutine",
        ),
    },
    "AggregatorGRPCServer": {
        "__init__": (
            "aggregator, agg_port, tls=True, disable_client_auth=False, root_certificate=None, certificate=None, "
            "private_key=None, **kwargs",
            "function",
        ),
        "GetAggregatedTensor": (CALL, "coroutine"),
        "GetTasks": (CALL, "coroutine"),
        "SendLocalTaskResults": (CALL, "coroutine"),
        "check_request": ("request", "function"),
        "get_header": ("collaborator_name", "function"),
        "get_server": ("", "function"),
        "serve": ("", "coroutine"),
        "validate_collaborator": (CALL, "function"),
    },
    "DirectorGRPCServer": {
        "__init__": (
            "*, director_cls, tls=True, root_certificate=None, private_key=None, certificate=None, "
            "review_plan_callback=None, listen_host='[::]', listen_port=50051, envoy_health_check_period=0, **kwargs",
            "function",
        ),
        "GetDatasetInfo": (CALL, "coroutine"),
        "GetEnvoys": (CALL, "coroutine"),
        "GetExperimentData": (CALL, "generator"),
        "GetExperimentDescription": (CALL, "coroutine"),
        "GetExperimentStatus": (CALL, "coroutine"),
        "GetExperimentsList": (CALL, "coroutine"),
        "GetMetricStream": (CALL, "generator"),
        "GetTrainedModel": (CALL, "coroutine"),
        "RemoveExperimentData": (CALL, "coroutine"),
        "SetExperimentFailed": (CALL, "coroutine"),
        "SetNewExperiment": ("stream, context", "coroutine"),
        "UpdateEnvoyStatus": (CALL, "coroutine"),
        "UpdateShardInfo": (CALL, "coroutine"),
        "WaitExperiment": (CALL, "coroutine"),
        "get_caller": ("context", "function"),
        "start": ("", "coroutine"),
    },
    "DirectorClient": {
        "__init__": (
            "*, client_id, director_host, director_port, tls, root_certificate, private_key, certificate",
            "function",
        ),
        "set_new_experiment": ("name, col_names, arch_path, initial_tensor_dict=None", "coroutine"),
        "get_experiment_status": ("experiment_name", "coroutine"),
        "get_dataset_info": ("", "coroutine"),
        "get_best_model": ("experiment_name", "coroutine"),
        "get_last_model": ("experiment_name", "coroutine"),
        "stream_metrics": ("experiment_name", "generator"),
        "remove_experiment_data": ("name", "coroutine"),
        "get_envoys": ("raw_result=False", "coroutine"),
        "get_experiments_list": ("", "coroutine"),
        "get_experiment_description": ("name", "coroutine"),
    },
    "ShardDirectorClient": {
        "__init__": (f"*, director_host, director_port, shard_name, {CLIENT_FILES}", "function"),
        "report_shard_info": ("shard_descriptor, cuda_devices", "coroutine"),
        "wait_experiment": ("", "coroutine"),
        "get_experiment_data": ("experiment_name", "generator"),
        "set_experiment_failed": ("experiment_name, error_code=1, error_description=''", "coroutine"),
        "send_health_check": ("*, envoy_name, is_experiment_running, cuda_devices_info=None", "coroutine"),
    },
}
MORE = {"DirectorGRPCServer": {"endpoint"}}  # a port of 0 has to be told


def kind_of(function: Any) -> str:
    if inspect.iscoroutinefunction(function):
        return "coroutine"
    return "generator" if inspect.isasyncgenfunction(function) else "function"


def parameters_of(function: Any) -> str:
    first, *parameters = inspect.signature(function).parameters.values()
    assert first.name == "self"
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    return str(inspect.Signature(bare)).strip("()")


@pytest.mark.parametrize(
    ("owner", "method"), [(owner, method) for owner, methods in SURFACE.items() for method in methods]
)
def test_a_method_is_as_documented(owner: str, method: str) -> None:
    function = getattr(getattr(compat, owner), method)
    assert (parameters_of(function), kind_of(function)) == SURFACE[owner][method]


@pytest.mark.parametrize("owner", SURFACE)
def test_nothing_else_is_public(owner: str) -> None:
    names = {name for name in dir(getattr(compat, owner)) if not name.startswith("_")} | {"__init__"}
    assert names == set(SURFACE[owner]) | MORE.get(owner, set())


def test_the_package_gives_these_names_and_no_others() -> None:
    assert set(dir(compat)) == set(SURFACE) | {"blocking"}
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = compat.Nothing


def an_aggregator() -> Aggregator:
    config = AggregatorConfig(collaborators=("one",), rounds=1)
    return Aggregator(config, initial_model={"w": np.zeros(1, np.float32)})


def test_the_attributes_of_a_client() -> None:
    client = compat.AggregatorGRPCClient("host", 1, False, "ca", "crt", "key", True, "aggregator_f", "f", "cn")
    assert (client.uri, client.tls, client.disable_client_auth) == ("host:1", True, False)
    assert (client.root_certificate, client.certificate, client.private_key) == ("ca", "crt", "key")
    assert (client.aggregator_uuid, client.federation_uuid) == ("aggregator_f", "f")
    assert client.single_col_cert_common_name == "cn"


def test_the_attributes_of_an_aggregator_server() -> None:
    aggregator = an_aggregator()
    server = compat.AggregatorGRPCServer(aggregator, 5, True, True, "ca", "crt", "key")
    assert server.aggregator is aggregator
    assert (server.uri, server.tls, server.disable_client_auth) == ("[::]:5", True, True)
    assert (server.root_certificate, server.certificate, server.private_key) == ("ca", "crt", "key")
    assert (server.server, server.server_credentials) == (None, None)
    made = server.get_server()
    assert server.get_server() is made is server.server
    assert server.server_credentials is not None
    assert not server.server_credentials.require_client_certificate


def test_the_attributes_of_a_director_server() -> None:
    server = compat.DirectorGRPCServer(
        director_cls=Director, root_certificate="ca", private_key="key", certificate="crt", sample_shape=[1, "2"]
    )
    assert isinstance(server.director, Director)
    assert (server.listen_uri, server.tls, server.server) == ("[::]:50051", True, None)
    assert server.root_certificate == Path.cwd() / "ca"
    assert (server.private_key, server.certificate) == (Path.cwd() / "key", Path.cwd() / "crt")
    assert server.director.config.tls is not None
    assert server.director.config.tls.ca == server.root_certificate
    assert server.director.config.sample_shape == ("1", "2")
    assert server.director.config.envoy_health_check_period == 60


def test_servers_take_the_lists_of_denied_certificates() -> None:
    lists: dict[str, Any] = {"deny_list": "deny.txt", "crl": Path("ca.crl")}
    server = compat.AggregatorGRPCServer(an_aggregator(), 5, True, False, "ca", "crt", "key", **lists)
    server.get_server()
    director = compat.DirectorGRPCServer(
        director_cls=Director, root_certificate="ca", private_key="key", certificate="crt", **lists
    )
    for tls in (server.server_credentials, director.director.config.tls):
        assert tls is not None
        assert (tls.deny_list, tls.crl) == (Path("deny.txt"), Path("ca.crl"))


def test_without_tls_only_this_machine_is_served_unless_the_caller_insists() -> None:
    assert compat.AggregatorGRPCServer(an_aggregator(), 5, tls=False).uri == "localhost:5"
    assert compat.DirectorGRPCServer(director_cls=Director, tls=False).listen_uri == "localhost:50051"
    insisting = compat.AggregatorGRPCServer(an_aggregator(), 5, tls=False, allow_plaintext_anywhere=True)
    assert insisting.uri == "[::]:5"


# what each class takes beside its documented parameters, as README.md's table says; everything else is a TypeError
NETWORK = {"client_reconnect_interval", "cert_folder", "hash_salt"}
EXTRA = {
    "AggregatorGRPCClient": NETWORK,
    "AggregatorGRPCServer": {*NETWORK, "agg_addr", "allow_plaintext_anywhere", "crl", "deny_list"},
    "DirectorGRPCServer": {
        *{"sample_shape", "target_shape", "install_requirements", "workspace"},
        *{"allow_plaintext_anywhere", "crl", "deny_list"},
    },
}
MAKE: dict[str, Callable[..., object]] = {
    "AggregatorGRPCClient": lambda **kwargs: compat.AggregatorGRPCClient(
        "host", 1, False, "ca", "crt", "key", **kwargs
    ),
    "AggregatorGRPCServer": lambda **kwargs: compat.AggregatorGRPCServer(an_aggregator(), 5, **kwargs),
    "DirectorGRPCServer": lambda **kwargs: compat.DirectorGRPCServer(director_cls=Director, tls=False, **kwargs),
}
CASES = [(owner, name) for owner in EXTRA for name in sorted({"reconnect", "workers"}.union(*EXTRA.values()))]


@pytest.mark.parametrize(("owner", "name"), [case for case in CASES if case != ("AggregatorGRPCClient", "agg_addr")])
def test_a_keyword_argument_is_taken_or_refused(owner: str, name: str) -> None:
    values: dict[str, Any] = {"client_reconnect_interval": 5, "sample_shape": [1], "target_shape": [1]}
    values["install_requirements"] = True
    arguments = {name: values.get(name)}
    if name in EXTRA[owner]:
        MAKE[owner](**arguments)
    else:
        with pytest.raises(TypeError, match=f"{owner}: unexpected keyword argument '{name}'"):
            MAKE[owner](**arguments)


@pytest.mark.parametrize("owner", EXTRA)
def test_the_readme_names_every_keyword_argument(owner: str) -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (row,) = [line for line in text.splitlines() if line.startswith(f"| further keyword arguments of `{owner}` |")]
    assert set(re.findall("`([a-z_]+)`", row)) == EXTRA[owner]


def test_what_a_plan_of_openfl_hands_on_is_taken() -> None:
    network: dict[str, Any] = {"agg_addr": "host", "agg_port": 5, "tls": False, "disable_client_auth": False}
    network |= {"hash_salt": "auto", "client_reconnect_interval": 5, "cert_folder": "cert"}  # OpenFL's defaults
    network |= {"root_certificate": "ca", "certificate": "crt", "private_key": "key"}  # which Plan adds
    compat.AggregatorGRPCClient(**network, aggregator_uuid="aggregator_f", federation_uuid="f")
    compat.AggregatorGRPCServer(**network, aggregator=an_aggregator())
