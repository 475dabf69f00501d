"""How fast does our client get a tensor from our aggregator, against grpclib that hands out a reply that lies ready?

Both over TCP on the loopback, in plaintext, client and server in one event loop; both end with a numpy array. Ours
encodes the tensor once per round and answers from that; see ``_network.py`` for the other.
"""

from __future__ import annotations

import numpy as np
from _harness import Candidate, Comparison, arguments, compare, expect, report
from _network import DiscardingServer, client_of, event_loop, stock, within
from numpy.typing import NDArray

from openfl_aio.aggregator.service import Aggregator
from openfl_aio.config import AggregatorConfig, Endpoint, Timeouts
from openfl_aio.domain import TensorQuery
from openfl_aio.tensors.codec import TensorCodec
from openfl_aio.wire import messages


def measure(parameters: int, pairs: int) -> Comparison:
    values = np.random.default_rng(0).standard_normal(parameters, np.float32)
    config = AggregatorConfig(collaborators=("one",), rounds=1, listen=Endpoint(), timeouts=Timeouts(drain=1))
    ready = DiscardingServer()
    ready.reply.tensor = messages.NamedTensor(
        name="w",
        lossless=True,
        tags=["compressed", "model"],
        transformer_metadata=[messages.MetadataProto(int_list=list(values.shape))],
        data_bytes=values.tobytes(),
    )
    got: dict[str, NDArray[np.float32]] = {}
    with (
        event_loop() as portal,
        portal.wrap_async_context_manager(Aggregator(config, initial_model={"w": values})) as aggregator,
        portal.wrap_async_context_manager(client_of(aggregator, "one")) as client,
        portal.wrap_async_context_manager(stock(ready)) as stub,
    ):

        async def ours() -> None:
            tensor = await client.get_aggregated_tensor(TensorQuery("w", 0, tags=("model",)))
            got["ours"] = TensorCodec().decode(tensor)

        async def theirs() -> None:
            request = messages.aggregator.GetAggregatedTensorRequest(tensor_name="w", tags=["model"])
            reply = await stub.get_aggregated_tensor(request)
            assert reply.tensor is not None
            got["theirs"] = np.frombuffer(reply.tensor.data_bytes, np.float32)

        result = compare(
            f"{values.nbytes / 2**20:g} MiB",
            Candidate("grpclib, ready reply", lambda: portal.call(within, theirs)),
            Candidate("aggregator", lambda: portal.call(within, ours)),
            pairs=pairs,
            nbytes=values.nbytes,
            sample_seconds=0.0,
        )
    for name, array in got.items():
        expect(np.array_equal(array, values), f"{name}: the tensor that came is not the one in the model")
    return result


def main() -> None:
    options = arguments(__doc__)
    sizes = [2**14, 2**18] if options.small else [2**18, 2**23]
    comparisons = [measure(size, options.pairs) for size in sizes]
    report("download: one float32 tensor over the loopback", comparisons, options)


if __name__ == "__main__":
    main()
