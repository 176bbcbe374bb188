"""Training, read from top to bottom: one arm, or several that share a program."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax

from tlx import config, partition, sharding
from tlx.assets import cache_dir
from tlx.files.durable import common_folder, guarded
from tlx.recipe import Recipe
from tlx.records import run_directory as folder
from tlx.records.log import Progress
from tlx.training import vectorize
from tlx.training.active_run import Arm, Clock, Diverged, moved_part, opened
from tlx.training.batches import Taken, one_of
from tlx.training.energy import Metered
from tlx.training.evaluate import evaluate, look
from tlx.training.group import Group
from tlx.training.interrupt import noted
from tlx.training.phases import Before, Begun, begin_phase
from tlx.training.results import PAGE, line, told_at_end, told_at_start, write_all, write_page
from tlx.training.step import Parts, TrainState
from tlx.training.vectorize import Engine
from tlx.trees import flatten, nest

__all__ = ["Diverged", "How", "Run", "run", "train"]


class Run(NamedTuple):
    """What came out: the `folder` with every record, the `recipe`, and `result` as in `result.json`."""

    folder: Path
    recipe: Recipe
    result: dict[str, Any]

    @property
    def metrics(self) -> dict[str, float]:
        return self.result["metrics"]


@dataclass(frozen=True, kw_only=True)
class How:
    """What is not the experiment: how a run is carried out and what it leaves, none of which changes a number of it.

    `quiet` prints nothing. `leave` "all" is the model, the page and every record; "learned" is what a study keeps of a
    cell: `result.json`, predictions, at most 200 training records, and the parameters that moved, if they are few. With
    `prefix`, what a frozen prefix gives is computed once where that is exact. Without `test` the test split is sealed:
    nothing of it is read, and there is no page. `judge(step, metrics)` is asked after each validation but the last and
    may end the run by answering False; its result then has fewer `steps` than `asked_steps`. A checkpoint is written
    after a validation if the last is at least `checkpoint_seconds` old.
    """

    quiet: bool = False
    leave: Literal["all", "learned"] = "all"
    prefix: bool = True
    test: bool = True
    judge: Callable[[int, Mapping[str, float]], bool] | None = None
    checkpoint_seconds: float = 0.0

    @property
    def records(self) -> int | None:
        """How many training steps are written down at most, None for all."""
        return 200 if self.leave == "learned" else None


def run(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    base: Recipe | None = None,
    quiet: bool = False,
    how: How | None = None,
) -> Run:
    """Trains as `recipe` says, into the folder `out` (by default `runs/` and the fingerprint), and measures the test
    split.

    `resume` goes on from the newest checkpoint, to the same bits as if it had never stopped; `overwrite` starts again;
    `base` is the recipe before overrides, for the record; `how` is all that is not the experiment. Raises ValueError,
    TypeError or FileNotFoundError for a recipe that does not fit together, FileExistsError for a folder in use
    (`tlx.files.locks.InUse` while another process writes there), `Diverged` for a loss that is not finite,
    `durable.StorageError` for a storage that cannot be written, in particular `durable.DiskFull`, and
    `checkpoint.DamagedCheckpoint` where no checkpoint is intact.
    """
    how = how or How(quiet=quiet)
    clock = Clock()
    path = Path(out) if out is not None else Path("runs") / config.fingerprint(recipe)
    with folder.writing(path):
        with clock("setup"):
            if found := finished(recipe, path, resume=resume, overwrite=overwrite):
                return with_page(whole(found, how), how)
            arm = opened(recipe, path, overwrite=overwrite, base=base, records=how.records, test=how.test)
        result = train([arm], how, clock)[0]
    if isinstance(result, Exception):
        raise result
    return result


def finished(recipe: Recipe, path: Path, *, resume: bool, overwrite: bool) -> Run | None:
    """The recipe's run, where it is finished and to be kept, after the checks that need no data."""
    config.check(recipe)
    check_devices(recipe)
    if folder.finished(path, recipe, resume=resume, overwrite=overwrite):
        return Run(path, recipe, folder.read(path))
    remember_compilations()
    return None


def whole(found: Run, how: How) -> Run:
    """A finished run as it was found; FileExistsError where more is asked for than is in it."""
    result, lacking = found.result, ""
    if how.test and result.get("test_split") == "not looked at":
        lacking = "without its test split"
    elif how.judge is None and result["steps"] < result.get("asked_steps", 0):
        lacking = f"stopped at step {result['steps']} of {result['asked_steps']}"
    if lacking:
        raise FileExistsError(f"{found.folder} holds this recipe's run {lacking}; --overwrite it for the whole")
    return found


def with_page(found: Run, how: How) -> Run:
    """Draw the page of a finished run where it is missing: the disk may have become full just before it."""
    if how.leave == "all" and how.test and not (found.folder / PAGE).is_file():
        with guarded(found.folder):
            page = write_page(found.folder)
        if page is not None and not how.quiet:
            print(f"drew the missing page {page}", file=sys.stderr)
    return found


