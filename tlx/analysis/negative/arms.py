"""The arms: the recipe with a source and a target, and the same recipe without the one or the other."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

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
# The baseline arms, with a description of each.
BASELINES: dict[str, str] = {
    ALONE: "the same algorithm with the target's labelled examples in place of the source (Wang et al., 2019)",
    SOURCE_ONLY: "the source's labels alone, without adaptation",
    TARGET_ONLY: "the target's labels alone, without source and adaptation",
    SCRATCH: "as target only, with random initial weights",
}
CHANCE = "chance"
ARM, SOURCE, LABELS, EPS, SEED = "arm", "source", "labels", "eps", "seed"
# Fields of terms that name a stream.
ROLES = ("on", "source", "target", "labelled")
Labels = int | float


class ArmChanges(NamedTuple):
    """An arm of the study: its name, the values that identify it among the arms of this name, and its changes of the
    base recipe."""

    name: str
    names: Mapping[str, Any]
    changes: Mapping[str, Any]


def negative_study(
    recipe: Recipe,
    *,
    sources: Sequence[str] = (),
    labels: Sequence[Labels] = (0,),
    eps: Sequence[float] = (0.0,),
    seeds: int = 5,
    smallest: float = 0.0,
) -> Study:
    """Return the study of `recipe`, whose objective is the algorithm.

    It trains each source with each number or share of target labels, the source perturbed by each `eps`, for `seeds`
    seeds; and the arms of `BASELINES`, each as often as it differs. Arms of a seed share the subset of labels, the
    orders of their streams and the number of steps, which follows from the recipe's epochs over the largest source.

    Args:
        recipe: the recipe.
        sources: the sources; by default the recipe's own.
        labels: numbers of target labels per class, or shares of them.
        eps: shares of the source's examples to perturb.
        seeds: the number of seeds.
        smallest: the smallest difference of interest.

    Raises:
        ValueError: The arguments allow no comparison.
    """
    sources = tuple(sources) or tuple(recipe.data.sources.values())  # type: ignore[arg-type]
    check_question(recipe, sources, labels, eps, seeds)
    base = base_recipe(recipe, sources, max(eps))
    arms = [*arms_with_source(recipe, sources, labels, eps), *arms_without_source(recipe, base, labels)]
    question = f"Does the source help on {recipe.data.target}, by how much, and are we sure?"
    return Study(base=base, cells=distinct_cells(base, arms, seeds), question=question, smallest=smallest)


def check_question(
    recipe: Recipe, sources: Sequence[str], labels: Sequence[Labels], eps: Sequence[float], seeds: int
) -> None:
    """Raise ValueError if the arguments of `negative_study` allow no comparison."""
    if not recipe.task.exclusive:
        raise ValueError(f"negative transfer is measured for tasks.Classification, not {type(recipe.task).__name__}")
    if not sources:
        raise ValueError("there is no source: give --sources, or a recipe with Data(source=...)")
    check_apart("sources", sources)
    check_apart("labels", labels)
    check_apart("eps", eps)
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; expected 1 or more, and 2 or more for intervals")
    if strange := [value for value in eps if not 0 <= value <= 1]:
        raise ValueError(f"eps is {strange[0]:g}; expected a share of the source's examples, from 0 to 1")
    settings = {name: value for name in ("eps_x", "eps_y") if (value := getattr(recipe.data, name))}
    if settings and any(eps):
        (name, value), *_ = settings.items()
        raise ValueError(f"the recipe sets {name}={value:g}, and eps is set as well; set only one of them")
    if several := [type(term).__name__ for term in recipe.objective if hasattr(term, "sources")]:
        raise ValueError(
            f"{several[0]} uses several sources together, but this report measures each source separately; use another "
            "term"
        )


def base_recipe(recipe: Recipe, sources: Sequence[str], eps: float) -> Recipe:
    """Return the recipe that every arm changes, with the steps and the evaluations of all arms. `eps` is the largest
    share of perturbed examples."""
    steps = budget(recipe, sources, eps)
    # One validation suffices, unless a checkpoint is chosen or a selection rule is evaluated.
    choosing = recipe.train.select != "last" or bool(recipe.train.criteria)
    looks = recipe.train.eval_every or (math.ceil(steps / 12) if choosing else steps)
    return assigned(recipe, {"train.steps": steps, "train.eval_every": looks})


def arms_with_source(
    recipe: Recipe, sources: Sequence[str], labels: Sequence[Labels], eps: Sequence[float]
) -> Iterator[ArmChanges]:
    """Yield the arms of each source and each perturbation: the algorithm by number of labels, and the source alone."""
    for source in sources:
        for noise in eps:
            settings = {"data.source": source, **perturbed(noise)}
            for count in labels:
                algorithm = transfer(recipe.objective, count)
                changes = {**settings, "data.labels": count, "objective": algorithm}
                yield ArmChanges(TRANSFER, names_of(source, count, noise), changes)
            alone = source_only(recipe.objective)
            yield ArmChanges(
                SOURCE_ONLY, names_of(source, None, noise), {**settings, "data.labels": 0, "objective": alone}
            )


def arms_without_source(recipe: Recipe, base: Recipe, labels: Sequence[Labels]) -> Iterator[ArmChanges]:
    """Yield the arms of each number of labels that train on the target alone."""
    plain = in_role(source_only(recipe.objective))
    for count in labels:
        if count == 0:
            continue
        # In this order: a rule that needs a source goes before the source does.
        settings = {**without_source(recipe), "data.source": None, "data.labels": count}
        names = names_of(None, count, None)
        yield ArmChanges(TARGET_ONLY, names, {**settings, "objective": plain})
        yield ArmChanges(ALONE, names, {**settings, "objective": in_role(transfer(recipe.objective, count))})
        if recipe.weights is not None:
            afresh = scratch_changes(dataclasses.replace(base, objective=plain))
            yield ArmChanges(SCRATCH, names, {**settings, "objective": plain, **afresh})


def distinct_cells(base: Recipe, arms: Iterable[ArmChanges], seeds: int) -> list[Override]:
    """Return a cell for each arm and seed. Of equal arms the first one stays: two are equal if the algorithm has no
    terms besides the supervised one."""
    cells: list[Override] = []
    first_arm: dict[str, str] = {}
    for arm in arms:
        changes = arm.changes
        if base.update.alternates and not any(map(takes_turns, changes["objective"])):
            changes = {"update": Sum(), **changes}
        for seed in range(base.seed, base.seed + seeds):
            seeded = {**changes, "seed": seed}
            if first_arm.setdefault(fingerprint(assigned(base, seeded)), arm.name) == arm.name:
                cells.append(Override({ARM: arm.name, **arm.names, SEED: seed}, seeded))
    return cells


def names_of(source: str | None, labels: Labels | None, eps: float | None) -> dict[str, Any]:
    return {SOURCE: source, LABELS: labels, EPS: eps}


def without_source(recipe: Recipe) -> dict[str, Any]:
    """Return the changes of an arm without a source.

    Settings of the source return to their defaults. The selection rule becomes "last" if it reads the source, and only
    criteria that do not read it are kept.
    """
    free = tuple(name for name in recipe.train.criteria if DRAWN not in CRITERIA[name].reads)
    needs = recipe.train.select in CRITERIA and DRAWN in CRITERIA[recipe.train.select].reads
    changes: dict[str, Any] = {"train.select": "last"} if needs else {}
    settings = {name: usual for name, usual in OF_SOURCE.items() if getattr(recipe.data, name) != usual}
    changes |= {f"data.{name}": usual for name, usual in settings.items()}
    return changes | ({"train.criteria": free} if free != recipe.train.criteria else {})


def perturbed(eps: float) -> dict[str, Any]:
    """Return the changes that perturb this share of the source's inputs and labels."""
    return {"data.eps_x": eps, "data.eps_y": eps} if eps else {}


