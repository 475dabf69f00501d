"""Every call of both services, made with the stubs that the real OpenFL generated: what may come, and what is answered."""

from __future__ import annotations

import base64
import io
import json
import re
import zipfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio.to_thread
import numpy as np
import pytest

from openfl_aio.aggregator.service import Aggregator
from openfl_aio.compat import AggregatorGRPCServer, DirectorGRPCServer
from openfl_aio.config import AggregatorConfig, DirectorConfig, Endpoint, Timeouts, TLSConfig
from openfl_aio.director.service import Director
from openfl_aio.storage.keys import CertificateLayout
from tests.interop_openfl.processes import Programs, peer_python

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.timeout(120),
    pytest.mark.cell(client="OpenFL's stubs on grpcio"),
]

sides = pytest.mark.parametrize(
    ("kind", "security"),
    [
        ("ours", "plain"),
        pytest.param("ours", "mtls", marks=pytest.mark.full),
        pytest.param("facade", "plain", marks=pytest.mark.full),
        ("facade", "mtls"),
    ],
)
TIMEOUTS = Timeouts(drain=0.5, long_poll=1.0)
UUID, FEDERATION = "aggregator_plan.yaml_1", "plan.yaml_1"
HEADER = {"sender": "one", "receiver": UUID, "federation_uuid": FEDERATION}
PLAN = """\
aggregator: {template: openfl.component.Aggregator, settings: {rounds_to_train: 1}}
collaborator: {template: openfl.component.Collaborator, settings: {delta_updates: false}}
network: {template: openfl.federation.Network, settings: {agg_addr: localhost, agg_port: 1, tls: TLS}}
assigner:
  template: openfl.component.RandomGroupedAssigner
  settings: {task_groups: [{name: all, percentage: 1.0, tasks: [train]}]}
tasks: {settings: {}, train: {function: train, kwargs: {}}}
compression_pipeline: {template: openfl.pipelines.NoCompressionPipeline, settings: {}}
"""


@dataclass
class Row:
    """One call and what must come of it: ``status`` (alternatives with ``|``), a word of the details, fields."""

    what: str
    rpc: str
    call: dict[str, Any] = field(default_factory=dict)
    status: str = "OK"
    details: str = ""
    reply: dict[str, Any] | list[Any] | None = None  # compared as far as it goes
    only: str = ""  # "plain" or "mtls"


def header(**more: str) -> dict[str, str]:
    return HEADER | more


def request(**fields: Any) -> dict[str, Any]:
    return {"request": {"header": HEADER} | fields}


def encoded(*values: float) -> str:
    return base64.b64encode(np.array(values, np.float32).tobytes()).decode()


def tensor(**more: Any) -> dict[str, Any]:
    fields = {
        "name": "w",
        "lossless": True,
        "tags": ["compressed", "trained"],
        "transformer_metadata": [{"int_list": [2]}],
        "data_bytes": encoded(4, 5),
    }
    return fields | more


def results(*tensors: dict[str, Any], **more: Any) -> dict[str, Any]:
    fields = {"header": HEADER, "task_name": "train", "data_size": 3, "tensors": list(tensors)}
    return {"upload": fields | more}


METRIC = tensor(
    name="acc",
    report=True,
    tags=["compressed", "metric", "validate_agg"],
    transformer_metadata=[{"int_list": [1]}],
    data_bytes=encoded(0.5),
)
NOBODY = "PERMISSION_DENIED|INVALID_ARGUMENT|UNAUTHENTICATED"
SEEN = {"sender": UUID, "receiver": "one", "federation_uuid": FEDERATION}
GARBAGE = {"raw": "ff" * 40}
TOO_LARGE = {"raw": "0a04" + "00" * 4, "times": 2**20}
FOREIGN = request(header=header(sender="mallory"))
NAMED = {"request": {"experiment_name": FEDERATION}}