def train(arms: Sequence[Arm], how: How, clock: Clock, begun: Begun | None = None) -> list[Run | Exception]:
    """Takes the arms from where they stand to their end: a run each, or what ended it. `begun` is the beginning of
    their phase, where it was made already.

    Several arms share a program, so they have the same number of steps and phases (see `tlx.training.grouping`), and
    one checkpoint (see `tlx.training.group`). An arm that diverges stops no other; a full disk ends all, and so does
    Ctrl-C, after the step in which it came, with a checkpoint. An arm that is `finished` trains for the others: its
    folder stays as it is.
    """
    first = arms[0]
    recipe, steps = first.recipe, first.steps
    before: Before | None = None
    state: Any = None
    timed, ended, saved, judged = 0, steps, time.monotonic(), True
    with ExitStack() as stack:
        stop = stack.enter_context(noted())
        stack.enter_context(guarded(common_folder([arm.path for arm in arms])))
        for arm in arms:
            stack.enter_context(closing(arm))
        # Reads the checkpoints, which may be damaged: the arms are closed all the same.
        group = stack.enter_context(closing(Group(arms)))
        begin = first.begin
        meter = stack.enter_context(Metered())
        progress = stack.enter_context(Progress(steps, begin, recipe.train.batch * len(arms), how.quiet))
        if not how.quiet:
            progress.say(told_at_start(first.ready, first.splits, steps, begin, first.path))
        for phase, (start, last) in enumerate(first.spans):
            # A checkpoint at the end of a phase is restored into that phase, which then has no step left.
            if begin > last:
                continue
            with clock("setup"):
                if begun is None or (begun.phase, begun.step) != (phase, max(begin, start)):
                    begun = begin_phase(arms, phase, how.prefix, progress.say, before, group.restore)
                now, state, before, begun = begun, begun.placed(), None, None
                parts, readers, engine, learning, given = now.parts, now.readers, now.engine, now.learning, now.feed
            step, pending = max(begin, start), None
            while step < last:
                every = first.eval_every
                end = min(last, step - step % every + every)
                moment = time.perf_counter()
                taken = given.take(state, step, end)
                state = taken.state
                settle(arms, learning, pending, progress)
                clock.seconds["train" if taken.known else "compile"] += time.perf_counter() - moment
                timed += taken.steps * taken.known
                pending, step = (step, taken), step + taken.steps
                looked, asked = step % every == 0 or step == steps, stop.asked
                if looked or asked:
                    with clock("train"):
                        settle(arms, learning, pending, progress)
                        pending = None
                if looked:
                    with clock("eval"):
                        shown = engine.answer(state)
                        judged = validate(arms, engine, shown, readers, step, taken, progress, how)
                        if recipe.train.select != "last":
                            note_best(arms, engine, shown, step)
                    if not judged or all(arm.failed for arm in arms):
                        ended = step
                        break
                due = looked and time.monotonic() - saved >= how.checkpoint_seconds
                if step < steps and (due or asked):
                    saved = time.monotonic()
                    with clock("compile"):
                        note_flops(arms, now.flops())
                    group.keep(engine, state)
                    if asked:
                        raise KeyboardInterrupt
            with clock("train"):
                settle(arms, learning, pending, progress)
            with clock("compile"):
                note_flops(arms, now.flops())
            if ended < steps:
                break
            if last < steps:
                before = (parts, [engine.fetch(state, n) for n in range(len(arms))])
        if state is None:
            raise ValueError(f"{first.path} has a checkpoint at step {begin}, beyond this recipe's {steps} steps")
        with clock("eval"):
            shown = engine.answer(state)
            host = vectorize.on_host(shown)
            states = [engine.fetch(host, n) for n in range(len(arms))]
            chosen = [best_state(*own, ended) for own in zip(arms, states, parts, strict=True)]
            if any(selected != ended for _, selected in chosen):
                shown = engine.place([own for own, _ in chosen])
                again = evaluate(engine, shown, first.splits.validation, one_of(readers["validation"]), recipe)
                for arm, outcome in zip(arms, again, strict=True):
                    arm.outcomes["validation"] = outcome
            for name, examples in first.splits.measured.items() if how.test else ():
                tested = evaluate(engine, shown, examples, one_of(readers[name]), recipe)
                for arm, outcome in zip(arms, tested, strict=True):
                    arm.outcomes[name] = outcome
        # Until the last result is written the checkpoint may be needed.
        group.checkpoints.wait()
        used = meter.stop().shared(len(arms))
        results: list[Run | Exception] = []
        for n, (arm, (own, selected)) in enumerate(zip(arms, chosen, strict=True)):
            if arm.finished:
                results.append(Run(arm.path, arm.recipe, folder.read(arm.path)))
                continue
            if arm.failed is not None:
                results.append(arm.failed)
                continue
            for split in first.splits.measured if how.test else ():
                measured = arm.outcomes[split].metrics(arm.ready.task)
                arm.records.write(ended, {f"{split}/{name}": value for name, value in measured.items()})
            arm.records.flush()
            told = {"clock": clock, "steps": ended, "timed": timed, "selected": selected}
            told["pack"] = {"arms": len(arms), "place": n} | ({"cells": group.cells} if len(arms) > 1 else {})
            told["energy"] = used._asdict()
            result = write_all(arm, own, told, how.leave)
            if how.leave == "all":
                page = write_page(arm.path) if how.test else None
                progress.say(told_at_end(result, arm.ready, arm.path, page, arm.outcomes))
            results.append(Run(arm.path, arm.recipe, result))
    return results


