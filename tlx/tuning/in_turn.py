"""Run one way of tuning after another."""

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
    """`InTurn((share, tuning), ...)`: the phases of each tuning, in its share of the run.

    The leaves that the tunings add exist from the first step. In the turn of one tuning, the leaves of the others do
    not change.
    """

    turns: tuple[Turn, ...]

    def __init__(self, *args: Turn, turns: tuple[Turn, ...] = ()) -> None:
        pairs = tuple(args) or tuple(turns)
        for turn in pairs:
            pair = isinstance(turn, tuple) and len(turn) == 2
            if not pair or not isinstance(turn[0], int | float) or not isinstance(turn[1], Tuning):
                raise TypeError(f"a turn is {turn!r}; expected (share of the run, tuning)")
        if not pairs:
            raise ValueError("InTurn() requires at least one (share of the run, tuning)")
        shares = [float(share) for share, _ in pairs]
        if not (all(share > 0 for share in shares) and abs(sum(shares) - 1) <= 1e-6):
            raise ValueError(
                f"the shares of InTurn are {shares} with the sum {sum(shares):g}; expected positive shares with the "
                "sum 1"
            )
        object.__setattr__(
            self, "turns", tuple((share, tuning) for share, (_, tuning) in zip(shares, pairs, strict=True))
        )
        tunings = [tuning for _, tuning in pairs]
        merged = [type(tuning).__name__ for tuning in tunings if tuning.merged_in_step]
        others = [
            tuning for tuning in tunings if not tuning.merged_in_step and type(tuning).insert is not Tuning.insert
        ]
        if merged and others:
            raise ValueError(
                f"InTurn combines {type(others[0]).__name__}, which adds parameters that the layers read, and "
                f"{merged[0]}, which merges its parameters in the training step; use tunings of only one of these two "
                "kinds"
            )
        object.__setattr__(self, "merged_in_step", any(tuning.merged_in_step for tuning in tunings))
        object.__setattr__(self, "unmergeable", tuple(pair for tuning in tunings for pair in tuning.unmergeable))
        object.__setattr__(self, "padded", tuple(path for tuning in tunings for path in tuning.padded))

    def merge(self, params: Tree) -> Tree:
        for _, tuning in self.turns:
            params = tuning.merge(params)
        return params

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        """Return `params` with the leaves of every tuning; raise ValueError where two tunings add the same leaf."""
        for number, (_, tuning) in enumerate(self.turns):
            params = tuning.insert(model, params, jax.random.fold_in(key, number))
        return params

    def phases(self, model: Model) -> tuple[Phase, ...]:
        added = [leaves_of(tuning, model) for _, tuning in self.turns]
        phases = []
        for number, (share, tuning) in enumerate(self.turns):
            others = sorted({path for n, paths in enumerate(added) if n != number for path in paths})
            frozen = (either(others, None),) if others else ()
            for phase in tuning.phases(model):
                phases.append(phase._replace(share=share * phase.share, rules=(*frozen, *phase.rules)))
        return tuple(phases)


def leaves_of(how: Tuning, model: Model) -> set[str]:
    """Return the paths of the leaves that a tuning adds."""
    if type(how).insert is Tuning.insert:
        return set()
    key = jax.random.key(0)
    declared = jax.eval_shape(partial(initialise, model), key).params
    extended = jax.eval_shape(lambda params: how.insert(model, params, key), declared)
    return flatten(extended).keys() - flatten(declared).keys()
