"""Unfreeze from the top down, one group of stages per phase: gradual unfreezing as in ULMFiT and T5."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tlx.partition import compile_rule, near_pattern
from tlx.trees import flatten, subtree
from tlx.tuning.base import Tuning, depths, either, levels, parametric, stage_rule
from tlx.types import Learn, Model, Phase, Rule


@dataclass(frozen=True, kw_only=True)
class Gradual(Tuning):
    """Train the last stage first, and one more group in each phase, until all groups learn (Howard and Ruder, 2018).

    Each layer below the last one divides the learning rate by `factor`; the layers are those of `Full(decay=...)`. A
    group is one stage (with those of the same depth), or the stages whose names a regex in `groups` matches in full,
    from the top: `("head|pool", r"blocks/\\d+", "stem")`. `count` is the number of phases; the last phase takes all
    remaining groups (None: one phase per group). `last` is the last phase's share of the run, in which all groups
    learn; the other phases share the rest equally (None: all phases are equal). `schedule` is the schedule of all
    trained leaves (None: the optimiser's own), once over the whole run; `restart` restarts it in every phase.

    `Gradual(schedule="slanted-triangular")` is all of ULMFiT.
    """

    factor: float = 2.6
    groups: tuple[str, ...] = ()
    count: int | None = None
    last: float | None = None
    restart: bool = False
    schedule: str | None = None

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise ValueError(
                f"factor is {self.factor}; expected 1 or more, because the learning rate is divided by it for each "
                "layer"
            )
        if self.count is not None and self.count < 1:
            raise ValueError(f"count is {self.count}; expected at least one phase")
        if self.last is not None and not 0 < self.last < 1:
            raise ValueError(f"last is {self.last}; expected a share of the run in (0, 1)")

    def phases(self, model: Model) -> tuple[Phase, ...]:
        """Return the phases.

        Raises:
            ValueError: a group matches no stage, a stage is in no group, or there are more phases than groups.
        """
        stages = parametric(model)
        groups = self.grouped(stages) if self.groups else list(reversed(levels(model)))
        count = len(groups) if self.count is None else self.count
        if count > len(groups):
            raise ValueError(
                f"Gradual(count={count}): the model has only {len(groups)} groups to unfreeze; set count to "
                f"{len(groups)} or less"
            )
        groups = [*groups[: count - 1], [name for group in groups[count - 1 :] for name in group]]
        last = 1 / count if self.last is None or count == 1 else self.last
        shares = [(1 - last) / max(count - 1, 1)] * (count - 1) + [last]
        learn = Learn(schedule=self.schedule)
        learns = {name: learn._replace(lr=self.factor**-depth) for name, depth in depths(model).items()}
        return unfrozen(stages, groups, shares, learns, restart=self.restart)

    def grouped(self, stages: Sequence[str]) -> list[list[str]]:
        """Return the stages of each group in `groups`; raise ValueError for an empty group or a stage in no group."""
        rest, grouped = list(reversed(stages)), []
        for pattern in self.groups:
            rule = compile_rule(pattern)
            group = [name for name in rest if rule.fullmatch(name)]
            if not group:
                raise ValueError(
                    f"Gradual(groups=...): {pattern!r} matches no remaining stage{near_pattern(pattern, rest)}"
                )
            rest = [name for name in rest if name not in group]
            grouped.append(group)
        if rest:
            raise ValueError(
                f"Gradual(groups=...) does not list {', '.join(map(repr, rest))}; every stage must be in a group"
            )
        return grouped


# The episodes of T5, which has twelve blocks in each of its two stacks.
T5_EPISODES = 12


@dataclass(frozen=True, kw_only=True)
class Episodes(Tuning):
    """Split the run into `episodes` equal phases and unfreeze one group of stages per phase.

    In phase n the top n groups learn (Raffel et al., 2020, 3.5.1); there is one group per episode. None takes the
    paper's twelve episodes, or one per stage where there are fewer stages. The stages are split as evenly as possible,
    and the upper groups take the remainder. Where the output reads the matrix of the embeddings, that matrix learns
    from the first phase.
    """

    episodes: int | None = None

    def __post_init__(self) -> None:
        if self.episodes is not None and self.episodes < 1:
            raise ValueError(f"episodes is {self.episodes}; expected 1 or more")

    def phases(self, model: Model) -> tuple[Phase, ...]:
        """Return the phases; raise ValueError for more episodes than stages."""
        stages = parametric(model)
        descending = list(reversed(levels(model)))
        count = min(T5_EPISODES, len(descending)) if self.episodes is None else self.episodes
        if count > len(descending):
            raise ValueError(
                f"Episodes(episodes={count}): the model has only {len(descending)} stages to unfreeze; set episodes to "
                f"{len(descending)} or less"
            )
        split = np.array_split(np.arange(len(descending)), count)
        groups = [[name for n in places for name in descending[n]] for places in split]
        shares = [1 / count] * count
        tied = shared_embeddings(model)
        always = (either(tied, Learn()),) if tied else ()
        # A stage that consists of that matrix alone would leave its rule nothing to match.
        ruled = [name for name in stages if set(leaves_below(model, name)) - set(tied)]
        return unfrozen(ruled, groups, shares, dict.fromkeys(stages, Learn()), always)


def shared_embeddings(model: Model) -> list[str]:
    """Return the paths of the embeddings that the output reads.

    These exist where the model predicts one number per word and its last stage has no matrix of that width.
    """
    leaves = flatten(model.params)
    embeddings = [path for path, leaf in leaves.items() if "vocabulary" in leaf.axes and model.outputs in leaf.shape]
    head_leaves = flatten(subtree(model.params, model.stages[-1].name)).values()
    output_matrices = [leaf for leaf in head_leaves if len(leaf.shape) > 1 and leaf.shape[-1] == model.outputs]
    return [] if output_matrices or model.outputs is None else embeddings


def unfrozen(
    stages: Sequence[str],
    groups: Sequence[Sequence[str]],
    shares: Sequence[float],
    learns: dict[str, Learn],
    always: tuple[Rule, ...] = (),
    restart: bool = False,
) -> tuple[Phase, ...]:
    """Return one phase per group, in which this group and all groups before it learn."""
    learning: set[str] = set()
    phases = []
    for group, share in zip(groups, shares, strict=True):
        learning |= set(group)
        rules = tuple(stage_rule(name, learns[name] if name in learning else None) for name in stages)
        phases.append(Phase(share, (*always, *rules), restart))
    return tuple(phases)


def leaves_below(model: Model, stage: str) -> list[str]:
    """Return the paths of the leaves of one stage."""
    return list(flatten(subtree(model.params, stage), f"{stage}/"))
