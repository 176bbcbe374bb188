"""One way of tuning after another."""

from dataclasses import dataclass
from functools import partial

import jax

from tlx.models import initialise
from tlx.trees import Tree, flatten
from tlx.tuning.base import Tuning, either
from tlx.types import Key, Model, Phase

Turn = tuple[float, Tuning]


@dataclass(frozen=True, init=False)
class InTurn(Tuning):
    """`InTurn((share, tuning), ...)`: each tuning's phases in its share of the run.

    All leaves that any of them adds are there from the first step; in the turn of another they stay as they are.
    """

    turns: tuple[Turn, ...]

    def __init__(self, *args: Turn, turns: tuple[Turn, ...] = ()) -> None:
        given = tuple(args) or tuple(turns)
        for turn in given:
            pair = isinstance(turn, tuple) and len(turn) == 2
            if not pair or not isinstance(turn[0], int | float) or not isinstance(turn[1], Tuning):
                raise TypeError(f"a turn is (share of the run, tuning), got {turn!r}")
        if not given:
            raise ValueError("InTurn() needs at least one (share of the run, tuning)")
        shares = [float(share) for share, _ in given]
        if not (all(share > 0 for share in shares) and abs(sum(shares) - 1) <= 1e-6):
            raise ValueError(f"the shares of InTurn sum to {sum(shares):g}, not to 1, or are not positive: {shares}")
        object.__setattr__(self, "turns", tuple((share, how) for share, (_, how) in zip(shares, given, strict=True)))
        tunings = [how for _, how in given]
        merged = [type(how).__name__ for how in tunings if how.merged_in_step]
        others = [how for how in tunings if not how.merged_in_step and type(how).insert is not Tuning.insert]
        if merged and others:
            raise ValueError(
                f"InTurn takes {type(others[0]).__name__}, whose leaves the layers read, and {merged[0]}, which is "
                "merged in the step; take tunings of one of the two kinds"
            )
        object.__setattr__(self, "merged_in_step", any(how.merged_in_step for how in tunings))
        object.__setattr__(self, "unmergeable", tuple(pair for how in tunings for pair in how.unmergeable))
        object.__setattr__(self, "padded", tuple(path for how in tunings for path in how.padded))

    def merge(self, params: Tree) -> Tree:
        for _, how in self.turns:
            params = how.merge(params)
        return params

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        """Raises ValueError where two tunings add the same leaf."""
        for number, (_, how) in enumerate(self.turns):
            params = how.insert(model, params, jax.random.fold_in(key, number))
        return params

    def phases(self, model: Model) -> tuple[Phase, ...]:
        added = [leaves_of(how, model) for _, how in self.turns]
        found = []
        for number, (share, how) in enumerate(self.turns):
            others = sorted({path for n, paths in enumerate(added) if n != number for path in paths})
            still = (either(others, None),) if others else ()
            for phase in how.phases(model):
                found.append(phase._replace(share=share * phase.share, rules=(*still, *phase.rules)))
        return tuple(found)


def leaves_of(how: Tuning, model: Model) -> set[str]:
    """The paths of the leaves that a tuning adds."""
    if type(how).insert is Tuning.insert:
        return set()
    key = jax.random.key(0)
    declared = jax.eval_shape(partial(initialise, model), key).params
    grown = jax.eval_shape(lambda params: how.insert(model, params, key), declared)
    return flatten(grown).keys() - flatten(declared).keys()
