"""Our program of a role, ``python -m tests.interop_openfl.traced ROLE ...``, which also prints which tensors pass.

As ``peers/traced_fx.py`` does for the real one: a line ``asked COLLABORATOR ROUND NAME TAGS`` for each tensor that is
asked for, and ``sent ...`` for each that comes.
"""

from __future__ import annotations

import importlib
import sys

from openfl_aio.aggregator.intake import Intake
from openfl_aio.aggregator.service import Aggregator
from openfl_aio.domain import TensorQuery, Verdict
from openfl_aio.tensors.codec import EncodedTensor
from openfl_aio.wire.incremental import TaskResultsIndex

answer, judge = Aggregator.get_aggregated_tensor, Intake._judge


def tell(what: str, collaborator: str, number: int, name: str, tags: tuple[str, ...]) -> None:
    """Print one tensor's line."""
    print(what, collaborator, number, name, ",".join(sorted(tags)), flush=True)  # noqa: T201 - the tests read it


async def asked(self: Aggregator, collaborator: str, query: TensorQuery) -> EncodedTensor:
    """Tell, and answer."""
    tell("asked", collaborator, query.round_number, query.tensor_name, query.tags)
    return await answer(self, collaborator, query)


def sent(self: Intake, collaborator: str, index: TaskResultsIndex) -> Verdict:
    """Tell, and judge."""
    for tensor in index.tensors:
        tell("sent", collaborator, tensor.round_number, tensor.name, tensor.tags)
    return judge(self, collaborator, index)


if __name__ == "__main__":
    Aggregator.get_aggregated_tensor = asked  # type: ignore[method-assign]
    Intake._judge = sent  # type: ignore[method-assign]
    sys.exit(importlib.import_module(f"openfl_aio.{sys.argv.pop(1)}.run").main())
