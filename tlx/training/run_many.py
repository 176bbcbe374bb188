"""Train many recipes: those that share a program train together, in groups that follow from the recipes alone."""

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from tlx import config, processes
from tlx.recipe import Recipe
from tlx.records.progress import Clock
from tlx.training.active_run import ActiveRun, opened
from tlx.training.batches import order_key
from tlx.training.grouping import RunForm, alike, chunks, form_of, groups, joinable, same, signature
from tlx.training.loop import How, Run, finished, train, whole
from tlx.training.phases import PhaseSetup, set_up_phase
from tlx.trees import size

__all__ = ["Choice", "RunForm", "alike", "chosen", "form_of", "groups", "joinable", "run_many", "same", "signature"]

# How the runs of a study are carried out.
CELLS = How(quiet=True, leave="learned", checkpoint_seconds=30.0)
# The largest group: more runs than this are several.
MOST_ARMS = 64
# A group must take this share of the time of its runs one by one, or less, to be worth its memory.
GAIN = 0.9
# The share of the memory that a group may take: of a device's own, and of the machine's, which other processes use too.
DEVICE_ROOM, ROOM = 0.6, 0.25
# The expected time of a step is STEP[0] + operations / STEP[1] seconds, on processors and on accelerators. Fixed
# figures of an ordinary machine, not measurements: the same recipes form the same groups under any load.
STEP = {"cpu": (1e-4, 5e9), "other": (2e-3, 1e13)}
# Seconds that a run needs before its first step.
BEGIN = 1.0
# On CPUs XLA has no fast convolution with a separate kernel for every run; such steps take longer by this factor. The
# layers of tlx avoid it (see `tlx.layers.cpu_conv`), unless their kernels have groups of channels.
GROUPED = 2.0
CONVOLUTION_GROUPS = re.compile(r"(?:feature|batch)_group_count = (\d+)")

Groups = Sequence[Sequence[int]]


class Choice(NamedTuple):
    """The decision for some runs: how many train at a time (1: one by one), and why. `seconds_per_step` are expected
    times, `memory_bytes` the size of the compiled step of a group."""

    runs: int
    why: str
    seconds_per_step: Mapping[str, float] = {}
    memory_bytes: int = 0


class Outcomes:
    """The outcomes of the runs, `by_position` of their recipes; `done` is called with each first outcome."""

    def __init__(self, on_outcome: Callable[[int, Run | Exception], None] | None):
        self.by_position: dict[int, Run | Exception] = {}
        self.on_outcome = on_outcome

    def settle(self, position: int, outcome: Run | Exception) -> None:
        """Store the outcome of a run, unless it has one already."""
        if position not in self.by_position:
            self.by_position[position] = outcome
            if self.on_outcome is not None:
                self.on_outcome(position, outcome)


class Apart(Exception):
    """A run cannot train, because another run of its group cannot be opened."""