AGGREGATOR = [
    # ------------------------------------------------------------------------------------------------ GetTasks
    Row("the first tasks", "GetTasks", request(), reply={"header": SEEN, "tasks": [{}, {}, {}]}),
    Row("no header", "GetTasks", {}, NOBODY),
    Row("a stranger", "GetTasks", FOREIGN, "PERMISSION_DENIED", only="plain"),
    Row(
        "another aggregator", "GetTasks", request(header=header(receiver="aggregator")), "INVALID_ARGUMENT", "receiver"
    ),
    Row("another plan", "GetTasks", request(header=header(federation_uuid="x")), "INVALID_ARGUMENT", "same plan"),
    Row(
        "another certificate mode",
        "GetTasks",
        request(header=header(single_col_cert_common_name="x")),
        "INVALID_ARGUMENT",
        "single_col_cert_common_name",
    ),
    Row("another's name", "GetTasks", request(header=header(sender="two")), "UNAUTHENTICATED", only="mtls"),
    Row("garbage", "GetTasks", GARBAGE, "INVALID_ARGUMENT"),
    Row("too large", "GetTasks", TOO_LARGE, "RESOURCE_EXHAUSTED"),
    Row("nothing at all", "GetTasks", {"raw": ""}, NOBODY),
    # ------------------------------------------------------------------------------------- GetAggregatedTensor
    Row(
        "the initial model",
        "GetAggregatedTensor",
        request(tensor_name="w", tags=["model"], require_lossless=True),
        reply={"header": SEEN, "tensor": {"name": "w", "data_bytes": encoded(1, 1), "lossless": True}},
    ),
    Row("no such tensor", "GetAggregatedTensor", request(tensor_name="v", tags=["model"]), "NOT_FOUND", "'v'"),
    Row("no such tags", "GetAggregatedTensor", request(tensor_name="w", tags=["x"] * 9), "NOT_FOUND"),
    Row(
        "a round before all rounds",
        "GetAggregatedTensor",
        request(tensor_name="w", round_number=-(2**31), tags=["model"]),
        "NOT_FOUND",
    ),
    Row(
        "a round that never comes", "GetAggregatedTensor", request(tensor_name="w", round_number=2**31 - 1), "NOT_FOUND"
    ),
    Row("no header", "GetAggregatedTensor", {}, NOBODY),
    Row("another's name", "GetAggregatedTensor", request(header=header(sender="two")), "UNAUTHENTICATED", only="mtls"),
    Row("garbage", "GetAggregatedTensor", GARBAGE, "INVALID_ARGUMENT"),
    Row("too large", "GetAggregatedTensor", TOO_LARGE, "RESOURCE_EXHAUSTED"),
    # ------------------------------------------------------------------------------------ SendLocalTaskResults
    Row("nothing", "SendLocalTaskResults", {"stream": []}, "UNKNOWN"),
    Row("an empty chunk", "SendLocalTaskResults", {"stream": [{}]}, "UNKNOWN"),
    Row("garbage in a chunk", "SendLocalTaskResults", {"stream": [{"size": 3, "npbytes": "////"}]}, "INVALID_ARGUMENT"),
    Row("a size that lies", "SendLocalTaskResults", results(tensor()) | {"lie": 1}, "INVALID_ARGUMENT", "declared"),
    Row("garbage for a chunk", "SendLocalTaskResults", GARBAGE, "INVALID_ARGUMENT"),
    Row("half a header", "SendLocalTaskResults", {"stream": [{"npbytes": "CgI="}]}, "INVALID_ARGUMENT"),
    Row(
        "a stranger",
        "SendLocalTaskResults",
        results(header=header(sender="mallory")),
        "PERMISSION_DENIED",
        only="plain",
    ),
    Row(
        "another's name",
        "SendLocalTaskResults",
        results(header=header(sender="two")),
        "UNAUTHENTICATED",
        only="mtls",
    ),
    Row("another plan", "SendLocalTaskResults", results(header=header(federation_uuid="x")), "INVALID_ARGUMENT"),
    Row("no coding", "SendLocalTaskResults", results(tensor(tags=["trained"])), "INVALID_ARGUMENT"),
    Row("half a value", "SendLocalTaskResults", results(tensor(data_bytes="AAA=")), "INVALID_ARGUMENT"),
    Row(
        "a shape that is not its data's",
        "SendLocalTaskResults",
        results(tensor(transformer_metadata=[{"int_list": [2**30, 2**30]}])),
        "INVALID_ARGUMENT",
    ),
    Row(
        "a shape that is not the model's",
        "SendLocalTaskResults",
        results(tensor(transformer_metadata=[{"int_list": [1]}], data_bytes=encoded(1))),
        "INVALID_ARGUMENT",
    ),
    Row("a round to come", "SendLocalTaskResults", results(tensor(), round_number=7), reply={"header": SEEN}),
    Row("in chunks", "SendLocalTaskResults", results(tensor()) | {"chunk": 7, "after": True}, reply={"header": SEEN}),
    Row("a second time", "SendLocalTaskResults", results(tensor()) | {"after": True}, reply={"header": SEEN}),
    Row("a metric", "SendLocalTaskResults", results(METRIC, task_name="aggregated_model_validation"), reply={}),
    Row(
        "the tasks that are left",
        "GetTasks",
        request() | {"after": True},
        # who asks between training and the validation of what it trained was started anew, and trains again
        reply={"tasks": [{"name": "train"}, {"name": "locally_tuned_model_validation"}]},
    ),
    Row(
        "the last results",
        "SendLocalTaskResults",
        results(METRIC, task_name="locally_tuned_model_validation") | {"after": True},
        reply={},
    ),
    # ------------------------------------------------------------------------ the calls that OpenFL left out
    Row("quit", "GetTasks", request() | {"after": True}, reply={"quit": True}),
    Row(
        "the new model",
        "GetAggregatedTensor",
        request(tensor_name="w", round_number=1, tags=["model"], require_lossless=True),
        reply={"tensor": {"data_bytes": encoded(4, 5)}},
    ),
    Row("the last model", "GetTrainedModel", {"request": NAMED["request"] | {"model_type": 1}}, reply={}),
    Row(
        "a model that is none",
        "GetTrainedModel",
        {"raw": "180712" + f"{len(FEDERATION):02x}" + FEDERATION.encode().hex()},
    ),
    Row("all metrics", "GetMetricStream", NAMED, reply=[{}, {}, {}, {}]),
    Row(
        "how it went",
        "GetExperimentDescription",
        {"request": {"name": FEDERATION}},
        reply={"experiment": {"status": "finished"}},
    ),
    Row("another experiment", "GetExperimentDescription", {"request": {"name": "x"}}, "INVALID_ARGUMENT"),
    Row("another experiment", "GetTrainedModel", {"request": {"experiment_name": "x"}}, "INVALID_ARGUMENT"),
    Row("another experiment", "GetMetricStream", {"request": {"experiment_name": "x"}}, "INVALID_ARGUMENT"),
    Row("garbage", "GetTrainedModel", GARBAGE, "INVALID_ARGUMENT"),
    Row("garbage", "GetMetricStream", GARBAGE, "INVALID_ARGUMENT"),
    Row("garbage", "GetExperimentDescription", GARBAGE, "INVALID_ARGUMENT"),
    # ----------------------------------------------------------------------- what other releases call, and nobody
    Row("1.9 asks who is there", "Ping", {"raw": "0a" + "PING"}),
    Row("1.8 carries messages", "InteropRelay", {"raw": ""}, "UNIMPLEMENTED", "other frameworks"),
    Row("nobody's", "NoSuchCall", {"raw": ""}, "UNIMPLEMENTED"),
]

