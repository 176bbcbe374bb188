"""From the top down, a group a phase: gradual unfreezing as ULMFiT and as T5 have it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tlx.partition import compile_rule
from tlx.trees import flatten, near_miss, subtree
from tlx.tuning.base import Tuning, depths, either, levels, parametric, stage_rule
from tlx.types import Learn, Model, Phase, Rule


@dataclass(frozen=True, kw_only=True)
class Gradual(Tuning):
    """The last stage learns first, and each phase one group more, until all do (Howard and Ruder, 2018).

    The rate falls by `factor` a layer from the last one down, by the layers of `Full(decay=...)`. A group is one stage
    (with those of the same depth), or the stages whose names a regex in `groups` matches in full, from the top:
    `("head|pool", r"blocks/\\d+", "stem")`. `count` is the number of phases: the last of them takes all groups that are
    left (None: a phase a group). `last` is the share of the run of the last phase, in which everything learns; the
    others share the rest equally (None: all alike). `schedule` is that of all that learns (None: the optimiser's own),
    once over the whole run; `restart` begins it anew in every phase.

    The whole of ULMFiT is `Gradual(schedule="slanted-triangular")`.
    """

    factor: float = 2.6
    groups: tuple[str, ...] = ()
    count: int | None = None
    last: float | None = None
    restart: bool = False
    schedule: str | None = None

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise ValueError(f"factor is {self.factor}; it divides the rate a layer and is 1 or more")
        if self.count is not None and self.count < 1:
            raise ValueError(f"count is {self.count}; there is one phase or more")
        if self.last is not None and not 0 < self.last < 1:
            raise ValueError(f"last is {self.last}; it is a share of the run in (0, 1)")

    def phases(self, model: Model) -> tuple[Phase, ...]:
        """Raises ValueError for a group that matches no stage, a stage in no group, and more phases than groups."""
        stages = parametric(model)
        groups = self.grouped(stages) if self.groups else list(reversed(levels(model)))
        count = len(groups) if self.count is None else self.count
        if count > len(groups):
            raise ValueError(f"Gradual(count={count}) has {len(groups)} groups to unfreeze; take at most as many")
        groups = [*groups[: count - 1], [name for group in groups[count - 1 :] for name in group]]
        last = 1 / count if self.last is None or count == 1 else self.last
        shares = [(1 - last) / max(count - 1, 1)] * (count - 1) + [last]
        own = Learn(schedule=self.schedule)
        learns = {name: own._replace(lr=self.factor**-depth) for name, depth in depths(model).items()}
        return unfrozen(stages, groups, shares, learns, restart=self.restart)

    def grouped(self, stages: Sequence[str]) -> list[list[str]]:
        left, found = list(reversed(stages)), []
        for pattern in self.groups:
            rule = compile_rule(pattern)
            own = [name for name in left if rule.fullmatch(name)]
            if not own:
                close = near_miss(re.sub(r"\\d[+*]?", "00", pattern), stages)
                raise ValueError(f"Gradual(groups=...): {pattern!r} matches no stage that is left{close}")
            left = [name for name in left if name not in own]
            found.append(own)
        if left:
            raise ValueError(f"Gradual(groups=...) leaves out {', '.join(map(repr, left))}; every stage needs a group")
        return found


# The episodes of T5, whose two stacks have as many blocks.
T5_EPISODES = 12


@dataclass(frozen=True, kw_only=True)
class Episodes(Tuning):
    """`episodes` equal phases; in the n-th the top n of as many groups of stages learn (Raffel et al., 2020, 3.5.1).

    None takes the paper's twelve, or one a stage where there are fewer. The stages are shared out as evenly as they go,
    the upper groups taking what is over. Where the output reads the matrix of the embeddings, that matrix learns from
    the first.
    """

    episodes: int | None = None

    def __post_init__(self) -> None:
        if self.episodes is not None and self.episodes < 1:
            raise ValueError(f"episodes is {self.episodes}; there is one or more")

    def phases(self, model: Model) -> tuple[Phase, ...]:
        """Raises ValueError for more episodes than stages."""
        stages = parametric(model)
        top = list(reversed(levels(model)))
        count = min(T5_EPISODES, len(top)) if self.episodes is None else self.episodes
        if count > len(top):
            raise ValueError(f"Episodes(episodes={count}) has {len(top)} stages to unfreeze; take at most as many")
        split = np.array_split(np.arange(len(top)), count)
        groups = [[name for n in places for name in top[n]] for places in split]
        shares = [1 / count] * count
        tied = shared_embeddings(model)
        always = (either(tied, Learn()),) if tied else ()
        # A stage that is nothing but that matrix has no rule of its own left.
        ruled = [name for name in stages if set(leaves_below(model, name)) - set(tied)]
        return unfrozen(ruled, groups, shares, dict.fromkeys(stages, Learn()), always)


def shared_embeddings(model: Model) -> list[str]:
    """The embeddings that the output reads: the model answers with a number a word, and its last stage has no matrix
    that wide."""
    leaves = flatten(model.params)
    found = [path for path, leaf in leaves.items() if "vocabulary" in leaf.axes and model.outputs in leaf.shape]
    above = flatten(subtree(model.params, model.stages[-1].name)).values()
    own = [leaf for leaf in above if len(leaf.shape) > 1 and leaf.shape[-1] == model.outputs]
    return [] if own or model.outputs is None else found


def unfrozen(
    stages: Sequence[str],
    groups: Sequence[Sequence[str]],
    shares: Sequence[float],
    learns: dict[str, Learn],
    always: tuple[Rule, ...] = (),
    restart: bool = False,
) -> tuple[Phase, ...]:
    """A phase a group: it learns, and all groups before it."""
    learning: set[str] = set()
    phases = []
    for group, share in zip(groups, shares, strict=True):
        learning |= set(group)
        rules = tuple(stage_rule(name, learns[name] if name in learning else None) for name in stages)
        phases.append(Phase(share, (*always, *rules), restart))
    return tuple(phases)


def leaves_below(model: Model, stage: str) -> list[str]:
    return list(flatten(subtree(model.params, stage), f"{stage}/"))
