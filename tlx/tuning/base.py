"""What a way of tuning is: two pure hooks on a frozen dataclass."""

from tlx.trees import Tree, subtree
from tlx.types import Key, Learn, Model, Phase, Rule

ALL: Rule = (r".*", Learn())
REST_STILL: Rule = (r".*", None)


class Tuning:
    """`insert` adds leaves to the parameters (none by default); `phases` says what moves, and when."""

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        return params

    def phases(self, model: Model) -> tuple[Phase, ...]:
        raise TypeError(f"{type(self).__name__} does not say which phases it has")


def stage_rule(stage: str, learn: Learn | None) -> Rule:
    """A rule over every parameter of one stage."""
    return (f"{stage}/.*", learn)


def parametric(model: Model) -> list[str]:
    """The stages that have parameters, in the order of the chain."""
    return [stage.name for stage in model.stages if subtree(model.params, stage.name)]
