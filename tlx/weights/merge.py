"""Merging: what a tuning inserted beside a kernel, into the kernel; and several adapters into one.

Shapes: I inputs, O outputs of a dense layer, R rank.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from tlx import tuning
from tlx.trees import flatten, nest
from tlx.tuning import Tuning
from tlx.types import Variables
from tlx.weights import Pretrained, check_trained, fingerprint, head_paths, inserted, reorder


def entries_apart(how: Tuning | None = None) -> dict[str, str]:
    """The inserted sub-dicts that no kernel can take up, each with the words for a message: as our tunings declare, and
    the one that is given."""
    kinds: list[Any] = [kind for kind in vars(tuning).values() if isinstance(kind, type) and issubclass(kind, Tuning)]
    return {entry: words for own in (*kinds, how) if own is not None for entry, words in own.unmergeable}


def apart(variables: Variables, how: Tuning | None = None) -> list[str]:
    """The paths of the inserted leaves that no kernel can take up, in sorted order."""
    entries = entries_apart(how).keys()
    return [path for path in flatten(variables.params) if entries & set(path.split("/"))]


def merge(variables: Variables, how: Tuning | None = None) -> Variables:
    """Return plain parameters that compute what the layers did with the inserted leaves.

    Args:
        variables: the variables of a model, with inserted leaves.
        how: the tuning that inserted them; None for those that our layers read: LoRA, DoRA, VeRA, IA3.

    Returns:
        Variables with the shapes of the model, without the inserted leaves.

    Raises:
        ValueError: A leaf is of an adapter, a prefix or the like, which add layers or tokens. Nothing is computed.
    """
    if stuck := apart(variables, how):
        words = next(words for entry, words in entries_apart(how).items() if entry in stuck[0].split("/"))
        raise ValueError(f"{stuck[0]!r} belongs to {words}, which no kernel can take up; save it as an adapter")
    return variables._replace(params=(how or Tuning()).merge(variables.params))


def sum_adapters(adapted: Sequence[Pretrained], weights: Sequence[float]) -> Pretrained:
    """One LoRA whose delta in each layer is the weighted sum of those of models `adapted` from one base.

    Each delta is scale a @ b with `a` [I, R], `b` [R, O]; the sum of N of them is one of rank N R, exactly. The head is
    that of the first. LoRA in a head is put in the order of the first model's classes.

    Raises ValueError, before anything is computed, for another number of weights than of models, for other bases, for
    anything but LoRA in the same layers with the same rank, for LoRA in heads of other classes, and for a first model
    whose head nobody trained.
    """
    if not adapted or len(adapted) != len(weights):
        raise ValueError(f"{len(adapted)} models and {len(weights)} weights: give one weight to each of one or more")
    check_trained(adapted[0], "Its head is that of the sum: train it first, or put a trained model first")
    adapted = [adapted[0], *(in_order_of(adapted[0], own) for own in adapted[1:])]
    first, held = adapted[0], [inserted(own) for own in adapted]
    shapes = [{path: tuple(leaf.shape) for path, leaf in own.items() if "dropout" not in path} for own in held]
    plain = tuple(f"/lora/{name}" for name in ("a", "b", "scale"))
    if strange := sorted(path for path in shapes[0] if not path.endswith(plain)):
        raise ValueError(f"{strange[0]!r} is no plain LoRA's, and a sum of such adapters is none; merge it by itself")
    if not shapes[0]:
        raise ValueError("the models carry no adapter")
    for number, other in enumerate(shapes[1:], 1):
        if different := sorted(shapes[0].items() ^ other.items()):
            path = different[0][0]
            here, there = (f"{own[path]}" if path in own else "missing" for own in (shapes[0], other))
            raise ValueError(f"the models have different adapters: {path!r} is {here} in model 0, {there} in {number}")
    bases = [fingerprint(own, head_paths(own.model)) for own in adapted]
    if any(base != bases[0] for base in bases):
        raise ValueError(f"the models have different bases: {', '.join(bases)}")
    leaves = flatten(first.variables.params)
    for path in shapes[0]:
        if not path.endswith("/a"):
            continue
        layer = path.removesuffix("/a")
        own = [{name: jnp.asarray(given[f"{layer}/{name}"]) for name in ("a", "b", "scale")} for given in held]
        parts = zip(own, weights, strict=True)
        leaves[f"{layer}/b"] = jnp.concatenate([lora["b"] * (lora["scale"] * weight) for lora, weight in parts])
        leaves[f"{layer}/a"] = jnp.concatenate([lora["a"] for lora in own], axis=1)
        leaves[f"{layer}/scale"] = jnp.ones_like(own[0]["scale"])
    return first._replace(variables=first.variables._replace(params=nest(leaves)))


def in_order_of(first: Pretrained, other: Pretrained) -> Pretrained:
    """The other model, with its classes in the order of the first model's if its head has an adapter.

    Raises ValueError, with both lists, if these are other classes.
    """
    head = f"{first.model.stages[-1].name}/"
    names = [getattr(own.task, "names", ()) for own in (first, other)]
    within = any(path.startswith(head) for path in inserted(other)) and bool(head_paths(other.model))
    return reorder(other, names[0]) if within and all(names) else other
