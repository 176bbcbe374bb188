"""Partition the parameters by rules over their paths: which are trainable, and how fast each moves.

A rule is `(regex, Learn | None)`: the regex is matched by `fullmatch` on the whole path, the first match wins, None
freezes. Every rule must claim something and every parameter must be claimed; a mistyped rule is an error.
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from tlx.files.patterns import Pattern, compile_pattern
from tlx.trees import Tree, closest, flatten, near_miss, nest, size
from tlx.types import Learn, Rule

Partition = dict[str, Learn | None]


def compile_rule(pattern: str) -> Pattern:
    """Compile a rule's `pattern`; raise ValueError that names what is wrong with it."""
    return compile_pattern(pattern, "rule")


def prefixes(paths: Iterable[str]) -> set[str]:
    """Return every path and each of its parents, except parents with numbered children: candidates for a mistyped rule.

    >>> sorted(prefixes(["blocks/00/bias", "stem/bias"]))
    ['blocks/00', 'blocks/00/bias', 'stem', 'stem/bias']
    """
    names = set()
    for path in paths:
        parts = path.split("/")
        names |= {"/".join(parts[:n]) for n in range(1, len(parts)) if not parts[n].isdigit()} | {path}
    return names


def near_pattern(pattern: str, paths: Iterable[str]) -> str:
    """Return the tail of a message about a pattern that matches none of the `paths`: a pattern that does, and what it
    matches, else the closest names.

    >>> near_pattern("query", ["blocks/00/attention/query", "blocks/01/attention/query"])
    "; it must match the whole path: write '.*/query', which matches 2, such as 'blocks/00/attention/query'"
    >>> near_pattern("blocks/.*/qury", ["blocks/00/attention/query"])
    "; close: 'blocks/.*/query'"
    """
    paths = sorted(set(paths))
    for wider in (f".*/{pattern}", f"{pattern}/.*", f".*/{pattern}/.*", f".*{pattern}.*"):
        if matches := matching(wider, paths):
            return (
                f"; it must match the whole path: write {wider!r}, which matches {len(matches)}, such as {matches[0]!r}"
            )
    if mended := mended_pattern(pattern, paths):
        return f"; close: {mended!r}"
    literal = re.sub(r"\\d[+*]?|\[\d-\d\]", "00", pattern.split("(", maxsplit=1)[0].removeprefix(".*/"))
    literal = literal.replace("\\", "").removesuffix("/.*").removesuffix(".*")
    return near_miss(literal, prefixes(paths), n=2)


def mended_pattern(pattern: str, paths: Sequence[str]) -> str:
    """Return the pattern with its one unknown word replaced by the closest word of the paths, if it then matches; an
    empty text otherwise."""
    words = {word for path in paths for word in path.split("/") if not word.isdigit()}
    unknown = [word for word in re.findall(r"(?<![\\\w])[A-Za-z_]{2,}", pattern) if word not in words]
    for word in unknown if len(unknown) == 1 else ():
        for near in closest(word, words, n=3):
            for mended in (pattern.replace(word, near), f"{pattern.replace(word, near)}/.*"):
                if matching(mended, paths):
                    return mended
    return ""


def matching(pattern: str, paths: Iterable[str]) -> list[str]:
    """Return the paths that a pattern matches; none where it is no regular expression."""
    try:
        return [path for path in paths if compile_rule(pattern).fullmatch(path)]
    except ValueError:
        return []


def partition(params: Mapping[str, Any], rules: Iterable[Rule]) -> Partition:
    """Return the `Learn` of each parameter by path, None where it is frozen.

    Args:
        params: The tree of parameters, or of anything in their structure.
        rules: Pairs of a regex and a `Learn` or None; the first match wins.

    Raises:
        ValueError: A rule claims nothing (the message names the near miss, or the earlier rule that took its matches)
            or has a negative rate or weight decay; no rule claims some parameter; or all parameters are frozen.

    >>> partition({"stem": 0, "head": 1}, (("stem", None), (".*", Learn(lr=0.5))))
    {'head': Learn(lr=0.5, weight_decay=None, schedule=None), 'stem': None}
    """
    rules = tuple(rules)
    result = {path: rules[position][1] for path, position in claims(params, rules).items()}
    if all(learn is None for learn in result.values()):
        raise ValueError(
            f"all {len(result)} parameters are frozen, because no rule with Learn(...) matches any of them; add such a "
            "rule"
        )
    return result


def claims(params: Mapping[str, Any], rules: Sequence[Rule]) -> dict[str, int]:
    """Return the position of the rule that claims each parameter, by path. Raises as `partition` does, except where all
    parameters are frozen."""
    for rule, learn in rules:
        check_learn(rule, learn)
    patterns = [compile_rule(pattern) for pattern, _ in rules]
    paths = list(flatten(params))
    claimed: dict[str, int] = {}
    for path in paths:
        for position, pattern in enumerate(patterns):
            if pattern.fullmatch(path):
                claimed[path] = position
                break
    for position, (rule, _) in enumerate(rules):
        if position in claimed.values():
            continue
        matches = [path for path in paths if patterns[position].fullmatch(path)]
        if not matches:
            raise ValueError(f"rule {rule!r} matches no parameter{near_pattern(rule, paths)}")
        earlier = ", ".join(repr(rules[n][0]) for n in sorted({claimed[path] for path in matches}))
        raise ValueError(
            f"rule {rule!r} has no effect: the earlier {earlier} already took its {len(matches)} "
            f"match{'es' if len(matches) > 1 else ''}; move it up"
        )
    if unclaimed := [path for path in paths if path not in claimed]:
        raise ValueError(
            f"no rule matches {len(unclaimed)} of {len(paths)} parameters: {_some(unclaimed)}; end the rules with "
            "(r'.*', Learn()) or (r'.*', None)"
        )
    return claimed


