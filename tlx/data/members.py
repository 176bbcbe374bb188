"""The members of a mixture among some examples, and the order in which training draws them.

Shapes: N examples, M members.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from tlx.functional.mixtures import normalised, proportional_rates, quotas

if TYPE_CHECKING:
    from tlx.data.examples import Examples
    from tlx.data.streams import Splits

Rates = Literal["proportional", "equal"] | tuple[float, ...]
# Draws in which each member has its share, rounded.
BLOCK = 256


class MixingRates(NamedTuple):
    """How a mixture computes the rates of its members (see `tlx.data.Mixture`)."""

    kind: Rates = "proportional"
    limit: int | None = None
    temperature: float = 1.0

    def of(self, counts: np.ndarray) -> np.ndarray:
        """Return the rates float64[M] of members with these numbers of examples [M]; their sum is 1."""
        if self.kind == "equal":
            return normalised(np.ones(len(counts)))
        if isinstance(self.kind, tuple):
            return normalised(np.array(self.kind))
        return proportional_rates(counts, self.limit, self.temperature)


class Members(NamedTuple):
    """The members of a mixture among N examples.

    Attributes:
        names: The names of all members of the mixture, [M].
        numbers: The member of each example, int32[N].
        rows: The place of each example in the split of its member, int32[N]. With the name of the member it identifies
            the example in every mixture.
        mixing: How the rates are computed.
    """

    names: tuple[str, ...]
    numbers: np.ndarray
    rows: np.ndarray
    mixing: MixingRates = MixingRates()

    def at(self, positions: np.ndarray) -> Members:
        """Return the members of the examples at these positions."""
        return self._replace(numbers=self.numbers[positions], rows=self.rows[positions])

    @property
    def counts(self) -> np.ndarray:
        """Return the number of examples of each member, int64[M]."""
        return np.bincount(self.numbers, minlength=len(self.names))

    @property
    def rates(self) -> np.ndarray:
        """Return the share of the draws that each member has, float64[M].

        Raises:
            ValueError: A member has no examples.
        """
        counts = self.counts
        if not counts.all():
            name = self.names[int(counts.argmin())]
            raise ValueError(f"the member {name!r} of the mixture has no training examples left; remove the member")
        return self.mixing.of(counts)

    @property
    def keys(self) -> np.ndarray:
        """Return a number for the name of each member, int64[M], which no other member changes."""
        return np.array([zlib.crc32(name.encode()) % 2**31 for name in self.names], np.int64)


def first_mixture(streams: Mapping[str, Examples]) -> Examples | None:
    """Return the first stream that is a mixture; None where none is."""
    return next((examples for examples in streams.values() if examples.members is not None), None)


def members_by_split(splits: Splits) -> dict[str, Members]:
    """Return the members of each stream and split that has those of the target, by name; {} if it is no mixture."""
    target = splits.validation.members
    members = {name: examples.members for name, examples in splits.by_name.items()}
    return {name: part for name, part in members.items() if part is not None and target and part.names == target.names}


class MixedOrder:
    """The order in which training draws the examples of a mixture; the seed and the number of a draw decide it.

    In each block of draws every member has its share, rounded, at random places. A member takes its examples in
    the orders of its epochs, one after another. These depend on its name, so that it has the same order in every
    mixture.
    """

    def __init__(self, members: Members, seed: int):
        self.seed, self.keys, self.rates = seed, members.keys.tolist(), members.rates
        self.positions = [np.flatnonzero(members.numbers == number) for number in range(len(members.names))]
        # Adjacent steps read one block.
        self.block = functools.lru_cache(maxsize=64)(self._block)
        self.order = functools.lru_cache(maxsize=64)(self._order)

    def __call__(self, batch: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions int64[B] of draw `step` of `batch` examples, and their epochs within their members."""
        blocks, places = np.divmod(np.arange(step * batch, (step + 1) * batch), BLOCK)
        drawn = [self.block(block)[:, places[blocks == block]] for block in np.unique(blocks).tolist()]
        positions, epochs = np.concatenate(drawn, 1)
        return positions, epochs

    def _block(self, number: int) -> np.ndarray:
        """Return the positions and the epochs of the draws of one block, int64[2, BLOCK]."""
        before, after = (quotas(self.rates, BLOCK * n) for n in (number, number + 1))
        drawn = [self._taken(member, *ends) for member, ends in enumerate(zip(before, after, strict=True))]
        random = np.random.Generator(np.random.PCG64([self.seed, number, BLOCK])).random(BLOCK)
        # The draws of a member keep their order, so that each of its epochs holds every example once.
        mixed = np.argsort(random, kind="stable")
        ordered = np.empty((2, BLOCK), np.int64)
        start = 0
        for part in drawn:
            ordered[:, np.sort(mixed[start : start + part.shape[1]])] = part
            start += part.shape[1]
        return ordered

    def _taken(self, member: int, first: int, last: int) -> np.ndarray:
        """Return the positions and epochs of the draws `first` to `last` - 1 of a member, int64[2, last - first]."""
        count = len(self.positions[member])
        epochs, places = np.divmod(np.arange(first, last), count)
        taken = np.empty((2, last - first), np.int64)
        for epoch in np.unique(epochs).tolist():
            inside = epochs == epoch
            taken[0, inside] = self.positions[member][self.order(member, epoch)[places[inside]]]
        taken[1] = epochs
        return taken

    def _order(self, member: int, epoch: int) -> np.ndarray:
        """Return the order of the examples of a member in one of its epochs."""
        count = len(self.positions[member])
        random = np.random.Generator(np.random.PCG64([self.seed, epoch, self.keys[member], count]))
        return np.argsort(random.random(count), kind="stable")