SHARD = {"node_info": {"name": "one", "cuda_devices": [{"index": 0}]}, "sample_shape": ["8"], "target_shape": ["1"]}
ALICE = {"metadata": {"client_id": "alice"}}


def archive(*, tls: bool) -> str:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zf:
        zf.writestr("plan/plan.yaml", PLAN.replace("TLS", str(tls).lower()))
    return base64.b64encode(buffer.getvalue()).decode()


def submission(name: str, *, tls: bool = False, **more: Any) -> dict[str, Any]:
    data = archive(tls=tls)
    fields = {
        "name": name,
        "collaborator_names": ["one"],
        "model_proto": {"tensors": [tensor(tags=["model"])]},
        "experiment_data": {"size": len(base64.b64decode(data)), "npbytes": data},
    }
    return {"stream": [fields | more]}


def about(name: str = "exp", **more: Any) -> dict[str, Any]:
    return {"request": {"experiment_name": name} | more}


def director_rows(*, tls: bool) -> list[Row]:
    mine = {} if tls else ALICE
    return [
        Row(
            "a shard of another shape", "UpdateShardInfo", {"request": {"shard_info": SHARD | {"sample_shape": ["9"]}}}
        ),
        Row("an envoy", "UpdateShardInfo", {"request": {"shard_info": SHARD}}, reply={"accepted": True}),
        Row("no shard", "UpdateShardInfo", {}, "INVALID_ARGUMENT"),
        Row(
            "a shard of nobody",
            "UpdateShardInfo",
            {"request": {"shard_info": {}}},
            "INVALID_ARGUMENT|PERMISSION_DENIED",
        ),
        Row("garbage", "UpdateShardInfo", GARBAGE, "INVALID_ARGUMENT"),
        Row(
            "another's name",
            "UpdateShardInfo",
            {"request": {"shard_info": SHARD | {"node_info": {"name": "two"}}}},
            "PERMISSION_DENIED",
            only="mtls",
        ),
        Row("unknown", "UpdateEnvoyStatus", {"request": {"name": "x"}}, "NOT_FOUND", "Unknown shard x", only="plain"),
        Row("another's name", "UpdateEnvoyStatus", {"request": {"name": "two"}}, "PERMISSION_DENIED", only="mtls"),
        Row(
            "more devices than it has",
            "UpdateEnvoyStatus",
            {"request": {"name": "one", "cuda_devices": [{"index": 0}, {"index": 1}]}, "after": True},
            reply={"health_check_period": "60s"},
        ),
        Row("garbage", "UpdateEnvoyStatus", GARBAGE, "INVALID_ARGUMENT"),
        Row("before any wait", "GetEnvoys", {"after": True}, reply={"envoy_infos": [{"is_online": True}]}),
        Row("garbage", "GetEnvoys", GARBAGE, "INVALID_ARGUMENT"),
        Row("the shapes", "GetDatasetInfo", {}, reply={"shard_info": {"sample_shape": ["8"]}}),
        Row("garbage", "GetDatasetInfo", GARBAGE, "INVALID_ARGUMENT"),
        Row(
            "nothing yet",
            "WaitExperiment",
            {"request": {"collaborator_name": "one"}, "timeout": 0.5},
            "DEADLINE_EXCEEDED",
        ),
        Row(
            "another's work",
            "WaitExperiment",
            {"request": {"collaborator_name": "two"}},
            "PERMISSION_DENIED",
            only="mtls",
        ),
        Row("garbage", "WaitExperiment", GARBAGE, "INVALID_ARGUMENT"),
        # ------------------------------------------------------------------------------------- submissions
        Row("nothing", "SetNewExperiment", {"stream": []}, "UNKNOWN"),
        Row("garbage", "SetNewExperiment", GARBAGE, "INVALID_ARGUMENT"),
        Row("no name", "SetNewExperiment", submission(""), "INVALID_ARGUMENT"),
        Row("a path for a name", "SetNewExperiment", submission("../victim"), "INVALID_ARGUMENT"),
        Row("nobody to work", "SetNewExperiment", submission("a", collaborator_names=[]), "INVALID_ARGUMENT"),
        Row("no model", "SetNewExperiment", submission("b", model_proto={}), "INVALID_ARGUMENT"),
        Row(
            "a size that lies",
            "SetNewExperiment",
            submission("c", experiment_data={"size": 9, "npbytes": "AAAA"}),
            "INVALID_ARGUMENT",
        ),
        Row(
            "a shape that is not its data's",
            "SetNewExperiment",
            submission("d", model_proto={"tensors": [tensor(transformer_metadata=[{"int_list": [2**30]}])]}),
            "INVALID_ARGUMENT",
        ),
        Row(
            "an experiment",
            "SetNewExperiment",
            submission("exp", tls=tls) | mine | {"after": True},
            reply={"accepted": True},
        ),
        Row("its name again", "SetNewExperiment", submission("exp") | {"after": True}, "ALREADY_EXISTS"),
        Row("work", "WaitExperiment", {"request": {"collaborator_name": "one"}}, reply={"experiment_name": "exp"}),
        Row("the archive", "GetExperimentData", about(collaborator_name="one") | {"after": True}, reply=[{}]),
        Row("no such archive", "GetExperimentData", about("x", collaborator_name="one"), "NOT_FOUND"),
        Row("garbage", "GetExperimentData", GARBAGE, "INVALID_ARGUMENT"),
        Row("another's archive", "GetExperimentData", about(collaborator_name="two"), "NOT_FOUND|PERMISSION_DENIED"),
        # ------------------------------------------------------------------------------------- following
        Row("at work", "GetExperimentStatus", about() | mine, reply={"experiment_status": "in_progress"}),
        Row("unknown", "GetExperimentStatus", about("x") | mine),
        Row("garbage", "GetExperimentStatus", GARBAGE, "INVALID_ARGUMENT"),
        Row("mine", "GetExperimentsList", dict(mine), reply={"experiments": [{"name": "exp", "tasks_amount": 1}]}),
        Row("garbage", "GetExperimentsList", GARBAGE, "INVALID_ARGUMENT"),
        Row(
            "mine",
            "GetExperimentDescription",
            {"request": {"name": "exp"}} | mine,
            reply={"experiment": {"name": "exp", "total_rounds": 1}},
        ),
        Row("unknown", "GetExperimentDescription", {"request": {"name": "x"}}, "NOT_FOUND"),
        Row("garbage", "GetExperimentDescription", GARBAGE, "INVALID_ARGUMENT"),
        Row(
            "the last",
            "GetTrainedModel",
            about(model_type=1) | mine,
            reply={"model_proto": {"tensors": [{"name": "w"}]}},
        ),
        Row("no best yet", "GetTrainedModel", about() | mine, reply={"model_proto": {}}),
        Row("unknown", "GetTrainedModel", about("x") | mine, reply={}),
        Row("a model that is none", "GetTrainedModel", {"raw": "1807120365787000"[:14]}),
        Row("garbage", "GetTrainedModel", GARBAGE, "INVALID_ARGUMENT"),
        Row("unknown", "GetMetricStream", about("x"), "NOT_FOUND"),
        Row("garbage", "GetMetricStream", GARBAGE, "INVALID_ARGUMENT"),
        Row("somebody else's", "GetExperimentStatus", about() | {"metadata": {"client_id": "bob"}}, only="plain"),
        Row(
            "somebody else's",
            "GetMetricStream",
            about() | {"metadata": {"client_id": "bob"}},
            "NOT_FOUND",
            only="plain",
        ),
        # ------------------------------------------------------------------------------------- the end
        Row("unknown", "SetExperimentFailed", about("x", collaborator_name="one")),
        Row("another's part", "SetExperimentFailed", about(collaborator_name="two"), "PERMISSION_DENIED", only="mtls"),
        Row("garbage", "SetExperimentFailed", GARBAGE, "INVALID_ARGUMENT"),
        Row("it failed", "SetExperimentFailed", about(collaborator_name="one", error_code=1) | {"after": True}),
        Row("failed", "GetExperimentStatus", about() | mine | {"after": True}, reply={"experiment_status": "failed"}),
        Row("no metrics came", "GetMetricStream", about() | mine, reply=[]),
        Row("unknown", "RemoveExperimentData", about("x"), reply={"acknowledgement": True}),
        Row("garbage", "RemoveExperimentData", GARBAGE, "INVALID_ARGUMENT"),
        Row("removed", "RemoveExperimentData", about() | mine | {"after": True}, reply={"acknowledgement": True}),
        Row("no more", "GetExperimentStatus", about() | mine | {"after": True}, reply={}),
        Row("nobody's", "NoSuchCall", {"raw": ""}, "UNIMPLEMENTED"),
    ]