def check_learn(rule: str, learn: Learn | None) -> None:
    """Raise ValueError for a rate or a weight decay of a rule that is negative or not finite."""
    for name in ("lr", "weight_decay"):
        number = getattr(learn, name, None)
        if number is not None and not 0 <= number < math.inf:
            what = "a learning rate multiplier" if name == "lr" else "a weight decay"
            raise ValueError(f"rule {rule!r} has {name}={number:g}; expected {what}, finite and 0 or more")


def _some(paths: list[str], n: int = 3) -> str:
    return ", ".join(map(repr, paths[:n])) + (", ..." if len(paths) > n else "")


def split(params: Mapping[str, Any], parts: Partition) -> tuple[Tree, Tree]:
    """Return `(trainable, frozen)`, two trees with disjoint leaves; `trees.merge` joins them again."""
    leaves = flatten(params)
    trainable = {path: leaf for path, leaf in leaves.items() if parts[path] is not None}
    frozen = {path: leaf for path, leaf in leaves.items() if parts[path] is None}
    return nest(trainable), nest(frozen)


def frozen_stages(
    stages: Iterable[str], parts: Partition, reads: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> frozenset[str]:
    """Return the stages that run in evaluation mode: those with parameters, all of them frozen.

    Their dropout is off and, unless `Train(fixed_statistics="none")`, their batch statistics do not move, so a frozen
    prefix is one fixed function. For a stage that declares no parameters, those count that it `reads` of other stages.
    """
    result = set()
    for stage in stages:
        learns = [learn for path, learn in parts.items() if path.startswith(f"{stage}/")]
        if not learns and (shared := tuple(f"{path}/" for path in reads.get(stage, ()))):
            learns = [learn for path, learn in parts.items() if path.startswith(shared)]
        if learns and all(learn is None for learn in learns):
            result.add(stage)
    return frozenset(result)


class EvaluationMode(NamedTuple):
    """The parts of a model that run as in evaluation in a training step, as `models.forward` takes them.

    `still` are stages. In those of them that are also in `moving`, batch norm computes as in training. `fixed` are the
    paths of single batch norms.
    """

    still: frozenset[str] = frozenset()
    moving: frozenset[str] = frozenset()
    fixed: frozenset[str] = frozenset()


def evaluation_mode(
    stages: Iterable[str],
    stats: Mapping[str, Any],
    parts: Partition,
    fixed_statistics: str = "stages",
    reads: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> EvaluationMode:
    """Return the parts of a model that run as in evaluation.

    Args:
        stages: The names of the stages.
        stats: The running statistics of the model, or what it declares of them.
        parts: The partition of the parameters.
        fixed_statistics: As in `recipe.Train`.
        reads: As in `frozen_stages`.
    """
    still = frozen_stages(stages, parts, reads)
    if fixed_statistics == "none":
        return EvaluationMode(still, moving=still)
    if fixed_statistics == "stages":
        return EvaluationMode(still)
    layers = {path.rpartition("/")[0] for path in flatten(stats)}
    learns: dict[str, list[Learn | None]] = {}
    for path, learn in parts.items():
        learns.setdefault(path.rpartition("/")[0], []).append(learn)
    frozen = (layer for layer in layers if layer in learns and all(learn is None for learn in learns[layer]))
    return EvaluationMode(still, fixed=frozenset(frozen))


def first_trainable(stages: Sequence[str], trainable: Mapping[str, Any] | Collection[str]) -> str | None:
    """Return the first of the `stages` with a trainable parameter.

    `trainable` holds paths, or maps each path to its `Learn` (None: frozen). Return None where the result is the first
    stage of the model, or where no stage is trainable.

    >>> first_trainable(["stem", "head"], {"stem/kernel": None, "head/kernel": Learn()})
    'head'
    """
    paths = [path for path in trainable if not isinstance(trainable, Mapping) or trainable[path] is not None]
    matches = [stage for stage in stages if any(path.startswith(f"{stage}/") for path in paths)]
    return matches[0] if matches and matches[0] != stages[0] else None


def mostly_frozen(stages: Iterable[str], parts: Partition, params: Mapping[str, Any]) -> list[str]:
    """Return the stages with parameters of which less than half, counted by elements, are trainable.

    >>> import numpy as np
    >>> parts = {"stem/kernel": None, "head/kernel": Learn(), "head/bias": None}
    >>> sizes = {"stem": {"kernel": np.ones(4)}, "head": {"kernel": np.ones(4), "bias": np.ones(2)}}
    >>> mostly_frozen(["stem", "head"], parts, sizes)
    ['stem']
    """
    names = []
    for stage in stages:
        sizes = {path: size(leaf) for path, leaf in flatten(params).items() if path.startswith(f"{stage}/")}
        if 2 * sum(count for path, count in sizes.items() if parts[path] is not None) < sum(sizes.values()):
            names.append(stage)
    return names