def check_apart(name: str, values: Sequence[Any]) -> None:
    if not values:
        raise ValueError(f"{name} is empty; give one value or more")
    if len(set(values)) < len(values):
        raise ValueError(f"{name} are {', '.join(map(str, values))}: one value appears twice; give each value once")


def parse_labels(text: str) -> Labels:
    """Return a number of examples per class, or a share.

    >>> parse_labels("5"), parse_labels("0.1"), parse_labels("0")
    (5, 0.1, 0)
    """
    value = parse(text, classes())
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(
            f"labels {text!r}: expected a number of examples per class, such as 5, or a share, such as 0.1"
        )
    return value


def budget(recipe: Recipe, sources: Sequence[str], eps: float) -> int:
    """Return the steps of every arm; raise ValueError for invalid combinations, because all data are opened here, with
    the largest share `eps` of perturbed examples."""
    steps = []
    for source in sources:
        changed = assigned(recipe, {"data.source": source, "data.labels": 0, **perturbed(eps)})
        streams = load(changed.data, changed.seed, test=False).streams
        steps.append(total_steps(recipe, len(streams["source"])))
    return max(steps)


def transfer(terms: Sequence[Term], labels: Labels) -> tuple[Term, ...]:
    """Return the algorithm's terms if this many target labels are granted.

    Terms of the labelled stream are removed if there are no labels. A supervised term is added if there are labels that
    no term reads.
    """
    if labels == 0:
        remaining = tuple(term for term in terms if getattr(term, "on", None) != "labelled")
        if not any(reads_source(term) for term in remaining):
            raise ValueError(
                "without labels of the target, no term learns from the source: add terms.Supervised(on='source'), "
                "or leave labels 0 out"
            )
        return remaining
    reads = any("labelled" in (getattr(term, role, None) for role in ("on", "labelled")) for term in terms)
    return tuple(terms) if reads else (*terms, Supervised(on="labelled"))


def takes_turns(term: Term) -> bool:
    """Return whether a step of the term's update consists of several moves."""
    return type(term).turns is not Term.turns


def reads_source(term: Term) -> bool:
    return "source" in (getattr(term, role, None) for role in ROLES)


def source_only(terms: Sequence[Term]) -> tuple[Term, ...]:
    """Return the terms that read the source's labels and nothing else."""
    selected = tuple(
        term for term in terms if getattr(term, "on", None) == "source" and not term.needs(("source",)).once
    )
    return selected or (Supervised(on="source"),)


def in_role(terms: Sequence[Term]) -> tuple[Term, ...]:
    """Return the terms with the target's labelled examples in the role of the source, each once."""
    replaced: dict[Term, None] = {}
    for term in terms:
        roles = {role: "labelled" for role in ROLES if getattr(term, role, None) == "source"}
        replaced[dataclasses.replace(term, **roles) if roles else term] = None
    return tuple(replaced)
