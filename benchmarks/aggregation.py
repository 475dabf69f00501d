"""How fast is the weighted average, against numpy adding up the same arrays in memory?

Three baselines. ``numpy sum f4`` adds the arrays in place into a float32 one, with no weights: the least that any
average must do, and less exact. ``numpy sum f8`` adds them into a float64 one: our accuracy, still no weights.
``numpy average`` stacks all arrays and calls ``numpy.average``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from _harness import Candidate, Comparison, arguments, compare, expect, report
from numpy.typing import NDArray

from openfl_aio.tensors.aggregation import AggregationContext, LocalTensor, WeightedAverage

CONTEXT = AggregationContext("weights", 0)


def weighted_average(arrays: list[NDArray[np.float32]], weights: list[float]) -> NDArray[np.float32]:
    tensors = (LocalTensor("c", weight, values) for weight, values in zip(weights, arrays, strict=True))
    return WeightedAverage().aggregate(tensors, CONTEXT)


def numpy_sum(arrays: list[NDArray[np.float32]], dtype: type[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    total = np.zeros(arrays[0].shape, dtype)
    for array in arrays:
        total += array
    return total


def numpy_average(arrays: list[NDArray[np.float32]], weights: list[float]) -> NDArray[np.float64]:
    average: NDArray[np.float64] = np.average(arrays, axis=0, weights=weights)
    return average


def measure(collaborators: int, parameters: int, pairs: int) -> list[Comparison]:
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(parameters, np.float32) for _ in range(collaborators)]
    weights = [float(weight) for weight in random.integers(1, 10_000, collaborators)]

    expected = numpy_average(arrays, weights)
    expect(
        np.allclose(weighted_average(arrays, weights), expected, rtol=1e-5, atol=1e-6),
        f"the average of {collaborators} x {parameters} is not numpy's",
    )
    ours = Candidate("weighted_average", lambda: weighted_average(arrays, weights))
    baselines = (
        Candidate("numpy sum f4", lambda: numpy_sum(arrays, np.float32)),
        Candidate("numpy sum f8", lambda: numpy_sum(arrays, np.float64)),
        Candidate("numpy average", lambda: numpy_average(arrays, weights)),
    )
    nbytes = collaborators * arrays[0].nbytes
    case = f"{collaborators} x {parameters:,}"
    return [compare(case, baseline, ours, pairs=pairs, nbytes=nbytes) for baseline in baselines]


def main() -> None:
    options = arguments(__doc__)
    sizes = [(2, 1_000), (3, 40_000)] if options.small else [(8, 10_000), (8, 1_000_000), (16, 8_000_000)]
    comparisons = [one for size in sizes for one in measure(*size, options.pairs)]
    report("weighted average: collaborators x parameters, float32", comparisons, options)


if __name__ == "__main__":
    main()