def settle(arms: Sequence[Arm], learning: Sequence[str], pending: tuple[int, Taken] | None, progress: Progress) -> None:
    """Reads and writes down the metrics of steps that the device has finished, or is about to. Where there are several
    arms, one that diverges ends by itself."""
    if pending is None:
        return
    step, taken = pending
    told = taken.told()
    for n, arm in enumerate(arms):
        if arm.failed is None:
            with ended_alone(arm, arms):
                own = {name: values[:, n] for name, values in told.items()}
                arm.settle(step, learning, own, partial(taken.examples, n))
    for k in range(taken.steps):
        progress.step(step + k + 1, float(told["loss"][k].mean()), float(told["rate"][k, 0]))


def note_flops(arms: Sequence[Arm], flops: Sequence[float] | None) -> None:
    """Adds to what each arm's steps took, where that is known."""
    for n, arm in enumerate(arms):
        arm.flops = None if flops is None or arm.flops is None else arm.flops + flops[n]


@contextmanager
def ended_alone(arm: Arm, arms: Sequence[Arm]) -> Iterator[None]:
    """Where there are several arms, one that diverges is marked, and the others go on."""
    try:
        yield
    except Diverged as error:
        if len(arms) == 1:
            raise
        arm.failed = error


def validate(
    arms: Sequence[Arm],
    engine: Engine,
    state: Any,
    readers: Mapping[str, Sequence[Any]],
    step: int,
    taken: Taken,
    progress: Progress,
    how: How,
) -> bool:
    """Measures the validation split, and what criteria look at, under every arm; whether the run goes on, as
    `how.judge` says of a single one."""
    first, rates = arms[0], taken.told()["rate"][-1]
    goes_on, reading = True, {name: one_of(own) for name, own in readers.items()}
    outcomes = evaluate(engine, state, first.splits.validation, reading["validation"], first.recipe)
    seen = look(engine, state, first.splits.aside, reading, first.recipe)
    for n, (outcome, own) in enumerate(zip(outcomes, seen, strict=True)):
        arm = arms[n]
        if arm.failed is not None:
            continue
        with ended_alone(arm, arms):
            measured = arm.measured(step, outcome, own, float(rates[n]))
            if n == 0:
                progress.say(line(step, first.steps, measured, arm.criteria))
            if how.judge is not None and step < first.steps:
                goes_on = how.judge(step, measured)
    return goes_on


def note_best(arms: Sequence[Arm], engine: Engine, state: Any, step: int) -> None:
    """Keeps what moves of every arm whose measurement is the best so far by the recipe's rule."""
    for n, arm in enumerate(arms):
        if arm.failed is None:
            found = moved_part(engine.fetch(state, n).variables, arm.ready.moving)
            arm.best = arm.best.better(step, *arm.judged(), found)


def best_state(arm: Arm, state: TrainState, parts: Parts, ended: int) -> tuple[TrainState, int]:
    """The state whose numbers are reported, and the step that it is of."""
    best = arm.best
    if best.variables is None or best.step == ended:
        return state, ended
    params = nest(flatten(state.variables.params) | flatten(best.variables.params))
    trainable, frozen = partition.split(params, parts.partition)
    return state._replace(trainable=trainable, frozen=frozen, stats=best.variables.stats), best.step


def check_devices(recipe: Recipe) -> None:
    """ValueError where the devices cannot share a batch, or its micro-batches, evenly."""
    mesh = sharding.make_mesh()
    sharding.check_batch(recipe.train.batch, mesh, "train.batch")
    sharding.check_batch(recipe.train.eval_batch, mesh, "train.eval_batch")
    count, pieces = mesh.devices.size, recipe.train.accumulate
    if recipe.train.batch % (count * pieces):
        raise ValueError(
            f"train.accumulate is {pieces}: micro-batches of {recipe.train.batch // pieces}, which {count} devices "
            f"cannot share evenly; take a batch that is a multiple of {count * pieces}, or fewer pieces"
        )


def remember_compilations() -> None:
    """Keeps compiled programs in the cache folder, unless the user has said where; a second start is then fast."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
