"""Makes calls with the stubs that the real OpenFL generated, on grpcio, and prints what came of each as JSON.

Argument: a file with ``{"address", "service", "files", "calls"}``. A call is ``{"rpc", ...}`` with one of ``request``
(fields of the message), ``stream`` (a list of them), ``upload`` (fields of a TaskResults, sent in chunks of ``chunk``
bytes) or ``raw`` (bytes as hexadecimal digits, sent as the message whatever it should be), and perhaps ``metadata``,
``timeout`` and ``after``: whether it is made when all before it are done, else together with its neighbours.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from openfl.protocols import aggregator_pb2, aggregator_pb2_grpc, base_pb2

WORK = json.loads(Path(sys.argv[1]).read_text())
if WORK["service"] == "Aggregator":
    PROTOS, STUBS = aggregator_pb2, aggregator_pb2_grpc.AggregatorStub
else:  # which later releases have not
    from openfl.protocols import director_pb2, director_pb2_grpc

    PROTOS, STUBS = director_pb2, director_pb2_grpc.DirectorStub
SERVICE = PROTOS.DESCRIPTOR.services_by_name[WORK["service"]]
# grpcio would let all channels of one process share a connection
OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 2**30),
    ("grpc.max_send_message_length", 2**30),
]


def connect():
    """Return a channel with TLS if there are files for it."""
    if not WORK["files"]:
        return grpc.insecure_channel(WORK["address"], options=OPTIONS)
    ca, key, certificate = (Path(path).read_bytes() for path in WORK["files"])
    return grpc.secure_channel(WORK["address"], grpc.ssl_channel_credentials(ca, key, certificate), options=OPTIONS)


def chunks(call):
    """Return the messages of an upload."""
    data = ParseDict(call["upload"], aggregator_pb2.TaskResults()).SerializeToString()
    size = call.get("chunk", 2**21)
    parts = [data[start : start + size] for start in range(0, len(data), size)]
    return [base_pb2.DataStream(size=len(part) + call.get("lie", 0), npbytes=part) for part in parts]


def begin(channel, call):
    """Start a call and return what grpcio gives for it."""
    more = {"metadata": list(call.get("metadata", {}).items()), "timeout": call.get("timeout", 30)}
    if "raw" in call:
        method = SERVICE.methods_by_name.get(call["rpc"])
        path = f"/{SERVICE.full_name}/{call['rpc']}"
        raw = bytes.fromhex(call["raw"]) * call.get("times", 1)
        if method is not None and method.server_streaming:
            return channel.unary_stream(path)(raw, **more)
        if method is not None and method.client_streaming:
            return channel.stream_unary(path)(iter([raw]), **more)
        return channel.unary_unary(path)(raw, **more)
    method = SERVICE.methods_by_name[call["rpc"]]
    stub = getattr(STUBS(channel), call["rpc"])
    request = GetMessageClass(method.input_type)
    if "upload" in call:
        return stub(iter(chunks(call)), **more)
    if "stream" in call:
        return stub(iter([ParseDict(fields, request()) for fields in call["stream"]]), **more)
    return stub(ParseDict(call.get("request", {}), request()), **more)


def shown(reply):
    """Return a message as fields; data are as long as they are."""
    return MessageToDict(reply, preserving_proto_field_name=True) if hasattr(reply, "DESCRIPTOR") else {}


def make(call):
    """Make a call to its end, in a channel of its own as OpenFL does."""
    with connect() as channel:
        try:
            answer = begin(channel, call)
            replies = [shown(reply) for reply in answer] if hasattr(answer, "__next__") else shown(answer)
        except grpc.RpcError as error:
            return {"status": error.code().name, "details": error.details(), "reply": None}
    return {"status": "OK", "details": "", "reply": replies}


def main():
    """Make all calls and print the answers in their order."""
    answers = []
    with ThreadPoolExecutor(12) as pool:
        for call in WORK["calls"]:
            if call.get("after"):
                for answer in answers:
                    answer.result()
            answers.append(pool.submit(make, call))
    print(json.dumps([answer.result() for answer in answers]))


main()
