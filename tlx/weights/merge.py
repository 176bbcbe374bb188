"""Merge adapters into the kernels beside them, and several adapters into one.

Shapes: I inputs, O outputs of a dense layer or a convolution, R rank.
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
    """Return the inserted sub-dicts that cannot be merged into a kernel, each with a description for messages.

    They are declared by the tunings of tlx, and by the tuning `how`.
    """
    kinds: list[Any] = [kind for kind in vars(tuning).values() if isinstance(kind, type) and issubclass(kind, Tuning)]
    return {
        entry: words
        for kind_or_tuning in (*kinds, how)
        if kind_or_tuning is not None
        for entry, words in kind_or_tuning.unmergeable
    }


def apart(variables: Variables, how: Tuning | None = None) -> list[str]:
    """Return the paths of the inserted leaves that cannot be merged into a kernel, in sorted order."""
    entries = entries_apart(how).keys()
    return [path for path in flatten(variables.params) if entries & set(path.split("/"))]


def merge(variables: Variables, how: Tuning | None = None) -> Variables:
    """Return plain parameters that compute what the layers did with the inserted leaves.

    Args:
        variables: The variables of a model, with inserted leaves.
        how: The tuning that inserted them; None for those that the layers of tlx read: LoRA, DoRA, VeRA, IA3.

    Returns:
        Variables with the shapes of the model, without the inserted leaves.

    Raises:
        ValueError: A leaf belongs to an adapter that adds layers or tokens, such as a prefix. Nothing is computed.
    """
    if unmergeable := apart(variables, how):
        words = next(words for entry, words in entries_apart(how).items() if entry in unmergeable[0].split("/"))
        raise ValueError(
            f"{unmergeable[0]!r} belongs to {words}, which cannot be merged into a kernel; save it as an adapter"
        )
    return variables._replace(params=(how or Tuning()).merge(variables.params))


def sum_adapters(adapted: Sequence[Pretrained], weights: Sequence[float]) -> Pretrained:
    """Sum the LoRA adapters of several models with one base into one LoRA.

    Each delta is scale a @ b with `a` [I, R], `b` [R, O]; the weighted sum of N of them is exactly one delta of rank
    N R. The head is that of the first model. LoRA in a head is put in the order of the first model's classes.

    Args:
        adapted: The models with adapters.
        weights: One weight for each model.

    Returns:
        The first model with the sum as its adapter.

    Raises:
        ValueError: The numbers of weights and models differ, the bases differ, an adapter is not LoRA in the same
            layers with the same rank, heads with LoRA have other classes, or the head of the first model was never
            trained. This is checked before anything is computed.
    """
    if not adapted or len(adapted) != len(weights):
        raise ValueError(
            f"received {len(adapted)} models and {len(weights)} weights; pass at least one model, and one weight for "
            "each model"
        )
    check_trained(
        adapted[0], "The sum uses the head of the first model: train that model first, or put a trained model first"
    )
    adapted = [adapted[0], *(in_order_of(adapted[0], model) for model in adapted[1:])]
    first, adapters = adapted[0], [inserted(model) for model in adapted]
    shapes = [
        {path: tuple(leaf.shape) for path, leaf in adapter.items() if "dropout" not in path} for adapter in adapters
    ]
    plain = tuple(f"/lora/{name}" for name in ("a", "b", "scale"))
    if not_plain := sorted(path for path in shapes[0] if not path.endswith(plain)):
        raise ValueError(
            f"{not_plain[0]!r} does not belong to a plain LoRA; only plain LoRA adapters can be summed: merge this "
            "adapter alone"
        )
    if not shapes[0]:
        raise ValueError("the models have no adapter; load an adapter first")
    for number, other in enumerate(shapes[1:], 1):
        if different := sorted(shapes[0].items() ^ other.items()):
            path = different[0][0]
            first_size, other_size = (f"{sizes[path]}" if path in sizes else "missing" for sizes in (shapes[0], other))
            raise ValueError(
                f"the models have different adapters: {path!r} is {first_size} in model 0, {other_size} in model "
                f"{number}"
            )
    bases = [fingerprint(model, head_paths(model.model)) for model in adapted]
    if any(base != bases[0] for base in bases):
        raise ValueError(f"the models have different base models: {', '.join(bases)}")
    leaves = flatten(first.variables.params)
    for path in shapes[0]:
        if not path.endswith("/a"):
            continue
        layer = path.removesuffix("/a")
        loras = [
            {name: jnp.asarray(adapter[f"{layer}/{name}"]) for name in ("a", "b", "scale")} for adapter in adapters
        ]
        parts = zip(loras, weights, strict=True)
        leaves[f"{layer}/b"] = jnp.concatenate([lora["b"] * (lora["scale"] * weight) for lora, weight in parts])
        leaves[f"{layer}/a"] = jnp.concatenate([lora["a"] for lora in loras], axis=-1)
        leaves[f"{layer}/scale"] = jnp.ones_like(loras[0]["scale"])
    return first._replace(variables=first.variables._replace(params=nest(leaves)))


def in_order_of(first: Pretrained, other: Pretrained) -> Pretrained:
    """Return the other model, with its classes in the order of the first model if its head has an adapter.

    Raises ValueError, with both lists, for other classes.
    """
    head = f"{first.model.stages[-1].name}/"
    names = [getattr(model.task, "names", ()) for model in (first, other)]
    head_has_adapter = any(path.startswith(head) for path in inserted(other)) and bool(head_paths(other.model))
    return reorder(other, names[0]) if head_has_adapter and all(names) else other
