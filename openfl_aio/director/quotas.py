"""What one user may have at a director: decided before a submission's bytes are received. No files, no clock, no await."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from openfl_aio.config import Quotas
from openfl_aio.director.experiments import Experiment
from openfl_aio.errors import MessageTooLargeError

__all__ = ["QuotaKeeper"]


class QuotaKeeper:
    """Counts what users have and send. Whoever is at an end gets `MessageTooLargeError`, which says what to do."""

    def __init__(self, quotas: Quotas) -> None:
        self._quotas = quotas
        self._sending: Counter[str] = Counter()

    @contextmanager
    def submission(self, owner: str) -> Iterator[None]:
        """Count a submission as long as it is under way. Raises `MessageTooLargeError` if it is one too many."""
        _check(self._sending[owner] + 1, self._quotas.submissions, owner, "submissions under way", "wait for their end")
        self._sending[owner] += 1
        try:
            yield
        finally:
            self._sending[owner] -= 1
            if not self._sending[owner]:
                del self._sending[owner]  # else it would grow with every name that is ever claimed

    def check_experiments(self, owner: str, name: str, experiments: Iterable[Experiment]) -> None:
        """Raise `MessageTooLargeError` if ``owner`` may not have ``name`` beside those of ``experiments`` that are his."""
        others = [experiment for experiment in experiments if experiment.owner == owner and experiment.name != name]
        active = sum(not experiment.status.ended for experiment in others)
        _check(len(others) + 1, self._quotas.experiments, owner, "experiments", "remove one that has ended")
        _check(active + 1, self._quotas.active, owner, "active experiments", "wait for the end of one, or remove it")

    def check_bytes(self, owner: str, nbytes: int) -> None:
        """Raise `MessageTooLargeError` if the archives and models of ``owner`` have all the bytes that they may."""
        _check(nbytes + 1, self._quotas.disk_bytes, owner, "disk_bytes", "remove experiments that have ended")


def _check(wanted: int, most: int | None, owner: str, what: str, remedy: str) -> None:
    if most is not None and wanted > most:
        raise MessageTooLargeError(
            f"{owner!r} has as many {what} as a user may have ({most}): {remedy}, and submit again"
        )
