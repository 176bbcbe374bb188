"""One run, read from top to bottom."""

import math
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from tlx import config, folder, partition, sharding
from tlx.assets import cache_dir
from tlx.checkpoint import Checkpoints, Saved, guarded
from tlx.data import Splits, evaluation_batches
from tlx.evaluate import Outcome, evaluate
from tlx.prepare import Prepared, check_shares, open_data, prepare, training_batches
from tlx.recipe import Recipe
from tlx.records import Progress, Records
from tlx.results import line, told_at_end, told_at_start, write_all, write_page
from tlx.step import Parts, TrainState, compile_step, initial_state, memories, next_state
from tlx.trees import flatten, nest
from tlx.types import Setting, Variables

# Asked after each validation but the last with the step and what was measured; a reason stops the run there.
Judge = Callable[[int, Mapping[str, float]], str | None]


class Run(NamedTuple):
    """What came out: the `folder` with every record, the `recipe`, and `result` as in `result.json`."""

    folder: Path
    recipe: Recipe
    result: dict[str, Any]

    @property
    def metrics(self) -> dict[str, float]:
        return self.result["metrics"]


class Diverged(ArithmeticError):
    """The loss is no longer a finite number."""


class Clock:
    """Seconds by what they were spent on."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("setup", "compile", "train", "eval"), 0.0)

    @contextmanager
    def __call__(self, name: str) -> Any:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start


def run(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    base: Recipe | None = None,
    quiet: bool = False,
    test: bool = True,
    judge: Judge | None = None,
) -> Run:
    """Trains as `recipe` says, into the folder `out` (by default `runs/` and the fingerprint), and measures the test
    split; with `test=False` that split is sealed, and nothing of it is in the folder.

    `resume` goes on from the newest checkpoint, to the same bits as if it had never stopped; `overwrite` starts again;
    `base` is the recipe before overrides, for the record. `judge` may stop the run, which then ends as if it had been
    that short, and says so in its result (`stopped`). Raises ValueError, TypeError or FileNotFoundError for a
    recipe that does not fit together, FileExistsError for a folder in use, `Diverged` for a loss that is not finite,
    `checkpoint.DiskFull` for a full disk.
    """
    clock = Clock()
    with clock("setup"):
        config.check(recipe)
        path = Path(out) if out is not None else Path("runs") / config.fingerprint(recipe)
        mesh = sharding.make_mesh()
        sharding.check_batch(recipe.train.batch, mesh, "train.batch")
        sharding.check_batch(recipe.train.eval_batch, mesh, "train.eval_batch")
        check_pieces(recipe, mesh)
        if folder.finished(path, recipe, resume=resume, overwrite=overwrite):
            return whole(Run(path, recipe, folder.read(path)), test, judge)
        remember_compilations()
        splits = open_data(recipe, test)
        ready = prepare(recipe, splits)
        steps = total_steps(recipe, len(splits.train))
        spans = phase_spans(ready, steps)
        every = recipe.train.eval_every or math.ceil(len(splits.train) / recipe.train.batch)
        batches = training_batches(ready, splits)
        command = shlex.join(sys.argv) if base is not None else ""
        folder.claim(path, recipe, overwrite=overwrite, base=base, command=command)
        memory = memories(recipe.objective, setting(ready, splits))
        checkpoints = Checkpoints(path / "checkpoints")
        begin = checkpoints.latest() or 0
        records = Records(path, begin)
        best = Best()

    key = jax.random.fold_in(jax.random.key(recipe.seed), 2)
    before: tuple[Parts, TrainState] | None = None
    compiled, state, shapes, timed = None, None, set(), 0
    outcomes: dict[str, Outcome] = {}
    stopped: str | None = None
    with (
        guarded(path),
        closing(checkpoints),
        closing(records),
        Progress(steps, begin, recipe.train.batch, quiet) as progress,
    ):
        if not quiet:
            progress.say(told_at_start(ready, splits, steps, begin, path))
        for phase, (first, last) in enumerate(spans):
            # A checkpoint at the end of a phase is restored into that phase, which then has no step left.
            if begin > last or stopped:
                continue
            with clock("setup"):
                parts = ready.parts(phase)
                compiled = compile_step(parts, mesh, recipe.train.compile)
                stretch = (first, last) if ready.phases[phase].restart else None
                if before is None:
                    fresh = initial_state(parts, ready.variables, steps, key, memory, stretch)
                    fresh = fresh._replace(step=jnp.int32(first))
                else:
                    fresh = next_state(*before, parts, steps, stretch)
                    before = None
                if begin > first:
                    fresh, best = restore(checkpoints, fresh, batches, ready.moving)
                state = compiled.place(fresh)
                del fresh
            pending = None
            for step in range(max(begin, first), last):
                batch = next(batches)
                given = {"labelled": compiled.put(batch)}
                shape = tuple(sorted((name, array.shape) for name, array in batch.items()))
                known = shape in shapes
                with clock("train" if known else "compile"):
                    state, metrics = compiled.train(state, given)
                    shapes.add(shape)
                    timed += known
                    settle(records, progress, ready, phase, pending)
                    pending = (step + 1, metrics, batch["index"])
                if (step + 1) % every and step + 1 != steps:
                    continue
                with clock("train"):
                    settle(records, progress, ready, phase, pending)
                    pending = None
                with clock("eval"):
                    shown = compiled.answer(state)
                    outcomes["validation"] = evaluate(compiled, shown, splits.validation, ready.processor, recipe)
                    check_finite(outcomes["validation"], step + 1, float(metrics["rate"]))
                    measured = outcomes["validation"].metrics(ready.task)
                    records.write(step + 1, {f"validation/{name}": value for name, value in measured.items()})
                    records.flush()
                    progress.say(line(step + 1, steps, measured))
                    if recipe.train.select == "best-validation":
                        found = moved_part(compiled.fetch(shown).variables, ready.moving)
                        best = best.better(step + 1, measured[ready.task.primary], ready.task, found)
                    if step + 1 < steps:
                        keep(checkpoints, compiled.fetch(state), best, batches)
                        stopped = judge(step + 1, measured) if judge else None
                    if stopped:
                        steps = step + 1
                        progress.say(f"stopped at step {steps}: {stopped}")
                        break
            with clock("train"):
                settle(records, progress, ready, phase, pending)
                before, shapes = (parts, compiled.fetch(state)), set()
        if state is None or compiled is None:
            raise ValueError(f"{path} has a checkpoint at step {begin}, beyond this recipe's {steps} steps")
        with clock("eval"):
            state = compiled.answer(state)
            final, selected = compiled.fetch(state), steps
            if best.variables is not None and best.step != steps:
                selected = best.step
                params = nest(flatten(final.variables.params) | flatten(best.variables.params))
                trainable, frozen = partition.split(params, parts.partition)
                final = final._replace(trainable=trainable, frozen=frozen, stats=best.variables.stats)
                state = compiled.place(final)
                outcomes["validation"] = evaluate(compiled, state, splits.validation, ready.processor, recipe)
            if test:
                outcomes["test"] = evaluate(compiled, state, splits.test, ready.processor, recipe)
                measured = outcomes["test"].metrics(ready.task)
                records.write(steps, {f"test/{name}": value for name, value in measured.items()})
        finish = {"clock": clock, "steps": steps, "timed": timed, "selected": selected, "stopped": stopped}
        records.flush()
        checkpoints.wait()
        result = write_all(path, ready, final, outcomes, splits, finish)
        page = write_page(path) if test else None
        progress.say(told_at_end(result, ready, path, page))
    return Run(path, recipe, result)


def whole(found: Run, test: bool, judge: Judge | None) -> Run:
    """A finished run as it was found; FileExistsError where more was asked for than is in it."""
    lacking = "without its test split" if test and f"test/{found.recipe.task.primary}" not in found.metrics else None
    if judge is None and "stopped" in found.result:
        lacking = f"stopped at step {found.result['stopped']['step']}"
    if lacking:
        raise FileExistsError(f"{found.folder} holds this recipe's run {lacking}; --overwrite it for the whole")
    return found


def total_steps(recipe: Recipe, examples: int) -> int:
    """How many updates: as asked, or enough for `epochs` passes over the examples."""
    return recipe.train.steps or max(1, math.ceil(recipe.train.epochs * examples / recipe.train.batch))


def setting(ready: Prepared, splits: Splits) -> Setting:
    """What the terms may look at before the first step."""
    recipe = ready.recipe

    def batches() -> Iterator[Mapping[str, Any]]:
        return evaluation_batches(
            splits.train, ready.processor, batch=recipe.train.eval_batch, buckets=recipe.data.lengths
        )

    return Setting(ready.model, ready.variables, ready.task, batches, ready.fresh, ready.moving)


def phase_spans(ready: Prepared, steps: int) -> list[tuple[int, int]]:
    """The steps `[first, last)` of each phase; ValueError where the shares do not sum to one."""
    shares = [phase.share for phase in ready.phases]
    check_shares(ready.phases)
    ends = [round(steps * sum(shares[: n + 1])) for n in range(len(shares))]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def check_pieces(recipe: Recipe, mesh: Mesh) -> None:
    """ValueError where the micro-batches of a batch do not divide evenly over the devices."""
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


class Best(NamedTuple):
    """The best validation measurement so far, and what moves of the variables that gave it (see `moved_part`)."""

    step: int = 0
    value: float = math.nan
    variables: Variables | None = None

    def better(self, step: int, value: float, task: Any, found: Variables) -> "Best":
        """This, or the new one where it is strictly better; the first of equals stays."""
        wins = value > self.value if task.higher_is_better else value < self.value
        if self.variables is not None and not wins:
            return self
        return Best(step, value, jax.tree.map(jnp.copy, found))


def moved_part(variables: Variables, moving: frozenset[str]) -> Variables:
    """The variables without the parameters that no phase moves, and which therefore need not be kept twice."""
    params = {path: leaf for path, leaf in flatten(variables.params).items() if path in moving}
    return Variables(nest(params), variables.stats)


def keep(checkpoints: Checkpoints, state: TrainState, best: Best, batches: Any) -> None:
    """Starts to write a checkpoint of everything that the rest of the run depends on."""
    held = state._replace(key=jax.random.key_data(state.key))._asdict()
    notes = {"best": best.variables is not None, "best_step": best.step, "best_value": best.value}
    kept = best.variables._asdict() if best.variables is not None else {}
    checkpoints.save(int(state.step), Saved(held, kept, batches.get_state(), notes))


def restore(
    checkpoints: Checkpoints, fresh: TrainState, batches: Any, moving: frozenset[str]
) -> tuple[TrainState, Best]:
    """The newest checkpoint in the place of `fresh`; `batches` goes on where it stood."""
    target = fresh._replace(key=jax.random.key_data(fresh.key))._asdict()
    saved = checkpoints.restore(target, moved_part(fresh.variables, moving)._asdict())
    batches.set_state(saved.cursor)
    state = TrainState(**{**saved.state, "key": jax.random.wrap_key_data(saved.state["key"])})
    notes = saved.notes
    return state, Best(notes["best_step"], notes["best_value"], Variables(**saved.best) if notes["best"] else None)


def settle(records: Records, progress: Progress, ready: Prepared, phase: int, pending: Any) -> None:
    """Reads and writes down the metrics of a step that the device has finished, or is about to.

    Raises Diverged, with the step, the batch's examples and the parameter of the largest gradient, where the loss or
    its gradient is not finite.
    """
    if pending is None:
        return
    step, metrics, index = pending
    told: Mapping[str, Any] = jax.device_get(metrics)
    loss, norm = float(told["loss"]), float(told["gradient_norm"])
    if not (math.isfinite(loss) and math.isfinite(norm)):
        norms = told["leaf_norms"]
        paths = [path for path in flatten(ready.variables.params) if ready.partitions[phase][path] is not None]
        largest = int(np.argmax(np.where(np.isnan(norms), np.inf, norms)))
        records.flush()
        raise Diverged(
            f"the loss is {loss} at step {step}, its gradient's norm {norm}; the batch held examples {index.tolist()}; "
            f"the largest gradient is that of {paths[largest]!r} (norm {norms[largest]:g})"
        )
    records.write(step, {f"train/{name}": float(value) for name, value in told.items() if name != "leaf_norms"})
    progress.step(step, loss, float(told["rate"]))


def check_finite(outcome: Outcome, step: int, rate: float) -> None:
    """Raises Diverged where the last step has spoilt the parameters, before what they give is measured or kept."""
    if not np.isfinite(outcome.logits).all():
        raise Diverged(
            f"the model's outputs are not finite after step {step}, whose loss still was; its rate was {rate:g}: "
            "lower optim.lr, or bound the gradient with optim.clip"
        )