def serialised_ping() -> str:
    """Return a PingRequest, which 1.6 has no class for."""
    inner = b"".join(
        bytes([number << 3 | 2, len(text)]) + text.encode() for number, text in enumerate(HEADER.values(), 1)
    )
    return (bytes([0x0A, len(inner)]) + inner).hex()


@asynccontextmanager
async def an_aggregator(kind: str, tls: TLSConfig | None) -> AsyncIterator[int]:
    config = AggregatorConfig(
        uuid=UUID,
        federation_uuid=FEDERATION,
        collaborators=("one", "two"),
        stragglers={"kind": "percentage", "percentage": 0.5},
        rounds=1,
        timeouts=TIMEOUTS,
    )
    listen = {} if kind == "facade" else {"listen": Endpoint(host="localhost"), "tls": tls}
    async with Aggregator(config.model_copy(update=listen), initial_model={"w": np.ones(2, np.float32)}) as aggregator:
        if kind == "ours":
            yield aggregator.endpoint.port
            return
        async with AggregatorGRPCServer(aggregator, 0, **arguments(tls)) as server:
            assert server.server is not None
            yield server.server.endpoint.port


@asynccontextmanager
async def a_director(kind: str, tls: TLSConfig | None) -> AsyncIterator[int]:
    shapes: dict[str, Any] = {"sample_shape": ("8",), "target_shape": ("1",)}
    if kind == "ours":
        config = DirectorConfig(listen=Endpoint(host="localhost"), tls=tls, timeouts=TIMEOUTS, **shapes)
        async with Director(config) as director:
            yield director.endpoint.port
        return
    async with DirectorGRPCServer(
        director_cls=Director, listen_host="localhost", listen_port=0, **arguments(tls), **shapes
    ) as server:
        yield server.endpoint.port


