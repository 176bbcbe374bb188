"""Define a way of tuning: two pure hooks on a frozen dataclass, and the shared parts of tunings that add leaves."""

import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from tlx.layers.merging import merged
from tlx.models.heads import Vocabulary
from tlx.models.neck import NECK, neck_of
from tlx.partition import compile_rule, near_pattern
from tlx.trees import Tree, subtree
from tlx.types import Apply, Key, Learn, Model, Phase, Rule

ALL: Rule = (r".*", Learn())
REST_STILL: Rule = (r".*", None)
# The inserted leaves that never learn (see `layers.dense`), at any place in the tree.
FIXED = r"(.*/)?(lora/(scale|dropout)|vera/(a|b))"


class Tuning:
    """A way of tuning: a frozen dataclass. `phases` says what learns, and when; `insert` adds leaves (none by default).

    The class attributes declare facts that other parts of tlx need:

    * `merged_in_step`: no layer reads the inserted leaves; the step computes with the result of `merge`. Use it for
      your own leaves. (Layers read `lora`, `vera` and `ia3` beside a kernel, which needs fewer operations.)
    * `unmergeable`: the inserted sub-dicts that cannot be merged into a layer's own parameters, as pairs of a name and
      the words for a message; a run then keeps them in `adapter/`, beside a base without them.
    * `padded`: the ends of the paths of inserted leaves that may be padded with zeros, where runs with other `sizes`
      (fields of the tuning) share a program; the zeros must stay zeros.
    * `chooses`: the tuning inserts nothing and has one phase, so the trainable leaves may be given as a mask where runs
      share a program.
    """

    merged_in_step: ClassVar[bool] = False
    unmergeable: ClassVar[tuple[tuple[str, str], ...]] = ()
    padded: ClassVar[tuple[str, ...]] = ()
    sizes: ClassVar[tuple[str, ...]] = ()
    chooses: ClassVar[bool] = False

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        """Return the parameters with the inserted leaves. It is first traced on shapes, then called with arrays."""
        return params

    def phases(self, model: Model) -> tuple[Phase, ...]:
        """Return the phases of a run."""
        raise TypeError(f"{type(self).__name__} does not define phases(model); define it")

    def merge(self, params: Tree) -> Tree:
        """Return equivalent parameters without the inserted leaves, except the `unmergeable` ones.

        `params` is the whole tree or the tree of one stage, and may be merged already.
        """
        return merged(params)


@dataclass(frozen=True)
class Merging:
    """The computation of a stage, with its parameters merged by the tuning's `merge`."""

    tuning: Tuning
    plain: Apply

    def __call__(self, params: Tree, *rest: Any) -> Any:
        return self.plain(self.tuning.merge(params), *rest)


def merging(model: Model, tuning: Tuning) -> Model:
    """Return the model with stages that merge the inserted leaves before they compute.

    The model is unchanged where the tuning is not `merged_in_step`.
    """
    plain = [stage._replace(apply=getattr(stage.apply, "plain", stage.apply)) for stage in model.stages]
    if tuning.merged_in_step:
        return model._replace(stages=tuple(stage._replace(apply=Merging(tuning, stage.apply)) for stage in plain))
    return model._replace(stages=tuple(plain)) if plain != list(model.stages) else model


def merge_layers(params: Mapping[str, Any], entry: str, merge: Callable[[Tree, Tree], Tree]) -> Tree:
    """Return the tree with every sub-dict that holds `entry` replaced by `merge(the rest of it, the entry)`.

    >>> tree = {"head": {"kernel": 2.0, "gain": {"scale": 3.0}}, "stem": {"kernel": 1.0}}
    >>> merge_layers(tree, "gain", lambda layer, gain: layer | {"kernel": layer["kernel"] * gain["scale"]})
    {'head': {'kernel': 6.0}, 'stem': {'kernel': 1.0}}
    """
    plain = {name: merge_layers(leaf, entry, merge) if isinstance(leaf, Mapping) else leaf
             for name, leaf in params.items() if name != entry}  # fmt: skip
    return merge(plain, params[entry]) if entry in params else plain


def stage_rule(stage: str, learn: Learn | None) -> Rule:
    """Return a rule for every parameter of one stage."""
    return (f"{stage}/.*", learn)


def head_rule(model: Model, who: str, learn: Learn = Learn()) -> Rule:
    """Return the rule that trains the last stage with parameters and a neck below it, except their `FIXED` leaves.

    A new task needs its own head, also where few other parameters are trained.

    Raises:
        ValueError: the model has no stage below the head.
    """
    stages = parametric(model)
    if len(stages) < 2:
        raise ValueError(
            f"{who}() requires a stage below the head, but this model has the stages {stages}; use Rules(...)"
        )
    names = stages[-1] if neck_of(model.head) is None else f"({NECK}|{stages[-1]})"
    return (f"{names}/(?!{FIXED}$).*", learn)


