"""What is compared: the recipe with a source and a target, and the same without the one or the other."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tlx.analysis.benefit.arms import assigned, scratch_changes
from tlx.config import fingerprint, parse
from tlx.data import load
from tlx.data.settings import OF_SOURCE
from tlx.functional.selection import CRITERIA
from tlx.functional.selection import SOURCE as DRAWN
from tlx.objectives import Supervised, Term
from tlx.recipe import Recipe, classes
from tlx.study import Study
from tlx.study.sweeps import Override
from tlx.training.active_run import total_steps
from tlx.updates import Sum

TRANSFER, ALONE, SOURCE_ONLY, TARGET_ONLY, SCRATCH = "A(S,T)", "A(0,T)", "source only", "target only", "from scratch"
# Of the arms without which transfer is compared, what each stands for.
BASELINES: dict[str, str] = {
    ALONE: "the same algorithm with the target's labelled examples in the source's role (Wang et al., 2019)",
    SOURCE_ONLY: "the source's labels alone, without adaptation",
    TARGET_ONLY: "the target's labels alone, without source and adaptation",
    SCRATCH: "as target only, with every number of the network drawn afresh",
}
CHANCE = "chance"
ARM, SOURCE, LABELS, EPS, SEED = "arm", "source", "labels", "eps", "seed"
# Fields of terms that name a stream.
ROLES = ("on", "source", "target", "labelled")
Labels = int | float


def negative_study(
    recipe: Recipe,
    *,
    sources: Sequence[str] = (),
    labels: Sequence[Labels] = (0,),
    eps: Sequence[float] = (0.0,),
    seeds: int = 5,
    smallest: float = 0.0,
) -> Study:
    """The study of `recipe`, whose objective is the algorithm: each of the `sources` (the recipe's own where there are
    none) with each number or share of target `labels`, the source perturbed by each `eps`, for so many seeds; beside
    them the arms of `BASELINES`, each as often as it differs.

    Arms of a seed share the subset of labels, the orders of their streams and the number of steps, which is that of the
    recipe's epochs over the largest source. `smallest` is the difference of no interest. Raises ValueError for what
    makes no comparison.
    """
    if not recipe.task.exclusive:
        raise ValueError(f"negative transfer is measured of tasks.Classification, not {type(recipe.task).__name__}")
    sources = tuple(sources) or tuple(recipe.data.sources.values())  # type: ignore[arg-type]
    if not sources:
        raise ValueError("there is no source: give --sources, or a recipe with Data(source=...)")
    check_apart("sources", sources)
    check_apart("labels", labels)
    check_apart("eps", eps)
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; the report needs 1 or more, and 2 for intervals")
    if strange := [value for value in eps if not 0 <= value <= 1]:
        raise ValueError(f"eps is {strange[0]:g}; it is a share of the source's examples, from 0 to 1")
    own = {name: value for name in ("eps_x", "eps_y") if (value := getattr(recipe.data, name))}
    if own and any(eps):
        (name, value), *_ = own.items()
        raise ValueError(f"the recipe has {name}={value:g} itself, and eps are given too; leave one of them out")
    if several := [type(term).__name__ for term in recipe.objective if hasattr(term, "sources")]:
        raise ValueError(f"{several[0]} is of several sources together, and here each source is measured by itself")
    steps = budget(recipe, sources)
    # One look suffices, unless a checkpoint is chosen or a rule's choice is to be judged.
    choosing = recipe.train.select != "last" or bool(recipe.train.criteria)
    looks = recipe.train.eval_every or (math.ceil(steps / 12) if choosing else steps)
    base = assigned(recipe, {"train.steps": steps, "train.eval_every": looks})
    cells: list[Override] = []
    seen: dict[str, str] = {}

    def add(arm: str, names: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
        # Two arms may come to the same, where the algorithm has no term of its own; the first stays.
        if recipe.update.alternates and not any(map(takes_turns, changes["objective"])):
            changes = {"update": Sum(), **changes}
        for seed in range(recipe.seed, recipe.seed + seeds):
            given = {**changes, "seed": seed}
            if seen.setdefault(fingerprint(assigned(base, given)), arm) == arm:
                cells.append(Override({ARM: arm, **names, SEED: seed}, given))

    for source in sources:
        for noise in eps:
            own = {"data.source": source, **perturbed(noise)}
            for count in labels:
                algorithm = transfer(recipe.objective, count)
                add(TRANSFER, named(source, count, noise), {**own, "data.labels": count, "objective": algorithm})
            alone = source_only(recipe.objective)
            add(SOURCE_ONLY, named(source, None, noise), {**own, "data.labels": 0, "objective": alone})
    for count in labels:
        if count == 0:
            continue
        # In this order: a rule that needs a source goes before the source does.
        own = {**without_source(recipe), "data.source": None, "data.labels": count}
        names = named(None, count, None)
        plain = in_role(source_only(recipe.objective))
        add(TARGET_ONLY, names, {**own, "objective": plain})
        add(ALONE, names, {**own, "objective": in_role(transfer(recipe.objective, count))})
        if recipe.weights is not None:
            afresh = scratch_changes(dataclasses.replace(base, objective=plain))
            add(SCRATCH, names, {**own, "objective": plain, **afresh})
    question = f"Does the source help on {recipe.data.target}, by how much, and are we sure?"
    return Study(base=base, cells=cells, question=question, smallest=smallest)


def named(source: str | None, labels: Labels | None, eps: float | None) -> dict[str, Any]:
    return {SOURCE: source, LABELS: labels, EPS: eps}


def without_source(recipe: Recipe) -> dict[str, Any]:
    """The changes of an arm without a source: nothing is said of it any more, and the checkpoint is chosen by "last"
    where the rule looks at it, and beside that by the criteria that do not."""
    free = tuple(name for name in recipe.train.criteria if DRAWN not in CRITERIA[name].reads)
    needs = recipe.train.select in CRITERIA and DRAWN in CRITERIA[recipe.train.select].reads
    changes: dict[str, Any] = {"train.select": "last"} if needs else {}
    said = {name: usual for name, usual in OF_SOURCE.items() if getattr(recipe.data, name) != usual}
    changes |= {f"data.{name}": usual for name, usual in said.items()}
    return changes | ({"train.criteria": free} if free != recipe.train.criteria else {})


def perturbed(eps: float) -> dict[str, Any]:
    """The changes that perturb so large a share of the source's inputs, and of its labels."""
    return {"data.eps_x": eps, "data.eps_y": eps} if eps else {}