def arguments(tls: TLSConfig | None) -> dict[str, Any]:
    if tls is None:
        return {"tls": False}
    return {"root_certificate": tls.ca, "certificate": tls.certificate, "private_key": tls.private_key}


def fits(expected: Any, got: Any) -> bool:
    """Return whether ``got`` has what is expected of it; lists have as many items, the rest is nobody's business."""
    if isinstance(expected, dict):
        return isinstance(got, dict) and all(fits(value, got.get(key)) for key, value in expected.items())
    if isinstance(expected, list):
        return (
            isinstance(got, list) and len(got) == len(expected) and all(map(fits, expected, got))  # strict by the line
        )
    return bool(expected == got)


async def judge(
    programs: Programs,
    folder: Path,
    service: str,
    port: int,
    rows: Sequence[Row],
    files: list[str] | None,
    release: str = "1.6",
) -> list[str]:
    """Make the calls, and return what was not answered as it must be."""
    work = {
        "address": f"localhost:{port}",
        "service": service,
        "files": files,
        "calls": [{"rpc": row.rpc, **row.call} for row in rows],
    }
    path = anyio.Path(folder / "work.json")
    await path.write_text(json.dumps(work).replace("0aPING", serialised_ping()))

    def run() -> Any:
        said = programs.peer("calls", str(path), cwd=folder, release=release).succeed(90)
        return json.loads(said.strip().splitlines()[-1])

    wrong = []
    for row, answer in zip(rows, await anyio.to_thread.run_sync(run), strict=True):
        right = answer["status"] in row.status.split("|") and re.search(re.escape(row.details), answer["details"] or "")
        if not right or (row.reply is not None and not fits(row.reply, answer["reply"])):
            wrong.append(f"{row.rpc}, {row.what}: expected {row.status} {row.details} {row.reply}, got {answer}")
        if not right and answer["status"] in ("INTERNAL", "UNAVAILABLE"):
            wrong.append("no call may end like that")
    return wrong


