"""The arms: the recipe with all members of its mixture, with each alone, with all but one, and with pairs of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, Literal, cast

from tlx.config import check_choice
from tlx.data import Mixture, Splits
from tlx.functional.mixtures import AVERAGE
from tlx.recipe import Recipe
from tlx.study import Study
from tlx.study.sweeps import Override
from tlx.training.active_run import total_steps
from tlx.training.prepare import open_data

MEMBERS, SEED = "members", "seed"
BUDGETS = ("steps", "examples")


@dataclass(frozen=True, kw_only=True)
class Interference:
    """The question which members of a mixture help or hurt which others.

    Attributes:
        recipe: The recipe, whose target is a mixture of two members or more.
        pairs: Whether each pair of members is trained too.
        budget: What all arms have equal. "steps": the steps, as T5 compares a mixture with single tasks; an arm of
            fewer members then draws each of them more often. "examples": the number of draws of each member; an arm of
            fewer members then takes fewer steps.
        seeds: The number of seeds per arm.
        smallest: The smallest effect of interest, in the units of the primary metric.
    """

    recipe: Recipe
    pairs: bool = False
    budget: Literal["steps", "examples"] = "steps"
    seeds: int = 5
    smallest: float = 0.0

    def __post_init__(self) -> None:
        target = self.recipe.data.target
        if not isinstance(target, Mixture) or len(target.members) < 2:
            have = "a mixture of one member" if isinstance(target, Mixture) else "no mixture"
            raise ValueError(
                f"the target of the recipe is {have}; expected a mixture of two members or more: "
                "Data(target=Mixture((Member(...), Member(...))))"
            )
        if self.recipe.data.folds is not None:
            raise ValueError(
                f"data.folds={self.recipe.data.folds} divides the examples of all members together, so that each arm "
                "would have other folds; remove data.folds"
            )
        if self.recipe.data.stream_names != ("labelled",):
            raise ValueError(
                f"the recipe has the streams {', '.join(self.recipe.data.stream_names)}; expected the labelled "
                "examples of the mixture alone: remove data.source, data.labels and data.streams"
            )
        check_choice("budget", self.budget, BUDGETS)
        if self.seeds < 1:
            raise ValueError(f"seeds is {self.seeds}; expected 1 or more, and 2 or more for intervals")

    @property
    def mixture(self) -> Mixture:
        """Return the mixture."""
        return cast(Mixture, self.recipe.data.target)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the members."""
        return self.mixture.names

    @property
    def subsets(self) -> list[tuple[str, ...]]:
        """Return the members of each arm, each set once: all, each alone, all but one, and the pairs."""
        names = self.names
        without = [tuple(name for name in names if name != left_out) for left_out in names]
        pairs = list(combinations(names, 2)) if self.pairs else []
        return list(dict.fromkeys([names, *((name,) for name in names), *without, *pairs]))

    @cached_property
    def splits(self) -> Splits:
        """Return the data of the whole mixture, of which the test split is sealed."""
        return open_data(self.recipe, test=False)

    @cached_property
    def rates(self) -> dict[str, float]:
        """Return the share of the draws that each member has in the whole mixture."""
        members = self.splits.train.members
        assert members is not None
        return dict(zip(members.names, members.rates.tolist(), strict=True))

    @cached_property
    def split(self) -> str:
        """Return the split that is compared: the test split, if there is one."""
        return "validation" if self.splits.untested else "test"

    def metric(self, member: str) -> str:
        """Return the name of the primary metric of a member."""
        return f"{self.split}/{member}/{self.recipe.task.primary}"

    def steps(self, subset: Sequence[str]) -> int:
        """Return the steps of an arm."""
        steps = total_steps(self.recipe, len(self.splits.train), self.splits.first)
        # The rates of a part of a mixture keep their proportions.
        share = 1.0 if self.budget == "steps" else sum(self.rates[name] for name in subset)
        return max(1, round(steps * share))

    def changes(self, subset: Sequence[str]) -> dict[str, Any]:
        """Return the changes of the recipe in an arm."""
        steps = self.steps(subset)
        train = self.recipe.train
        # One validation suffices, unless it chooses the checkpoint.
        every = train.eval_every or (steps if train.select == "last" else math.ceil(steps / 12))
        return {
            "data.target": self.mixture.only(subset),
            "train.steps": steps,
            "train.eval_every": min(every, steps),
        }

    @cached_property
    def study(self) -> Study:
        """Return the study. Arms of a seed have the same initial weights, and the same order of each member."""
        seeds = range(self.recipe.seed, self.recipe.seed + self.seeds)
        cells = [
            Override({MEMBERS: label(subset), SEED: seed}, {**self.changes(subset), "seed": seed})
            for subset in self.subsets
            for seed in seeds
        ]
        return Study(
            base=self.recipe,
            cells=cells,
            question=f"Which of {', '.join(self.names)} help or hurt which others in one model?",
            metric=self.metric(AVERAGE),
            smallest=self.smallest,
        )


def label(subset: Sequence[str]) -> str:
    """Return the name of an arm in the table of the study."""
    return " + ".join(subset)