def check_apart(name: str, values: Sequence[Any]) -> None:
    if not values:
        raise ValueError(f"there are no {name}")
    if len(set(values)) < len(values):
        raise ValueError(f"{name} are {', '.join(map(str, values))}: one is there twice")


def parse_labels(text: str) -> Labels:
    """A number of examples of each class, or a share.

    >>> parse_labels("5"), parse_labels("0.1"), parse_labels("0")
    (5, 0.1, 0)
    """
    value = parse(text, classes())
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"labels {text!r}: give a number of examples of each class, such as 5, or a share as 0.1")
    return value


def budget(recipe: Recipe, sources: Sequence[str]) -> int:
    """The steps of every arm; ValueError for what does not go together, for all data are opened here."""
    found = []
    for source in sources:
        asked = assigned(recipe, {"data.source": source, "data.labels": 0})
        streams = load(asked.data, asked.seed, test=False).streams
        found.append(total_steps(recipe, len(streams["source"])))
    return max(found)


def transfer(terms: Sequence[Term], labels: Labels) -> tuple[Term, ...]:
    """The algorithm's terms where so many labels of the target are granted: those of the labelled stream are left out
    where there are none, and one is added where some are there that no term reads."""
    if labels == 0:
        left = tuple(term for term in terms if getattr(term, "on", None) != "labelled")
        if not any(reads_source(term) for term in left):
            raise ValueError(
                "without labels of the target no term is left that learns from the source: add "
                "terms.Supervised(on='source'), or leave labels 0 out"
            )
        return left
    reads = any("labelled" in (getattr(term, role, None) for role in ("on", "labelled")) for term in terms)
    return tuple(terms) if reads else (*terms, Supervised(on="labelled"))


def takes_turns(term: Term) -> bool:
    """Whether the steps of the term's update are several moves."""
    return type(term).turns is not Term.turns


def reads_source(term: Term) -> bool:
    return "source" in (getattr(term, role, None) for role in ROLES)


def source_only(terms: Sequence[Term]) -> tuple[Term, ...]:
    """The terms that read the source's labels and nothing else."""
    found = tuple(term for term in terms if getattr(term, "on", None) == "source" and not term.needs(("source",)).once)
    return found or (Supervised(on="source"),)


def in_role(terms: Sequence[Term]) -> tuple[Term, ...]:
    """The terms with the target's labelled examples in the source's role, each once."""
    found: dict[Term, None] = {}
    for term in terms:
        roles = {role: "labelled" for role in ROLES if getattr(term, role, None) == "source"}
        found[dataclasses.replace(term, **roles) if roles else term] = None
    return tuple(found)
