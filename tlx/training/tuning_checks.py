"""Check a tuning on a model, from shapes alone."""

from collections.abc import Sequence
from typing import Any

import jax

from tlx import partition
from tlx.trees import Tree, flatten, map_named
from tlx.tuning import Tuning
from tlx.types import Model, Phase


def check_tuning(tuning: Tuning, model: Model, params: Tree) -> tuple[Tree, set[str]]:
    """Return the shapes of `params` with the leaves that the tuning adds, and the paths that it trains; raise the
    errors of the tuning and its rules on this model. Only shapes are read: nothing is drawn or compiled."""
    shapes = map_named(
        lambda _, leaf: jax.ShapeDtypeStruct(leaf.shape, getattr(leaf, "dtype", "float32")), params
    )  # fmt: skip
    grown = jax.eval_shape(lambda params: tuning.insert(model, params, jax.random.key(0)), shapes)
    check_merge(tuning, model, grown)
    phases = tuning.phases(model)
    check_shares(phases)
    trainable: set[str] = set()
    for phase in phases:
        claims = partition.claims(grown, phase.rules)
        trainable |= {path for path, position in claims.items() if phase.rules[position][1] is not None}
    return grown, trainable


def check_statistics(fixed_statistics: str, model: Model) -> None:
    """Raise ValueError where single batch norms are to keep their statistics, and the model takes no such mark."""
    if fixed_statistics == "layers" and model.stats and not model.inserts:
        raise ValueError(
            f"train.fixed_statistics is 'layers', but a bridged module ({type(model.config).__name__}) is one stage, "
            "whose norms cannot be fixed one by one; expected 'stages' or 'none'"
        )


def check_merge(tuning: Tuning, model: Model, grown: Any) -> None:
    """Raise ValueError where inserted leaves are merged in the step, and the merged parameters are not those of the
    model."""
    if not tuning.merged_in_step:
        return
    merged = {path: leaf.shape for path, leaf in flatten(jax.eval_shape(tuning.merge, grown)).items()}
    expected = {path: param.shape for path, param in flatten(model.params).items()}
    if differing := sorted(merged.items() ^ expected.items()):
        path = differing[0][0]
        shapes = (f"{tree[path]}" if path in tree else "missing" for tree in (merged, expected))
        raise ValueError("{}.merge: {!r} is {}; the model has {}".format(type(tuning).__name__, path, *shapes))


def check_shares(phases: Sequence[Phase]) -> None:
    """Raise ValueError where the shares of the phases are not positive or do not sum to one."""
    shares = [phase.share for phase in phases]
    # In this form both comparisons are false for NaN.
    if not all(share > 0 for share in shares):
        raise ValueError(f"the shares of the phases are {shares}; each share must be positive")
    if not abs(sum(shares) - 1) <= 1e-6:
        raise ValueError(f"the shares of the phases sum to {sum(shares):g}, not to 1: {shares}")
