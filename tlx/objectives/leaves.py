"""The parameters that terms add to a model, and the model's parameters by stage."""

import re
from collections.abc import Collection, Sequence
from typing import Any

import jax

from tlx.objectives.base import Term
from tlx.trees import Tree, flatten, nest, subtree
from tlx.types import Key, Learn, Model, Rule


def inserted(terms: Sequence[Term], model: Model, params: Tree, key: Key) -> tuple[Tree, tuple[Rule, ...]]:
    """Insert the leaves of every term.

    Args:
        terms: the objective.
        model: the model that trains.
        params: its parameters.
        key: the random key for new leaves.

    Returns:
        The parameters with the leaves of every term, and the rules by which these leaves learn. The caller puts these
        rules before the rules of the tuning, which do not cover these leaves.
    """
    old_paths = flatten(params).keys()
    for number, term in enumerate(terms):
        params = term.insert(model, params, jax.random.fold_in(key, number))
    new_paths = [path for path in flatten(params) if path not in old_paths]
    return params, ((("|".join(map(re.escape, new_paths)), Learn()),) if new_paths else ())


def without_inserted(model: Model, params: Tree) -> Tree:
    """Return `params` without the leaves that terms added, which lie below no stage of the model."""
    stages = below(stage_names(model))
    return nest({path: leaf for path, leaf in flatten(params).items() if path.startswith(stages)})


def stage_names(model: Model) -> list[str]:
    """Return the names of all stages, in order."""
    return [stage.name for stage in model.stages]


def below(stages: Collection[str]) -> tuple[str, ...]:
    """Return the prefixes of the parameter paths of these stages."""
    return tuple(f"{stage}/" for stage in stages)


def declared(model: Model, params: Tree, stage: str) -> dict[str, Any]:
    """Return the leaves of one stage that the model declares, by their path within the stage."""
    leaves = flatten(subtree(params, stage))
    return {path: leaves[path] for path in flatten(subtree(model.params, stage))}


def drawn_head(model: Model, new: Collection[str]) -> list[str]:
    """Return the paths in `new` that belong to the head, or to the pooler that it reads, sorted."""
    stages = below([stage.name for stage in model.stages if stage.output in ("logits", "pooled")])
    return sorted(path for path in new if path.startswith(stages))