def with_head(model: Model, who: str, *rules: Rule) -> tuple[Phase, ...]:
    """Return one phase that trains the head and the leaves that `rules` select, and freezes the rest.

    A head over the vocabulary is frozen beside other rules: it is pretrained, and its kernel may be the embedding of
    the words.
    """
    if rules and isinstance(model.head, Vocabulary):
        return (Phase(1.0, (*rules, REST_STILL)),)
    return (Phase(1.0, (*rules, head_rule(model, who), REST_STILL)),)


def parametric(model: Model) -> list[str]:
    """Return the stages that have parameters, in the order of the chain."""
    return [stage.name for stage in model.stages if subtree(model.params, stage.name)]


def levels(model: Model) -> list[list[str]]:
    """Return the stages with parameters grouped by depth, the shallowest first."""
    stages: dict[int, list[str]] = {}
    for name in parametric(model):
        stages.setdefault(model.depths[name], []).append(name)
    return [stages[depth] for depth in sorted(stages)]


def depths(model: Model) -> dict[str, int]:
    """Return how many layers each stage with parameters lies below the deepest ones.

    The result is in the order of the chain. A layer consists of the stages of one depth and the stages that join it
    (see `types.Stage`). In a transformer with N blocks the head has 0, block n (from 0) has N - n and the stem N + 1,
    in every family. These are the layers of `param_groups_layer_decay` in timm, where the last norm counts with the
    last block.
    """
    joins = {stage.name: stage.joins for stage in model.stages}
    distances: dict[str, int] = {}
    distance, upper_names = 0, None
    for names in reversed(levels(model)):
        if upper_names is not None and not joined(joins, names, "after") and not joined(joins, upper_names, "before"):
            distance += 1
        distances |= dict.fromkeys(names, distance)
        upper_names = names
    return {name: distances[name] for name in parametric(model)}


def joined(joins: Mapping[str, str | None], names: Iterable[str], side: str) -> bool:
    """Return whether all these stages of one depth count with the stages on the given side."""
    return all(joins[name] == side for name in names)


def key_of(key: Key, path: str) -> Key:
    """Return the random key of one place, which depends on `key` and the path alone."""
    return jax.random.fold_in(key, zlib.crc32(path.encode()))


def groups(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every sub-dict of `tree` with its path."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            inner_path = f"{path}/{name}" if path else name
            yield inner_path, value
            yield from groups(value, inner_path)


def norm_leaves(model: Model) -> dict[str, list[str]]:
    """Return the paths of the leaves of every norm, by the path of the norm: a scale, and a bias where it has one."""
    names = {
        path: sorted(group) for path, group in groups(model.params) if {"scale"} <= group.keys() <= {"scale", "bias"}
    }
    return {path: [f"{path}/{name}" for name in leaves] for path, leaves in names.items()}


def places(
    model: Model, on: str, who: str, field: str = "on", *, convolutions: bool = False
) -> dict[str, tuple[int, ...]]:
    """Return the layers with a path that `on` matches in full, with the shapes of their kernels.

    Args:
        model: the model that trains.
        on: the regex for paths.
        who: the tuning, for messages.
        field: the name of its field that holds `on`, for messages.
        convolutions: whether `on` may match convolutions; otherwise dense layers only.

    Raises:
        ValueError: `on` matches nothing or something other than such a layer, or the model comes from another library,
            whose layers would ignore an added leaf.
    """
    check_inserts(model, who)
    pattern = compile_rule(on)
    matches = {path: group for path, group in groups(model.params) if pattern.fullmatch(path)}
    if not matches:
        names = [path for path, group in groups(model.params) if "kernel" in group]
        raise ValueError(f"{who}({field}={on!r}) matches no layer{near_pattern(on, names)}")
    sizes = (2, 3, 4) if convolutions else (2,)
    others = [path for path, group in matches.items() if len(getattr(group.get("kernel"), "shape", ())) not in sizes]
    if others:
        words = " or a convolution" if convolutions else ""
        shape = getattr(matches[others[0]].get("kernel"), "shape", None)
        reason = f"its kernel is {shape}" if shape else "it has no kernel"
        raise ValueError(f"{who}({field}={on!r}) matches {others[0]!r}, which is not a dense layer{words}: {reason}")
    return {path: group["kernel"].shape for path, group in sorted(matches.items())}


def check_inserts(model: Model, who: str) -> None:
    """Raise ValueError for a model whose layers do not read the leaves that a tuning adds."""
    if not model.inserts:
        kind = type(model.config).__name__
        raise ValueError(f"{who} adds parameters, which a bridged module ({kind}) does not read; use Rules(...) alone")


def blocks(model: Model, who: str) -> list[str]:
    """Return the paths of the transformer blocks; raise ValueError for a model without any."""
    check_inserts(model, who)
    paths = [path for path, group in groups(model.params) if {"attention", "mlp"} <= group.keys()]
    if not paths:
        raise ValueError(f"{who} requires transformer blocks, but {type(model.config).__name__} has none")
    return paths


def either(paths: Iterable[str], learn: Learn | None) -> Rule:
    """Return one rule for exactly these paths."""
    return ("|".join(map(re.escape, paths)), learn)
