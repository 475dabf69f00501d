"""What aggregation functions of OpenFL 1.6 see of its tensor database, made of what the director has of a round.

There are the global models of the rounds that are kept, tagged ``model``, from round 1 on ``aggregated`` too and in the round
before ``trained``; what the collaborators sent for this round, tagged with their names; and their metrics of all rounds. Deltas
are not there, nor what was aggregated of this round, nor the collaborators' tensors of earlier ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MethodType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["ROUND_PLACEHOLDER", "Row", "TensorDatabase"]

ROUND_PLACEHOLDER: Final = 1000000
Known = tuple[str, str, int, bool, tuple[str, ...], int | NDArray[Any]]
"""Name, origin, round, whether it is a report, tags; and the values, or the number of the row that has them."""

_COLUMNS: Final = ("tensor_name", "origin", "round", "report", "tags", "nparray")


class Row(Mapping[str, Any]):
    """One tensor: ``round``, ``nparray``, ``tensor_name`` and ``tags``, as items and attributes.

    The values are read when they are asked for.
    """

    _keys = ("round", "nparray", "tensor_name", "tags")

    def __init__(
        self, tensor_name: str, round_number: int, tags: tuple[str, ...], read: Callable[[], NDArray[Any]]
    ) -> None:
        self.tensor_name = tensor_name
        self.round = round_number
        self.tags = tags
        self._read = read

    @property
    def nparray(self) -> NDArray[Any]:
        """The values."""
        return self._read()

    def __getitem__(self, key: str) -> Any:
        if key not in self._keys:
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


class TensorDatabase:
    """The rows of the round that `begin` names. ``rows`` gives them without values, ``values`` those of a row's number."""

    def __init__(self, rows: Callable[[], list[list[Any]]], values: Callable[[int], NDArray[Any]]) -> None:
        self._ask_rows = rows
        self._ask_values = values
        self._round = -1
        self._rows: list[Known] = []
        self._metrics: list[Known] = []
        self._frame: Any = None
        self._given = 0
        self._is_stale = True

    def begin(self, round_number: int) -> None:
        """Ask for the rows of another round; the metrics of those before stay."""
        if round_number == self._round:
            return
        self._round, self._is_stale = round_number, True
        asked = self._ask_rows()
        oldest = min((row[2] for row in asked if "model" in row[4]), default=0)
        rows = [found for index, row in enumerate(asked) for found in _renamed(index, oldest, *row)]
        self._rows = [row for row in rows if not row[3]]
        self._metrics += [(*row[:5], self._values(row)) for row in rows if row[3]]

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows, the latest round first."""
        for row in sorted([*self._rows, *self._metrics], key=lambda row: -row[2]):
            yield Row(row[0], row[2], row[4], partial(self._values, row))

    def table(self) -> Any:
        """Return all rows as the DataFrame that a PrivilegedAggregationFunction may write to.

        What is stored there stays for the functions of later tensors and rounds, and changes no model. Reads all values.
        """
        pandas = _pandas()
        if self._is_stale:
            rows = [(*row[:5], self._values(row)) for row in (*self._rows, *self._metrics)]
            kept = [] if self._frame is None else self._frame.iloc[self._given :].itertuples(index=False, name=None)
            self._frame = _frame(pandas, [*rows, *kept])
            self._given, self._is_stale = len(rows), False
        return self._frame

    def _values(self, row: Known) -> NDArray[Any]:
        return self._ask_values(row[5]) if isinstance(row[5], int) else row[5]


def _renamed(
    index: int, oldest: int, name: str, origin: str, number: int, report: bool, tags: list[str]
) -> Iterator[Known]:
    if "model" in tags:
        yield name, origin, number, report, ("model",), index
        if number > 0:
            yield name, origin, number, report, ("aggregated",), index
        if number > oldest:
            yield name, origin, number - 1, report, ("trained",), index
    else:
        yield name, origin, number, report, tuple(sorted({*tags, origin} - {"delta"})), index


def _pandas() -> Any:
    try:
        import pandas
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "a PrivilegedAggregationFunction is given a pandas DataFrame: install pandas in the director's environment"
        ) from None
    return pandas


def _frame(pandas: Any, rows: list[tuple[Any, ...]]) -> Any:
    frame = pandas.DataFrame(
        {name: pandas.Series([row[at] for row in rows], dtype=object) for at, name in enumerate(_COLUMNS)}
    )
    for method in (search, store, retrieve):
        object.__setattr__(frame, method.__name__, MethodType(method, frame))
    return frame


def _matching(frame: Any, wanted: Mapping[str, Any]) -> Any:
    chosen = np.ones(len(frame), bool)
    for column, value in wanted.items():
        if value is not None:
            chosen &= np.fromiter((found == value for found in frame[column]), bool, len(frame))
    return frame[chosen]


def search(
    self: Any,
    tensor_name: str | None = None,
    origin: str | None = None,
    fl_round: int | None = None,
    metric: bool | None = None,
    tags: tuple[str, ...] | None = None,
) -> Any:
    """Return the rows that have all that is given; all rows if none has, as OpenFL does."""
    wanted = {"tensor_name": tensor_name, "origin": origin, "round": fl_round, "report": metric, "tags": tags}
    found = _matching(self, wanted)
    return self if found.empty else found


def retrieve(
    self: Any,
    tensor_name: str = "_",
    origin: str = "_",
    fl_round: int = ROUND_PLACEHOLDER,
    metric: bool = False,
    tags: tuple[str, ...] = ("_",),
) -> Any:
    """Return the values of the first row that has all that is given, or None."""
    wanted = {"tensor_name": tensor_name, "origin": origin, "round": fl_round, "report": metric, "tags": tags}
    found = _matching(self, wanted)
    return None if found.empty else found["nparray"].iloc[0]


def store(
    self: Any,
    tensor_name: str = "_",
    origin: str = "_",
    fl_round: int = ROUND_PLACEHOLDER,
    metric: bool = False,
    tags: tuple[str, ...] = ("_",),
    nparray: Any = None,
    overwrite: bool = True,
) -> None:
    """Add a row, or write over the first one that is alike if ``overwrite``; without ``nparray`` do nothing."""
    if nparray is None:
        return
    alike = _matching(self, {"tensor_name": tensor_name, "origin": origin, "round": fl_round, "tags": tags})
    if not alike.empty and not overwrite:
        return
    label = len(self) if alike.empty else alike.index[0]
    row = np.empty(len(_COLUMNS), object)
    row[:] = tensor_name, origin, fl_round, metric, tags, None
    row[-1] = nparray
    self.loc[label] = row