def run_many(
    recipes: Sequence[Recipe],
    folders: Sequence[str | Path],
    *,
    how: How | None = None,
    most: int = MOST_ARMS,
    together: Groups | None = None,
    note: Callable[[dict[str, Any]], None] | None = None,
    admit: Callable[[Groups], Groups] | None = None,
    freed: Callable[[Groups], None] | None = None,
    on_outcome: Callable[[int, Run | Exception], None] | None = None,
) -> list[Run | Exception]:
    """Run every recipe in its folder: finished runs are read, interrupted runs continue from their checkpoint.

    Recipes that differ in numbers alone train together, in one program. Which ones follows from `recipes`, `most`, the
    kind of device and the size of the memory alone: not from time, from free memory, or from what is finished
    already. If a group has finished and unfinished runs, all of it trains again from its last checkpoint, and only the
    unfinished runs write results.

    Args:
        recipes: the recipes; their order is part of the grouping.
        folders: a folder for each recipe.
        how: see `tlx.training.loop.How`.
        most: the largest number of recipes that train together; 1 is one by one.
        together: groups of positions that train together exactly so, in place of groups by the rule above.
        note: is called with every decision of the rule, before any run of it trains.
        admit: is called with the groups of positions that share a decision; returns those to train now. The others
            get no outcome.
        freed: is called with those others when their folders are open to other processes again.
        on_outcome: is called with the position and the outcome of each run as it comes.

    Returns:
        A run or the exception that ended it for each recipe that was to train. One failure stops no other recipe.
    """
    how = how or CELLS
    outcomes = Outcomes(on_outcome)
    # The next group reuses the weights of this run, and the measurements of its data, where they are the same.
    like: ActiveRun | None = None
    for members in together or chunks(recipes, most):
        clock = Clock()
        with clock("setup"):
            ready = open_all(recipes, folders, members, how, outcomes.settle, exactly=together is not None, like=like)
            like = next(iter(ready.values()), like)
            try:
                plans = planned(ready, how, most, note) if together is None else recorded(ready, members)
            except Apart as error:
                fail(ready, error, outcomes.settle)
                continue
        for plan in admitted(plans, ready, admit, freed):
            runs = [ready[position] for position in plan.members]
            if all(run.finished for run in runs):
                for run in runs:
                    run.close()
                continue
            setup = plan.setup.pop() if plan.setup else None
            for position, outcome in zip(plan.members, attempted(runs, how, clock, setup), strict=True):
                outcomes.settle(position, outcome)
            clock = Clock()
    return [outcomes.by_position[position] for position in sorted(outcomes.by_position)]


def open_all(
    recipes: Sequence[Recipe],
    folders: Sequence[str | Path],
    members: Sequence[int],
    how: How,
    settle: Callable[[int, Run | Exception], None],
    exactly: bool,
    like: ActiveRun | None,
) -> dict[int, ActiveRun]:
    """Return the runs of the members by position, the finished ones too; none where all are finished. A member that
    cannot be opened is left out; where the group must be `exactly` the members, or this member was finished, all others
    fail too, because their numbers would differ without it. `like` is as in `opened`."""
    complete: set[int] = set()
    errors: dict[int, Exception] = {}
    for position in members:
        try:
            if run := finished(recipes[position], Path(folders[position]), how, resume=True, overwrite=False):
                complete.add(position)
                settle(position, whole(run, how))
        except Exception as error:
            errors[position] = error
            settle(position, error)
    ready: dict[int, ActiveRun] = {}
    if len(complete | errors.keys()) == len(members):
        return ready
    for position in members:
        if position in errors and position not in complete:
            continue
        try:
            path = Path(folders[position])
            like = next(iter(ready.values()), like)
            ready[position] = opened(
                recipes[position], path, like=like, records=how.records, test=how.test, finished=position in complete
            )
        except Exception as error:
            errors[position] = error
            settle(position, error)
    missing = [position for position in errors if position not in ready and (exactly or position in complete)]
    if missing:
        cause = errors[missing[0]]
        fail(
            ready,
            Apart(f"the run in {folders[missing[0]]} cannot be opened: {type(cause).__name__}: {cause}"),
            settle,
        )
        return {}
    return ready


def fail(ready: Mapping[int, ActiveRun], error: Apart, settle: Callable[[int, Run | Exception], None]) -> None:
    """Close the runs, and settle the unfinished ones with an error that names the cause."""
    message = (
        "the runs of this group must train together, because their numbers depend on the size of the group, but "
        f"{error}. Repair this, or delete the folders of the group and run again"
    )
    for position, run in ready.items():
        run.close()
        if not run.finished:
            settle(position, ValueError(message))


class Plan(NamedTuple):
    """The positions of `members` that train together, and the choice; `setup` holds the set-up of their first phase, if
    it exists already."""

    members: list[int]
    choice: Choice
    setup: list[PhaseSetup]


