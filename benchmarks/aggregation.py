"""How fast is the weighted average, against numpy adding up the same arrays in memory?

Three baselines. ``numpy sum f4`` adds the arrays in place into a float32 one, with no weights: the least that any
average must do, and less exact. ``numpy sum f8`` adds them into a float64 one: our accuracy, still no weights.
``numpy average`` stacks all arrays and calls ``numpy.average``.

Ours reads the arrays from memory, and from mapped files in which they begin at an odd address, as in uploads that are
kept. ``--parameters N`` measures 16 collaborators with N parameters alone; 64,000,000 need 5 GB of memory and as much
for files. ``numpy average`` would take four times that, and is left out from 16,000,000 on.
The robust functions follow, in seconds beside numpy's own median.
"""

from __future__ import annotations

import mmap
import tempfile
from functools import partial
from typing import Any

import numpy as np
from _harness import Candidate, Comparison, compare, expect, options_of, report
from numpy.typing import NDArray

from openfl_aio.tensors.aggregation import AggregationContext, LocalTensor, WeightedAverage, get_aggregation

CONTEXT = AggregationContext("weights", 0)
CHECKED = 1_000_000  # elements whose average is compared with numpy's
LARGE = 16_000_000

ROBUST = ("median", "trimmed_mean", "geometric_median", "multi_krum", "bulyan", "adam")


def local_tensors(arrays: list[NDArray[np.float32]], weights: list[float]) -> list[LocalTensor]:
    pairs = enumerate(zip(weights, arrays, strict=True))
    return [LocalTensor(f"c{i}", weight, values, kept=True) for i, (weight, values) in pairs]


def weighted_average(arrays: list[NDArray[np.float32]], weights: list[float]) -> NDArray[np.float32]:
    return WeightedAverage().aggregate(local_tensors(arrays, weights), CONTEXT)


def mapped(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the array as a view of a mapped file, from its second byte on."""
    with tempfile.TemporaryFile() as file:
        file.write(b"x")
        file.write(array.data)
        file.flush()
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    return np.frombuffer(view[1:], np.float32)


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

    expected = numpy_average([array[:CHECKED] for array in arrays], weights)
    expect(
        np.allclose(weighted_average(arrays, weights)[:CHECKED], expected, rtol=1e-5, atol=1e-6),
        f"the average of {collaborators} x {parameters} is not numpy's",
    )
    files = [mapped(array) for array in arrays]
    expect(
        np.array_equal(weighted_average(files, weights), weighted_average(arrays, weights)),
        "the average from files is another",
    )
    ours = Candidate("weighted_average", lambda: weighted_average(arrays, weights))
    from_files = Candidate("from files", lambda: weighted_average(files, weights))
    sums = Candidate("numpy sum f4", lambda: numpy_sum(arrays, np.float32))
    others = [Candidate("numpy sum f8", lambda: numpy_sum(arrays, np.float64))]
    if parameters < LARGE:
        others.append(Candidate("numpy average", lambda: numpy_average(arrays, weights)))
    nbytes = collaborators * arrays[0].nbytes
    case = f"{collaborators} x {parameters:,}"
    comparisons = [compare(case, sums, one, pairs=pairs, nbytes=nbytes) for one in (ours, from_files)]
    return comparisons + [compare(case, one, ours, pairs=pairs, nbytes=nbytes) for one in others]


def measure_robust(collaborators: int, parameters: int, pairs: int) -> list[Comparison]:
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(parameters, np.float32) for _ in range(collaborators)]
    tensors = local_tensors(arrays, [1.0] * collaborators)
    context = AggregationContext("weights", 0, (), np.zeros(parameters, np.float32))
    median = Candidate("numpy median", lambda: np.median(arrays, axis=0))
    expect(
        np.allclose(get_aggregation("median").aggregate(tensors, context), np.median(arrays, axis=0), atol=1e-6),
        "the median is not numpy's",
    )
    return [
        compare(
            f"{collaborators} x {parameters:,}",
            median,
            Candidate(name, partial(get_aggregation(name).aggregate, tensors, context)),
            pairs=pairs,
            nbytes=collaborators * arrays[0].nbytes,
        )
        for name in ROBUST
    ]


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--parameters", type=int, default=0, metavar="N", help="16 collaborators with N each, no more")
    options = parser.parse_args()
    options.pairs = options.pairs or (3 if options.small else 15)
    sizes = [(2, 1_000), (3, 40_000)] if options.small else [(8, 10_000), (8, 1_000_000), (16, 8_000_000)]
    if options.parameters:
        sizes = [(16, options.parameters)]
    comparisons = [one for size in sizes for one in measure(*size, options.pairs)]
    if not options.parameters:
        comparisons += measure_robust(*((7, 1_000) if options.small else (16, 1_000_000)), pairs=min(options.pairs, 5))
    report("aggregation: collaborators x parameters, float32", comparisons, options)


if __name__ == "__main__":
    main()
