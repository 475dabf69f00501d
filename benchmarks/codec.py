"""How fast does our wire codec read and write messages, against betterproto2's own, which accepts hostile bytes?

Candidates are ``decode`` (bytes are copied out), ``decode views`` (bytes fields are views), ``encode`` (one bytes
object) and ``encode_parts`` (a list of buffers, large ones not copied); baselines are ``parse`` and
``SerializeToString`` of the same generated classes.
"""

from __future__ import annotations

import random

import betterproto2
from _harness import Candidate, Comparison, arguments, compare, expect, report

from openfl_aio.wire import messages
from openfl_aio.wire.codec import decode, encode, encode_parts


def assignment() -> betterproto2.Message:
    """Return the answer to GetTasks: the smallest message that is sent often."""
    return messages.aggregator.GetTasksResponse(
        header=messages.aggregator.MessageHeader(
            sender="aggregator_plan.yaml_1a2b3c4d", receiver="hospital-1", federation_uuid="plan.yaml_5e6f7a8b"
        ),
        round_number=17,
        tasks=[
            messages.aggregator.Task(name=name, function_name=name, task_type="validate")
            for name in ("aggregated_model_validation", "train_batches", "locally_tuned_model_validation")
        ],
    )


def model(tensors: int, nbytes: int) -> betterproto2.Message:
    """Return a model of ``tensors`` tensors of ``nbytes`` bytes each."""
    source = random.Random(0)
    return messages.ModelProto(
        tensors=[
            messages.NamedTensor(
                name=f"block.{number}.weight",
                round_number=3,
                lossless=True,
                tags=["compressed", "model"],
                transformer_metadata=[messages.MetadataProto(int_list=[nbytes // 4])],
                data_bytes=source.randbytes(nbytes),
            )
            for number in range(tensors)
        ]
    )


def measure(case: str, message: betterproto2.Message, pairs: int) -> list[Comparison]:
    cls = type(message)
    data = message.SerializeToString()
    expect(encode(message) == data, f"{case}: encode gives other bytes")
    expect(b"".join(encode_parts(message)) == data, f"{case}: encode_parts gives other bytes")
    expect(decode(cls, data) == message, f"{case}: decode gives another message")
    expect(encode(decode(cls, data, views=True)) == data, f"{case}: decode with views gives another message")

    parse = Candidate("parse", lambda: cls.parse(data))
    serialize = Candidate("SerializeToString", message.SerializeToString)
    # No rate for what never touches the bytes.
    rivals = (
        (parse, Candidate("decode", lambda: decode(cls, data)), len(data)),
        (parse, Candidate("decode views", lambda: decode(cls, data, views=True)), 0),
        (serialize, Candidate("encode", lambda: encode(message)), len(data)),
        (serialize, Candidate("encode_parts", lambda: encode_parts(message)), 0),
    )
    return [compare(case, baseline, ours, pairs=pairs, nbytes=nbytes) for baseline, ours, nbytes in rivals]


def main() -> None:
    options = arguments(__doc__)
    small, large = [(3, 64), (1, 16 * 2**10)], [(200, 2**10), (20, 2**20), (1, 64 * 2**20)]
    models = small if options.small else large
    cases = {"GetTasksResponse": assignment()}
    cases |= {f"{tensors} x {nbytes // 4:,} float32": model(tensors, nbytes) for tensors, nbytes in models}
    comparisons = [one for case, message in cases.items() for one in measure(case, message, options.pairs)]
    report("wire codec against betterproto2's own", comparisons, options)


if __name__ == "__main__":
    main()
