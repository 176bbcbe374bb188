"""Many recipes: which of them share a program, how many at a time, and whether that pays."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

from tlx import config, pack
from tlx.arm import Arm, Clock, opened
from tlx.feed import order_key
from tlx.phase import Begun, begin_phase, fresh_states
from tlx.recipe import Recipe
from tlx.step import Parts, TrainState
from tlx.train import How, Run, finished, train, whole
from tlx.tuning import BitFit, Freeze, Full, NormTuning, Probe, Rules

# More arms than this are several packs.
MOST_ARMS = 64
# A pack has to beat its arms one after another by this much to be worth its memory.
GAIN = 0.9
# The share of the free memory that a pack may take.
ROOM = 0.6
# What a sweep may vary without another program, by field of the recipe; in `data` only where `train` fixes the steps.
VARIED = ("optim", "tuning", "objective", "update", "task")
# Tunings that add nothing and have one phase: what they choose may be a mask.
CHOOSING = (Full, Probe, Freeze, Rules, BitFit, NormTuning)
DRAWN = ("shots", "fraction", "subset_seed")
NOISE = ("eps_x", "eps_y")


class Choice(NamedTuple):
    """What was decided for some arms: how many train at a time (1: one by one), and why."""

    arms: int
    why: str
    seconds_per_step: Mapping[str, float] = {}
    memory_bytes: int = 0


def signature(recipe: Recipe) -> str:
    """What recipes that may share a program have in common: all but the seed, the numbers that are arrays in the step,
    the rank of LoRA, how much of a source is noise, and, where every step and evaluation is fixed, which training
    examples were drawn."""
    document = config.dump(recipe)
    del document["seed"]
    document["data"] |= dict.fromkeys(NOISE, "#")
    for name in VARIED:
        value = getattr(recipe, name)
        several = value if isinstance(value, tuple) else (value,)
        document[name] = [blank(config.dump(item), config.numbers(item)) for item in several]
    if recipe.train.ema is not None:
        document["train"]["ema"] = "#"
    if recipe.optim.name in pack.ELEMENTWISE and hasattr(recipe.tuning, "rank"):
        document["tuning"][0]["rank"] = "#"
    if isinstance(recipe.tuning, CHOOSING):
        document["tuning"] = "#"
    if recipe.train.steps is not None and recipe.train.eval_every is not None:
        document["data"] |= dict.fromkeys(DRAWN, "#")
    return json.dumps(document, sort_keys=True)


def blank(document: Any, numbers: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """The document of a record with `#` in the place of every float, and of `numbers`, which may have been given as
    integers. Some of these floats decide more than a number (the shares of phases): `alike` looks at what came out."""
    if isinstance(document, dict):
        inner = {name: numbers.get(name, {}) for name in document}
        return {
            name: blank(value, inner[name]) if isinstance(inner[name], Mapping) else "#"
            for name, value in document.items()
        }
    if isinstance(document, list):
        return ["#" if isinstance(numbers.get(str(n)), float) else blank(value) for n, value in enumerate(document)]
    return "#" if isinstance(document, float) else document


def groups(recipes: Sequence[Recipe]) -> list[list[int]]:
    """The positions of recipes that may share a program, group by group, in the order of their first ones."""
    found: dict[str, list[int]] = {}
    for position, recipe in enumerate(recipes):
        found.setdefault(signature(recipe), []).append(position)
    return list(found.values())


def run_many(
    recipes: Sequence[Recipe],
    folders: Sequence[str | Path],
    *,
    how: How | None = None,
    most: int = MOST_ARMS,
    note: Callable[[dict[str, Any]], None] | None = None,
    done: Callable[[int, Run | Exception], None] | None = None,
) -> list[Run | Exception]:
    """Every recipe's run in its folder: what is finished is read, what was interrupted goes on, and those that differ
    in numbers alone train side by side where that is quicker; `most` bounds how many, 1 is one by one.

    A recipe that fails gives its exception and stops no other. `note` is told every choice, `done` each outcome as it
    comes. An interruption ends all; what was saved is gone on from.
    """
    how = how or How(quiet=True, leave="learned", checkpoint_seconds=30.0)
    results: list[Run | Exception | None] = [None] * len(recipes)

    def settle(position: int, outcome: Run | Exception) -> None:
        results[position] = outcome
        if done is not None:
            done(position, outcome)

    for members in groups(recipes):
        ready: dict[int, Arm] = {}
        clock = Clock()
        with clock("setup"):
            for position in members:
                try:
                    path = Path(folders[position])
                    if found := finished(recipes[position], path, resume=True, overwrite=False):
                        settle(position, whole(found, how))
                        continue
                    like = next(iter(ready.values()), None)
                    ready[position] = opened(recipes[position], path, like=like, records=how.records, test=how.test)
                except Exception as error:
                    settle(position, error)
        for twins in alike(ready):
            # Side by side where they take the same batches.
            twins.sort(key=lambda position: order_key(ready[position]))
            with clock("setup"):
                choice, begun = tried([ready[position] for position in twins], how, most)
            if note is not None and len(twins) > 1:
                prints = [config.fingerprint(recipes[position]) for position in twins]
                named = "packed" if choice.arms > 1 else "one by one"
                note({"time": round(time.time(), 3), "cells": prints, "how": named, **choice._asdict()})
            for start in range(0, len(twins), choice.arms):
                together = twins[start : start + choice.arms]
                own = begun if start == 0 and len(together) == choice.arms else None
                outcomes, begun = attempted([ready[position] for position in together], how, clock, own), None
                for position, outcome in zip(together, outcomes, strict=True):
                    settle(position, outcome)
                clock = Clock()
    return [result for result in results if result is not None]


def attempted(arms: Sequence[Arm], how: How, clock: Clock, begun: Begun | None) -> list[Run | Exception]:
    """The outcomes of arms that train together; an error of the whole is that of each."""
    try:
        return train(arms, how, clock, begun)
    except Exception as error:
        return [error] * len(arms)


def alike(ready: Mapping[int, Arm]) -> list[list[int]]:
    """The positions of arms that differ in numbers alone and stand at the same step."""
    found: list[tuple[Form, list[int]]] = []
    for position, arm in ready.items():
        form = form_of(arm)
        for known, twins in found:
            if form.stands == known.stands and (all(map(same, known.phases, form.phases)) or joinable(known, form)):
                twins.append(position)
                break
        else:
            found.append((form, [position]))
    return [twins for _, twins in found]


def same(one: tuple[Parts, TrainState], other: tuple[Parts, TrainState]) -> bool:
    """Whether two steps differ in numbers alone."""
    return pack.same_program((one[0], other[0]), (one[1], other[1]))


def joinable(one: "Form", other: "Form") -> bool:
    """Whether two arms that learn other leaves can be joined, from their start to their end."""
    if len(one.phases) > 1 or one.stands[0] > 0 or one.stands[1] != "last":
        return False
    (parts, state), (others, another) = one.phases[0], other.phases[0]
    return pack.may_join((parts, others), (state, another))


class Form(NamedTuple):
    """What must agree for two arms to train together: where they `stand`, and for every phase the static half of the
    step and the shapes of its state."""

    stands: tuple[Any, ...]
    phases: list[tuple[Parts, TrainState]]


def form_of(arm: Arm) -> Form:
    ready, splits = arm.ready, arm.splits
    measured = [own.identity for own in (splits.validation, splits.test, *splits.aside.values())]
    head = (type(ready.task), ready.task.outputs, ready.model.config)
    stands = (arm.begin, arm.recipe.train.select, arm.steps, arm.spans, arm.eval_every, *head, *measured)
    phases = []
    for phase in range(len(arm.spans)):
        parts = ready.parts(phase)
        phases.append((parts, jax.eval_shape(lambda own=parts, n=phase: fresh_states([arm], [own], n, None)[0])))
    return Form(stands, phases)


def tried(arms: Sequence[Arm], how: How, most: int) -> tuple[Choice, Begun | None]:
    """What is chosen; one by one where that cannot be measured, for then each arm says for itself what is wrong."""
    try:
        return chosen(arms, how, most)
    except Exception as error:
        return Choice(1, f"a step could not be measured ({type(error).__name__}: {error})"), None


def chosen(arms: Sequence[Arm], how: How, most: int) -> tuple[Choice, Begun | None]:
    """How many of these arms are to train at a time: as many as memory holds, where the pack takes less time than so
    many runs of one, both measured here: by their steps, and, where those do not decide, by what comes before them.
    With it, where that was made to be measured, the beginning of the first so many."""
    count = min(len(arms), most)
    if count == 1:
        return Choice(1, "there is one arm" if len(arms) == 1 else "one by one was asked for"), None
    recipe = arms[0].recipe
    if recipe.train.compile == "pmap" or jax.process_count() > 1:
        return Choice(1, "pmap" if recipe.train.compile == "pmap" else "several processes"), None
    alone, single, own = measured(arms[:1], how)
    free = free_memory()
    fit = max(1, int(ROOM * free // max(1, single)))
    count = min(count, fit)
    begun = None
    while count > 1:
        together, taken, begun = measured(arms[:count], how)
        if taken <= ROOM * free:
            break
        count, begun = count // 2, None
    if count <= 1:
        why = f"two arms would take more than the memory has, {free / 1e9:.1f} GB free"
        return Choice(1, why, {"one": alone}), own
    seconds = {"one": alone, "pack": together, "pack_per_arm": together / count}
    ratio = count * alone / together
    why = f"a step of {count} arms takes {together:.2g} s and {count} steps of one {count * alone:.2g} s: {ratio:.1f} x"
    if together >= GAIN * count * alone:
        # Each of the runs would trace its program and fetch it from the cache, which a pack does once.
        steps = arms[0].steps - arms[0].begin
        begin = time.perf_counter()
        measured(arms[:1], how, steps=2)
        seconds["begin"] = again = time.perf_counter() - begin
        pack_whole, alone_whole = again + steps * together, count * (again + steps * alone)
        why += (
            f"; with {again:.2g} s before its steps, {pack_whole:.2g} s against {alone_whole:.2g} s for all {steps:,}"
        )
        if pack_whole >= GAIN * alone_whole:
            return Choice(1, why, seconds, taken), own
    return Choice(count, why, seconds, taken), begun


def measured(arms: Sequence[Arm], how: How, steps: int = 3) -> tuple[float, int, Begun]:
    """Seconds a step of these arms from where they stand, the bytes that their compiled step needs, and their
    beginning, as it was before the measurement."""
    begin = arms[0].begin
    phase = next(n for n, (_, last) in enumerate(arms[0].spans) if begin < last or n == len(arms[0].spans) - 1)
    start, last = arms[0].spans[phase]
    step = max(begin, start)
    begun = begin_phase(arms, phase, how.prefix, lambda told: None)
    fresh = begun.states
    state = begun.placed()
    needed = begun.feed.bytes_needed(state)
    times = []
    for _ in range(steps):
        moment = time.perf_counter()
        taken = begun.feed.take(state, step, min(last, step + 8))
        state = taken.state
        jax.block_until_ready(taken.metrics)
        times.append((time.perf_counter() - moment) / max(1, taken.steps))
    begun.states, begun.feed = fresh, begun.feed.rewound(step)
    return min(times[1:]), needed, begun


def free_memory() -> int:
    """Bytes: of the device where it keeps count, else of the machine; half of all it has where it does not say."""
    told = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in told:
        return int(told["bytes_limit"] - told.get("bytes_in_use", 0))
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        # Not MemFree: what the system keeps of files it gives back when asked.
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        # Windows has no such call.
        size = getattr(os, "sysconf", {"SC_PHYS_PAGES": 2**20, "SC_PAGE_SIZE": 2**13}.__getitem__)
        return size("SC_PHYS_PAGES") * size("SC_PAGE_SIZE") // 2