@pytest.fixture
def files(ca_folder: Path, security: str) -> tuple[TLSConfig | None, list[str] | None]:
    if security == "plain":
        return None, None
    layout = CertificateLayout(ca_folder)
    server, client = layout.server("localhost"), layout.client("one")
    tls = TLSConfig(ca=layout.chain, certificate=server.certificate, private_key=server.private_key)
    return tls, [str(layout.chain), str(client.private_key), str(client.certificate)]


@sides
@pytest.mark.cell(server="{kind} aggregator", must="every call, good, bad and hostile, with its status")
async def test_the_aggregator(
    programs: Programs,
    tmp_path: Path,
    files: tuple[TLSConfig | None, list[str] | None],
    kind: str,
    security: str,
) -> None:
    rows = [row for row in AGGREGATOR if row.only in ("", security)]
    async with an_aggregator(kind, files[0]) as port:
        wrong = await judge(programs, tmp_path, "Aggregator", port, rows, files[1])
    assert not wrong, "\n".join(wrong)


@sides
@pytest.mark.cell(server="{kind} director", must="every call, good, bad and hostile, with its status")
async def test_the_director(
    programs: Programs,
    tmp_path: Path,
    files: tuple[TLSConfig | None, list[str] | None],
    kind: str,
    security: str,
) -> None:
    rows = [row for row in director_rows(tls=security == "mtls") if row.only in ("", security)]
    async with a_director(kind, files[0]) as port:
        wrong = await judge(programs, tmp_path, "Director", port, rows, files[1])
    assert not wrong, "\n".join(wrong)


