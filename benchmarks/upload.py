"""How fast does our aggregator take in an upload, journal and all, against grpclib that receives and discards?

Both over TCP on the loopback, in plaintext, client and server in one event loop. Ours checks the upload and keeps it
in the journal's file, in the temporary directory; see ``_network.py`` for the other.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from _harness import Candidate, Comparison, arguments, compare, expect, report
from _network import CHUNK_BYTES, DiscardingServer, client_of, event_loop, stock, within
from numpy.typing import NDArray

from openfl_aio.aggregator.service import Aggregator
from openfl_aio.config import AggregatorConfig, Endpoint, Timeouts
from openfl_aio.domain import Task, TaskKind
from openfl_aio.tensors.codec import TensorCodec
from openfl_aio.tensors.key import TensorKey
from openfl_aio.wire import messages

WARM_UP = 4  # calls that `compare` makes before it counts


def stock_chunks(values: NDArray[np.float32], task: str) -> Iterator[messages.DataStream]:
    """Yield an upload as OpenFL makes it: the whole message as bytes, cut in pieces."""
    tensor = messages.NamedTensor(
        name="w",
        lossless=True,
        tags=["compressed", "trained"],
        transformer_metadata=[messages.MetadataProto(int_list=list(values.shape))],
        data_bytes=values.tobytes(),
    )
    header = messages.aggregator.MessageHeader(sender="one", receiver="aggregator", federation_uuid="federation")
    data = bytes(messages.aggregator.TaskResults(header=header, task_name=task, data_size=1, tensors=[tensor]))
    for start in range(0, len(data), CHUNK_BYTES):
        piece = data[start : start + CHUNK_BYTES]
        yield messages.DataStream(size=len(piece), npbytes=piece)


def measure(parameters: int, pairs: int, folder: Path) -> Comparison:
    values = np.random.default_rng(0).standard_normal(parameters, np.float32)
    # one task for every call, so that each upload counts, and one more: its results close the round
    names = [f"train_{number}" for number in range(pairs + WARM_UP + 1)]
    config = AggregatorConfig(
        collaborators=("one",),
        rounds=1,
        tasks=tuple(Task(name, "train", TaskKind.TRAIN, apply_local=False) for name in names),
        workspace=folder,
        listen=Endpoint(),
        timeouts=Timeouts(drain=1),
    )
    discarding = DiscardingServer()
    with (
        event_loop() as portal,
        portal.wrap_async_context_manager(
            Aggregator(config, initial_model={"w": np.zeros(parameters, np.float32)})
        ) as aggregator,
        portal.wrap_async_context_manager(client_of(aggregator, "one")) as client,
        portal.wrap_async_context_manager(stock(discarding)) as stub,
    ):
        todo = iter(portal.call(client.get_tasks).tasks)

        async def ours() -> None:
            key = TensorKey.of("w", "one", 0, tags=("trained",))
            tensor = TensorCodec().encode(key, values)
            await client.send_local_task_results(
                round_number=0, task_name=next(todo).name, data_size=1, tensors=[tensor]
            )

        async def theirs() -> None:
            await stub.send_local_task_results(stock_chunks(values, names[0]))

        result = compare(
            f"{values.nbytes / 2**20:g} MiB",
            Candidate("grpclib, discards", lambda: portal.call(within, theirs)),
            Candidate("aggregator, journal", lambda: portal.call(within, ours)),
            pairs=pairs,
            nbytes=values.nbytes,
            sample_seconds=0.0,
        )
        expect(discarding.received > values.nbytes, "the stock server did not get the whole upload")
        portal.call(within, ours)
        expect(next(todo, None) is None, "there are tasks left over")
        model = portal.call(within, aggregator.wait_complete)
        expect(np.allclose(model["w"], values), "the aggregator's model is not what was uploaded")
    return result


def main() -> None:
    options = arguments(__doc__)
    sizes = [2**14, 2**18] if options.small else [2**18, 2**23]
    comparisons = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            comparisons.append(measure(size, options.pairs, Path(folder)))
    report("upload: one float32 tensor over the loopback", comparisons, options)


if __name__ == "__main__":
    main()
