"""k-means of numbers on a line: few values that stand for many with the least sum of squared errors.

OpenFL 1.6 uses scikit-learn's KMeans, which starts at random and keeps the best of a few tries. On a line the best
clusters are ranges of the sorted values, so that they are found by dynamic programming instead: exactly for up to
`CANDIDATES` different values, else among that many places to cut, and then improved until no value is nearer to
another centre (Lloyd, "Least squares quantization in PCM", 1982). There is no chance in it: equal values give equal
centres.

The recurrence and why the best last cut never moves left (which makes it fast) are in Wang and Song,
"Ckmeans.1d.dp: Optimal k-means Clustering in One Dimension by Dynamic Programming", The R Journal 3/2 (2011),
and Grønlund et al., "Fast Exact k-Means, k-Medians and Bregman Divergence Clustering in 1D" (2017).
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["CANDIDATES", "cluster"]

CANDIDATES: Final = 2048

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Positions = NDArray[np.int64]


def cluster(values: Floats, clusters: int) -> tuple[Floats, NDArray[np.uint8]]:
    """Return ascending centres, at most ``clusters`` (1 to 256) of them, and for each of ``values`` the index of its own.

    ``values`` are flat and finite. As many different values as clusters, or fewer, are kept as they are.
    """
    ordered = np.sort(values)
    cuts = _places_to_cut(ordered)
    if len(cuts) <= clusters:
        starts = cuts
        centres = ordered[starts]
    else:
        # sums that differ in size by the mean's square alone would lose the digits that matter
        middle = float(ordered.mean(dtype=np.float64))
        sums = np.concatenate(([0.0], np.cumsum(np.add.reduceat(ordered, cuts, dtype=np.float64))))
        places = np.append(cuts, len(ordered))
        sums -= middle * places
        starts = places[_best_cuts(sums, places, clusters)]
        starts, means = _settled(ordered, starts, _Sums(ordered, sums, places, middle))
        # equal values stay just what they are: a zero does not become nearly zero
        first, last = ordered[starts], ordered[np.append(starts[1:], len(ordered)) - 1]
        centres = np.where(first == last, first, means + middle).astype(np.float32)
    labels = np.zeros(len(values), np.uint8)
    for start in starts[1:]:
        labels += values >= ordered[start]
    return centres, labels


def _places_to_cut(ordered: Floats) -> Positions:
    """Return where clusters may begin, ascending from 0, each at the first of equal values."""
    if not len(ordered):
        return np.empty(0, np.int64)
    changes = ordered[1:] != ordered[:-1]
    if np.count_nonzero(changes) < CANDIDATES:
        return np.concatenate(([0], np.flatnonzero(changes) + 1))
    # half of them with as many values in between, half as far from each other: crowds and outliers alike
    half = CANDIDATES // 2
    crowded = ordered[np.linspace(0, len(ordered) - 1, half).astype(np.int64)]
    spread = np.linspace(float(ordered[0]), float(ordered[-1]), half).astype(np.float32)
    return np.unique(np.searchsorted(ordered, np.concatenate((crowded, np.clip(spread, ordered[0], ordered[-1])))))


def _best_cuts(sums: Doubles, places: Positions, clusters: int) -> Positions:
    """Return at which of ``places`` the best clusters begin, as indices; ``sums`` are those of all values before each.

    The least sum of squared errors is the most of ``(sum of a cluster)² / its size``, summed over the clusters.
    """
    best = np.concatenate(([0.0], sums[1:] ** 2 / places[1:]))  # of one cluster up to each place
    lasts = []
    for _ in range(clusters - 1):
        best, last = _with_one_more(best, sums, places)
        lasts.append(last)
    cuts = [len(places) - 1]
    for last in reversed(lasts):
        cuts.append(int(last[cuts[-1]]))
    return np.unique([0, *cuts[1:]])


def _with_one_more(before: Doubles, sums: Doubles, places: Positions) -> tuple[Doubles, Positions]:
    """Return the best of one cluster more up to each place, and where the last one begins.

    The best begin never moves left while the place moves right. So a place in the middle bounds those on both sides,
    and a whole level of such middles is looked at at once.
    """
    count = len(places)
    best, last = np.zeros(count), np.zeros(count, np.int64)
    low, high = np.array([1]), np.array([count - 1])  # places to find, inclusive
    least, most = np.array([0]), np.array([count - 2])  # where their last cluster may begin, inclusive
    while len(low):
        middle = (low + high) // 2
        widths = np.minimum(most, middle - 1) - least + 1
        offsets = np.cumsum(widths) - widths
        begins = np.arange(widths.sum()) + np.repeat(least - offsets, widths)
        ends = np.repeat(middle, widths)
        gains = before[begins] + (sums[ends] - sums[begins]) ** 2 / (places[ends] - places[begins])
        best[middle] = np.maximum.reduceat(gains, offsets)
        hits = np.flatnonzero(gains == np.repeat(best[middle], widths))
        first = hits[np.searchsorted(hits, offsets)]
        last[middle] = begins[first]
        left, right = low < middle, middle < high
        low, high, least, most = (
            np.concatenate((low[left], middle[right] + 1)),
            np.concatenate((middle[left] - 1, high[right])),
            np.concatenate((least[left], last[middle][right])),
            np.concatenate((last[middle][left], most[right])),
        )
    return best, last


class _Sums:
    """The sum of the values less ``middle`` before any position, from the sums at known places."""

    def __init__(self, ordered: Floats, sums: Doubles, places: Positions, middle: float) -> None:
        self._ordered, self._sums, self._places, self._middle = ordered, sums, places, middle

    def before(self, position: int) -> float:
        index = int(np.searchsorted(self._places, position, side="right")) - 1
        start = int(self._places[index])
        between = float(self._ordered[start:position].sum(dtype=np.float64))
        return float(self._sums[index]) + between - self._middle * (position - start)

    def means(self, bounds: list[int]) -> tuple[Doubles, float]:
        """Return the mean of each cluster less the middle, and the sum of ``mean² * size``: the more, the less error."""
        sums, sizes = np.diff([self.before(position) for position in bounds]), np.diff(bounds)
        return sums / sizes, float(np.sum(sums**2 / sizes))

    def first_from(self, value: float) -> int:
        """Return the position of the first element of at least ``value`` plus the middle."""
        return bisect_left(self._ordered, value + self._middle)


def _settled(ordered: Floats, starts: Positions, sums: _Sums) -> tuple[Positions, Doubles]:
    """Move the clusters' begins half way between their means until nothing gets better; return them and the means."""
    bounds = [*(int(start) for start in starts), len(ordered)]
    means, gain = sums.means(bounds)
    while True:
        halves = (means[1:] + means[:-1]) / 2
        moved = [0, *(sums.first_from(float(half)) for half in halves), len(ordered)]
        # by the rounding of sums a cluster could lose its last value, or things seem to get worse
        if len(set(moved)) < len(moved) or (better := sums.means(moved))[1] <= gain:
            break
        bounds, (means, gain) = moved, better
    return np.array(bounds[:-1], np.int64), means