def planned(
    ready: Mapping[int, ActiveRun], how: How, most: int, note: Callable[[dict[str, Any]], None] | None = None
) -> list[Plan]:
    """Return the groups of these runs, in the order in which they train."""
    plans: list[Plan] = []
    for positions in alike(ready):
        # Runs that take the same batches are adjacent.
        positions.sort(key=lambda position: order_key(ready[position]))
        choice, setup = tried([ready[position] for position in positions], how, most)
        parts = [positions[start : start + choice.runs] for start in range(0, len(positions), choice.runs)]
        setups = [setup] if setup is not None and not plans else []
        plans += [Plan(part, choice, setups if n == 0 else []) for n, part in enumerate(parts)]
        if note is not None:
            fingerprints = [[config.fingerprint(ready[position].recipe) for position in part] for part in parts]
            mode = "packed" if choice.runs > 1 else "one by one"
            cells = [name for part in fingerprints for name in part]
            line = {"time": round(time.time(), 3), "cells": cells, "groups": fingerprints, "how": mode}
            note(
                line
                | {"arms": choice.runs}
                | {"why": choice.why, "seconds_per_step": choice.seconds_per_step, "memory_bytes": choice.memory_bytes}
            )
    return plans


def recorded(ready: Mapping[int, ActiveRun], members: Sequence[int]) -> list[Plan]:
    """Return the one plan of members that train together exactly so; raise `Apart` where they no longer share a
    program."""
    if len(alike(ready)) > 1:
        raise Apart("their programs differ now; the data or the installed packages have changed")
    return [Plan(list(members), Choice(len(members), "as recorded"), [])] if ready else []


def admitted(
    plans: Sequence[Plan],
    ready: Mapping[int, ActiveRun],
    admit: Callable[[Groups], Groups] | None,
    freed: Callable[[Groups], None] | None,
) -> list[Plan]:
    """Return the plans that `admit` selects; close the runs of the others and pass their groups to `freed`."""
    groups = [plan.members for plan in plans]
    chosen = {tuple(group) for group in (groups if admit is None else admit(groups))}
    others = [group for group in groups if tuple(group) not in chosen]
    for group in others:
        for position in group:
            ready[position].close()
    if others and freed is not None:
        freed(others)
    return [plan for plan in plans if tuple(plan.members) in chosen]


def attempted(
    runs: Sequence[ActiveRun], how: How, clock: Clock, setup: PhaseSetup | None = None
) -> list[Run | Exception]:
    """Return the outcomes of runs that train together; an error of the group is the outcome of each run."""
    outcomes = processes.attempt(lambda: train(runs, how, clock, setup))
    return [outcomes] * len(runs) if isinstance(outcomes, Exception) else outcomes


def tried(runs: Sequence[ActiveRun], how: How, most: int) -> tuple[Choice, PhaseSetup | None]:
    """Return `chosen(...)`; one by one where the group cannot be compiled: then each run raises its own error."""
    choice = processes.attempt(lambda: chosen(runs, how, most))
    if isinstance(choice, Exception):
        return Choice(1, f"a step could not be compiled ({type(choice).__name__}: {choice})"), None
    return choice


