"""Rules over paths -> which parameters move, and how fast.

A rule is `(regex, Learn | None)`: the regex is matched by `fullmatch` on the whole path, the first match wins, None
freezes. Every rule must claim something and every parameter must be claimed, so that a slip never passes in silence.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from tlx.files.patterns import Pattern, compile_pattern
from tlx.trees import Tree, flatten, near_miss, nest, size
from tlx.types import Learn, Rule

Partition = dict[str, Learn | None]


def compile_rule(pattern: str) -> Pattern:
    """Compile a rule's `pattern`; raise ValueError that names what is wrong with it."""
    return compile_pattern(pattern, "rule")


def prefixes(paths: Iterable[str]) -> set[str]:
    """Every path and every parent of one, but for those whose children are numbered: what a mistyped rule may have
    meant.

    >>> sorted(prefixes(["blocks/00/bias", "stem/bias"]))
    ['blocks/00', 'blocks/00/bias', 'stem', 'stem/bias']
    """
    names = set()
    for path in paths:
        parts = path.split("/")
        names |= {"/".join(parts[:n]) for n in range(1, len(parts)) if not parts[n].isdigit()} | {path}
    return names


def partition(params: Mapping[str, Any], rules: Iterable[Rule]) -> Partition:
    """Which rule claims each parameter of the tree `params`, by path.

    Raises ValueError for a rule that claims nothing (naming the near miss, or the earlier rule that took its
    matches), for one with a negative rate or weight decay, for a parameter that no rule claims, and where nothing is
    left to learn.

    >>> partition({"stem": 0, "head": 1}, (("stem", None), (".*", Learn(lr=0.5))))
    {'head': Learn(lr=0.5, weight_decay=None, schedule=None), 'stem': None}
    """
    rules = tuple(rules)
    result = {path: rules[position][1] for path, position in claims(params, rules).items()}
    if all(learn is None for learn in result.values()):
        raise ValueError(f"all {len(result)} parameters are frozen: no rule with Learn(...) claims any")
    return result


def claims(params: Mapping[str, Any], rules: Sequence[Rule]) -> dict[str, int]:
    """Which of the rules claims each parameter, by path. Raises as `partition` does, but where nothing learns."""
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
            literal = rule.replace("\\", "").removesuffix("/.*").removesuffix(".*")
            close = near_miss(literal, prefixes(paths), n=2)
            raise ValueError(f"rule {rule!r} claims no parameter{close}")
        earlier = ", ".join(repr(rules[n][0]) for n in sorted({claimed[path] for path in matches}))
        raise ValueError(
            f"rule {rule!r} claims nothing: {earlier} before it took its "
            f"{len(matches)} match{'es' if len(matches) > 1 else ''}; move it up"
        )
    if unclaimed := [path for path in paths if path not in claimed]:
        raise ValueError(
            f"no rule claims {len(unclaimed)} of {len(paths)} parameters: {_some(unclaimed)}; "
            "end the rules with (r'.*', Learn()) or (r'.*', None)"
        )
    return claimed


def check_learn(rule: str, learn: Learn | None) -> None:
    """ValueError for a rate or a weight decay of a rule that is negative or not finite."""
    for name in ("lr", "weight_decay"):
        number = getattr(learn, name, None)
        if number is not None and not 0 <= number < math.inf:
            what = "it multiplies the rate" if name == "lr" else "it draws towards zero"
            raise ValueError(f"rule {rule!r} has {name}={number:g}; {what}, and is finite and 0 or more")


def _some(paths: list[str], n: int = 3) -> str:
    return ", ".join(map(repr, paths[:n])) + (", ..." if len(paths) > n else "")


def split(params: Mapping[str, Any], parts: Partition) -> tuple[Tree, Tree]:
    """`(trainable, frozen)`: two trees with disjoint leaves; `trees.merge` puts them together again."""
    leaves = flatten(params)
    trainable = {path: leaf for path, leaf in leaves.items() if parts[path] is not None}
    frozen = {path: leaf for path, leaf in leaves.items() if parts[path] is None}
    return nest(trainable), nest(frozen)


def frozen_stages(stages: Iterable[str], parts: Partition) -> frozenset[str]:
    """The stages that run as in evaluation: those with parameters, all of them frozen.

    Their dropout is off and their batch statistics do not move, so a frozen prefix is one fixed function.
    """
    result = set()
    for stage in stages:
        own = [learn for path, learn in parts.items() if path.startswith(f"{stage}/")]
        if own and all(learn is None for learn in own):
            result.add(stage)
    return frozenset(result)


def first_trainable(stages: Sequence[str], trainable: Mapping[str, Any] | Collection[str]) -> str | None:
    """The first of the `stages` with a trainable parameter: `trainable` holds paths, or what claims them (None:
    frozen). None where that is the first of all, or where none of them has one.

    >>> first_trainable(["stem", "head"], {"stem/kernel": None, "head/kernel": Learn()})
    'head'
    """
    paths = [path for path in trainable if not isinstance(trainable, Mapping) or trainable[path] is not None]
    found = [stage for stage in stages if any(path.startswith(f"{stage}/") for path in paths)]
    return found[0] if found and found[0] != stages[0] else None


def mostly_frozen(stages: Iterable[str], parts: Partition, params: Mapping[str, Any]) -> list[str]:
    """The stages with parameters of which less than half, counted in numbers, learn.

    >>> import numpy as np
    >>> parts = {"stem/kernel": None, "head/kernel": Learn(), "head/bias": None}
    >>> sizes = {"stem": {"kernel": np.ones(4)}, "head": {"kernel": np.ones(4), "bias": np.ones(2)}}
    >>> mostly_frozen(["stem", "head"], parts, sizes)
    ['stem']
    """
    found = []
    for stage in stages:
        own = {path: size(leaf) for path, leaf in flatten(params).items() if path.startswith(f"{stage}/")}
        if 2 * sum(count for path, count in own.items() if parts[path] is not None) < sum(own.values()):
            found.append(stage)
    return found
