"""Batches that several processes read together: where one cannot read its rows, all stop at the same place.

A process that only raised would leave the others within a step, where they wait for it. So batches are read before they
are needed, and a failure travels beside the work on an earlier batch.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from tlx import processes

# A vote is read one step after it was given (see `votes`), so the batches of this many further steps are read before.
AHEAD = 2
Rows = dict[str, Any]


class ReadAhead:
    """The batches of training steps, with the batches of `AHEAD` further steps read before a step begins.

    `failure` is the error by which this process could not read a batch; it votes for an end then.
    """

    def __init__(self, batches: Sequence[Iterator[Any]], steps: int):
        """Read the first batches. `steps` is the number of steps: later batches are not read."""
        self.batches, self.unread = batches, max(steps, AHEAD + 1)
        self.ready: deque[list[Any]] = deque()
        self.failure: Exception | None = None
        processes.together(partial(self.read, AHEAD + 1))

    def read(self, count: int) -> None:
        """Read until `count` batches are ready."""
        while len(self.ready) < count and self.unread:
            self.ready.append([next(batches) for batches in self.batches])
            self.unread -= 1

    def __next__(self) -> list[Any]:
        batches = self.ready.popleft()
        if self.failure is None:
            try:
                self.read(AHEAD)
            except Exception as error:
                self.failure = error
        return batches


class ReadTogether:
    """The batches of an evaluation. `whole` returns the rows of a whole batch, by `gather`; where a process cannot read
    the batch after it, `whole` raises in all of them."""

    def __init__(self, batches: Iterable[Any], gather: Callable[[Rows], Rows]):
        self.batches, self.gather = iter(batches), gather
        self.failure: Exception | None = None

    def __iter__(self) -> Iterator[Any]:
        following = processes.together(lambda: next(self.batches, None))
        while following is not None:
            batch, following = following, None
            try:
                following = next(self.batches, None)
            except Exception as error:
                self.failure = error
            yield batch

    def whole(self, rows: Rows) -> Rows:
        """Return the rows of all processes.

        Raises:
            Exception: The error by which this process could not read the next batch; `OtherProcessFailed` where it was
                another one.
        """
        failed = np.full(len(rows["index"]), self.failure is not None, np.int32)
        gathered = self.gather({**rows, "failed": failed})
        if gathered.pop("failed").any():
            processes.together(partial(raise_first, [self.failure]))
        return gathered


def raise_first(errors: Iterable[Exception | None]) -> None:
    """Raise the first error, if there is one."""
    for error in errors:
        if error is not None:
            raise error