def chosen(runs: Sequence[ActiveRun], how: How, most: int) -> tuple[Choice, PhaseSetup | None]:
    """Return how many of these runs train at a time, and the set-up of the first group, if it was made.

    As many as `most` and the memory allow train together, if their group is expected to take less time than the runs
    one by one. The expectation counts operations of the compiled programs; nothing is measured.
    """
    count = min(len(runs), most)
    if count == 1:
        return Choice(1, "there is one run" if len(runs) == 1 else "the runs were requested one by one"), None
    recipe = runs[0].recipe
    if recipe.train.compile == "pmap":
        return Choice(1, "pmap"), None
    room, phase = processes.decided(room_bytes), heaviest(runs[0])
    count = min(count, max(1, room // max(1, own_bytes(runs[0], phase))))
    while count > 1:
        setup, needed, load = weighed(runs[:count], phase, how)
        if needed <= room:
            break
        count //= 2
    if count <= 1:
        return Choice(1, f"two runs would need more than {room / 1e9:.1f} GB, the memory that a group may use"), None
    choice = expected(load, count, runs[0].steps, needed)
    return choice, setup if choice.runs > 1 and phase == 0 else None


class Load(NamedTuple):
    """The operations of a step of one run and of a group, None where the compiler does not count them, and whether a
    convolution of the group has a kernel for each run."""

    alone: float | None
    group: float | None
    grouped: bool


def expected(load: Load, count: int, steps: int, needed: int) -> Choice:
    """Choose between a group of `count` runs with this load, and the runs one by one."""
    if load.alone is None or load.group is None:
        return Choice(
            count,
            ("the compiler does not count operations here, so all runs that can share a program train together"),
            {},
            needed,
        )
    cpu = jax.default_backend() == "cpu"
    dispatch, rate = STEP["cpu" if cpu else "other"]
    step_alone = dispatch + load.alone / rate
    step_together = dispatch + load.group / rate * (GROUPED if cpu and load.grouped else 1.0)
    group_seconds, alone_seconds = BEGIN + steps * step_together, count * (BEGIN + steps * step_alone)
    seconds = {"one": step_alone, "pack": step_together, "pack_per_arm": step_together / count}
    why = (
        f"expected for all {steps:,} steps: {group_seconds:.2g} s together, {alone_seconds:.2g} s one by one "
        f"({load.group / 1e6:.3g} million operations per step against {count} x "
        f"{load.alone / 1e6:.3g}{', with a convolution kernel for each run' if load.grouped else ''})"
    )
    return Choice(count if group_seconds < GAIN * alone_seconds else 1, why, seconds, needed)


def weighed(runs: Sequence[ActiveRun], phase: int, how: How) -> tuple[PhaseSetup, int, Load]:
    """Return the set-up of a phase of these runs, unchanged before its first step, the bytes that its compiled step
    needs, and its operations."""
    setup = set_up_phase(runs, phase, how.feature_cache, lambda line: None, mesh=how.mesh, layers=how.layers)
    states = setup.states
    state = setup.placed()
    needed = processes.broadcast(setup.batches.bytes_needed(state))
    batch_of_run, batch = setup.batches.shapes()
    lowered: Any = setup.engine.train.lower(state, batch)  # type: ignore[attr-defined]
    setup.states, setup.batches = states, setup.batches.rewound(setup.step)
    operations_alone, cost = setup.step_flops(0, batch_of_run), lowered.cost_analysis()
    operations_together = float(cost["flops"]) if cost and "flops" in cost else None
    if runs[0].recipe.train.accumulate > 1 and operations_alone is not None:
        # The compiler counts one round of the loop over the pieces of a batch.
        operations_together = operations_alone * len(runs)
    grouped = False
    if jax.default_backend() == "cpu" and "convolution" in (text := lowered.as_text()):
        single = setup.program(setup.parts[0], setup.forms[0], batch_of_run).as_text()
        grouped = most_groups(text) > most_groups(single)
    return setup, needed, Load(operations_alone, operations_together, grouped)


def most_groups(text: str) -> int:
    """Return the largest number of groups of a convolution of a program.

    >>> most_groups("stablehlo.convolution ... {batch_group_count = 1 : i64, feature_group_count = 4 : i64}")
    4
    """
    return max(map(int, CONVOLUTION_GROUPS.findall(text)), default=1)


def heaviest(run: ActiveRun) -> int:
    """Return the phase with most trainable numbers, the first of equals; it decides about memory."""
    counts = [sum(map(size, jax.tree.leaves(state.trainable))) for _, state in form_of(run).phases]
    return counts.index(max(counts))


def own_bytes(run: ActiveRun, phase: int) -> int:
    """Return the bytes of the moving part of a run's state, which a group holds for every run."""
    state = form_of(run).phases[phase][1]
    return sum(4 * size(leaf) for leaf in jax.tree.leaves((state.trainable, state.optimiser, state.average)))


def room_bytes() -> int:
    """Return the bytes that a group may take: a share of the total memory, because the free memory varies with the
    load."""
    memory = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in memory:
        return int(DEVICE_ROOM * memory["bytes_limit"])
    return int(ROOM * memory_bytes())


def memory_bytes() -> int:
    """Return the bytes of memory of this machine, or of the container that this process may use."""
    # Windows has no such call; a machine there is taken to have 8 GiB.
    size = getattr(os, "sysconf", {"SC_PHYS_PAGES": 2**20, "SC_PAGE_SIZE": 2**13}.__getitem__)
    total = int(size("SC_PHYS_PAGES") * size("SC_PAGE_SIZE"))
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total