LATER = [
    Row("who is there", "Ping", request(), reply={"header": SEEN}),
    Row("a stranger", "Ping", FOREIGN, "PERMISSION_DENIED"),
    Row("the first tasks", "GetTasks", request(), reply={"header": SEEN, "tasks": [{}, {}, {}]}),
    Row("messages to carry", "InteropRelay", request(message={"npbytes": "AAAA"}), "UNIMPLEMENTED", "other frameworks"),
]


@pytest.mark.full
@pytest.mark.parametrize(("release", "rows"), [("1.8", LATER[2:]), ("1.9", LATER)])
@pytest.mark.cell(server="our aggregator", must="Ping answered, InteropRelay refused with a sentence")
async def test_the_calls_of_later_releases(programs: Programs, tmp_path: Path, release: str, rows: list[Row]) -> None:
    peer_python(release)  # skips where it is not installed
    async with an_aggregator("ours", None) as port:
        wrong = await judge(programs, tmp_path, "Aggregator", port, rows, None, release)
    assert not wrong, "\n".join(wrong)


@pytest.mark.cell(server="our services", client="tables of calls", link="none", must="every call is in a table")
def test_every_call_of_both_services_is_in_the_tables() -> None:
    from openfl_aio.wire.messages import aggregator, director

    for base, rows in ((aggregator.AggregatorBase(), AGGREGATOR), (director.DirectorBase(), director_rows(tls=False))):
        assert {path.rpartition("/")[2] for path in base.__mapping__()} <= {row.rpc for row in rows}
