"""One run while it trains, alone or in a group that shares a program: its records, checkpoints and measurements."""

import itertools
import json
import math
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from tlx import config, processes
from tlx.data import Examples, Splits, evaluation_batches, inputs_of, oddities
from tlx.files.durable import guarded
from tlx.functional import selection
from tlx.functional.selection import Outputs
from tlx.objectives import several
from tlx.recipe import Recipe
from tlx.records import run_directory
from tlx.records.log import Callback, NoRecords, Records
from tlx.records.members import primary_by_member
from tlx.records.run_directory import Predictions
from tlx.records.trackers import TensorBoard, TrackedRun, Tracker, started
from tlx.tasks.classes import format_names
from tlx.training.checkpoint import Checkpoints, Saved
from tlx.training.patience import Patience
from tlx.training.prepare import Prepared, open_data, prepare
from tlx.training.state import TrainState, memories
from tlx.training.tuning_checks import check_shares
from tlx.training.writing import followed
from tlx.trees import Tree, flatten, nest
from tlx.types import ArrayMap, Setting, Variables

# The folder of checkpoints within that of a run.
CHECKPOINTS = "checkpoints"


class Diverged(ArithmeticError):
    """The loss is no longer a finite number."""


class Best(NamedTuple):
    """The best measurement so far by the recipe's rule, and the trainable part of the variables at that step (see
    `moved_part`)."""

    step: int = 0
    value: float = math.nan
    variables: Variables | None = None

    def better(self, step: int, value: float, higher_is_better: bool, candidate: Variables) -> "Best":
        """Return the better of this measurement and the new one; ties keep the first."""
        wins = math.isnan(self.value) or (value > self.value if higher_is_better else value < self.value)
        if self.variables is not None and not wins:
            return self
        return Best(step, value, jax.tree.map(jnp.copy, candidate))


class ActiveRun:
    """A prepared recipe in its folder.

    `begin` is the step from which it trains, set by its group (see `tlx.training.group_checkpoints`); a `finished` run
    trains for the other runs of its group and writes nothing; `failed` is the error that ended it early and `ended` the
    step at which it lost patience, after which it is not measured; `flops` is the number of operations of its steps,
    None if unknown; `prefixes` records by phase which features were cached, and `cuts` the stage at which each phase
    begins, once it was computed.
    """

    def __init__(
        self,
        recipe: Recipe,
        path: Path,
        ready: Prepared,
        splits: Splits,
        memory: Tree,
        records: int | None = None,
        finished: bool = False,
    ):
        """Take over a folder that the run already holds. `records` is the largest number of training steps that are
        recorded, without TensorBoard events; None records every step."""
        self.recipe, self.path, self.ready, self.splits, self.memory = recipe, path, ready, splits, memory
        self.steps = total_steps(recipe, len(splits.train), splits.first)
        self.spans = phase_spans(ready, self.steps)
        self.eval_every = recipe.train.eval_every or math.ceil(len(splits.train) / recipe.batch_of(splits.first))
        self.checkpoints = Checkpoints(path / CHECKPOINTS)
        self.begin, self.finished = 0, finished
        self.records: Records | NoRecords = NoRecords()
        self.every = 1 if records is None else max(1, math.ceil(self.steps / records))
        self.events = records is None
        self.best = Best()
        self.outcomes: dict[str, Predictions] = {}
        # The metrics and the criteria of the last validation.
        self.validated: dict[str, float] = {}
        self.criteria: dict[str, float] = {}
        self.failed: Exception | None = None
        # The step at which the run ended early, and the course of its measurements until then.
        self.ended: int | None = None
        self.patience = Patience()
        self.flops: float | None = 0.0
        self.prefixes: dict[int, dict[str, Any]] = {}
        self.cuts: dict[int, Any] = {}
        self.fingerprint = config.fingerprint(recipe)
        # The lock of the folder, until the run is closed.
        self.lock = ExitStack()

    @property
    def active(self) -> bool:
        """Return whether the run still trains: it neither failed nor ended early."""
        return self.failed is None and self.ended is None

    def inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shapes and types of a batch of the model's inputs."""
        recipe = self.recipe
        batches = evaluation_batches(
            self.splits.validation.view(np.arange(1)), self.ready.processor, batch=2, buckets=recipe.data.lengths
        )
        arrays = inputs_of(next(iter(batches)))
        return {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in arrays.items()}

    def open_records(self, trackers: Sequence[Tracker] = (), callback: Callback | None = None) -> None:
        """Open the records from the step `begin` on, and start the trackers. Raises as `trackers.started`."""
        if self.finished or not processes.leads():
            return
        with ExitStack() as opened:
            writers = [TensorBoard().start(TrackedRun(self.path, {}, self.begin))] if self.events else []
            for writer in writers:
                opened.callback(writer.finish, None)
            if trackers:
                document = run_directory.read(self.path, run_directory.RECIPE)
                writers += started(trackers, self.path, document, self.begin)
            once = tuple(f"{name}/" for name in self.splits.measured)
            self.records = Records(self.path, self.begin, writers, callback, once)
            opened.pop_all()

    def close(self) -> None:
        """Close the records and the checkpoints, and release the folder's lock."""
        with self.lock:
            try:
                self.records.close()
            finally:
                self.checkpoints.close()

    def saved(self, state: TrainState) -> Saved:
        """Return the content of a checkpoint: everything that moves. The recipe determines the rest: the frozen
        parameters, what the terms remember, and the order of the data, which is a function of the step."""
        best = self.best
        notes = {
            "best": best.variables is not None,
            "best_step": best.step,
            "best_value": best.value,
            "flops": self.flops,
            "classes": list(self.ready.task.names),
            "fingerprint": self.fingerprint,
            "failed": None if self.failed is None else str(self.failed),
            "ended": self.ended,
            "patience": list(self.patience),
        }
        return Saved(self.checkpoint_part(state), best.variables._asdict() if best.variables is not None else {}, notes)

    def checkpoint_part(self, state: TrainState) -> dict[str, Any]:
        """Return the part of a state that a checkpoint holds."""
        frozen = {path: leaf for path, leaf in flatten(state.frozen).items() if path in self.ready.trainable}
        key = jax.random.key_data(state.key)
        return state._replace(key=key, frozen=nest(frozen), memory={})._asdict()

    def restored(self, saved: Saved, fresh: TrainState) -> TrainState:
        """Return the state `fresh` with the moving parts taken from a checkpoint; also restore the best state until
        then, and the error of a run that had diverged."""
        notes = saved.notes
        if notes.get("failed"):
            self.failed = Diverged(notes["failed"])
        # Older checkpoints do not record the classes.
        if (classes := notes.get("classes", names := list(self.ready.task.names))) != names:
            raise ValueError(
                f"{self.path} was trained on the classes {format_names(classes)}, but the data now have the classes "
                f"{format_names(names)}, so the head of its checkpoint would predict other classes. Restore the data "
                "set, or start again with tlx run CONFIG --overwrite"
            )
        self.flops, self.ended = notes.get("flops"), notes.get("ended")
        self.patience = Patience(*notes.get("patience", ()))
        best = Variables(**saved.best) if notes["best"] else None
        self.best = Best(notes["best_step"], notes["best_value"], best)
        state = TrainState(**{**saved.state, "key": jax.random.wrap_key_data(saved.state["key"])})
        frozen = nest(flatten(fresh.frozen) | flatten(state.frozen))
        # The schedules of a run that was lengthened are those of its new length.
        numbers = state.numbers | {name: fresh.numbers[name] for name in ("steps", "clock")}
        return state._replace(frozen=frozen, memory=fresh.memory, numbers=numbers)

    def settle(
        self,
        step: int,
        learning: Sequence[str],
        metrics: Mapping[str, np.ndarray],
        examples: Callable[[int], np.ndarray],
    ) -> None:
        """Record the metrics [K, ...] of the K steps after `step`.

        Args:
            step: The step before them.
            learning: The paths of the trainable parameters, in the order of `leaf_norms`.
            metrics: The metrics by name, arrays [K, ...].
            examples: `examples(k)` returns the examples of the k-th batch.

        Raises:
            Diverged: The loss or its gradient is not finite; the message names the step, the batch's examples and the
                parameter with the largest gradient.
        """
        losses, norms = metrics["loss"], metrics["gradient_norm"]
        diverged = np.flatnonzero(~(np.isfinite(losses) & np.isfinite(norms)))
        for k in range(int(diverged[0]) if len(diverged) else len(losses)):
            number = step + k + 1
            if number % self.every == 0 or number == self.steps:
                record = {f"train/{name}": float(values[k]) for name, values in metrics.items() if name != "leaf_norms"}
                self.records.write(number, record)
        if not len(diverged):
            return
        k = int(diverged[0])
        leaves = metrics["leaf_norms"][k]
        largest = int(np.argmax(np.where(np.isnan(leaves), np.inf, leaves)))
        self.records.flush()
        raise Diverged(
            f"the loss is {losses[k]} at step {step + k + 1}, and the norm of its gradient is {norms[k]}; the batch "
            f"contains the examples {examples(k).tolist()}; the parameter with the largest gradient is "
            f"{learning[largest]!r} (norm {leaves[largest]:g})"
        )

    def measured(self, step: int, outcome: Predictions, outputs: Outputs, rate: float) -> dict[str, float]:
        """Record and keep the followed metrics of the validation split, and the recipe's criteria.

        Raises:
            Diverged: The last step has made the parameters not finite; nothing is recorded or kept.
        """
        if not (outcome.finite and outputs.finite):
            raise Diverged(
                f"the model's outputs are not finite after step {step}, although the loss of that step is finite; the "
                f"learning rate is {rate:g}: lower optim.lr, or bound the gradient with optim.clip"
            )
        self.outcomes["validation"] = outcome
        task = self.ready.task
        names = followed(task, selection.metric_of(self.recipe.train.select), outcome.scores)
        metrics = self.validated = outcome.metrics(task, names)
        self.criteria = selection.measure(self.recipe.train.measured, outputs)
        shown = metrics | primary_by_member(metrics, outcome, self.ready.task, self.splits.validation.members)
        self.records.write(step, {f"validation/{name}": value for name, value in shown.items()})
        self.records.write(step, {f"{selection.PREFIX}{name}": value for name, value in self.criteria.items()})
        self.records.flush()
        return metrics

    def calibrate(self) -> None:
        """Fit what the task learns from the chosen checkpoint's scores of the validation split, and add its scores to
        those of every split."""
        task = self.ready.task.calibrated(self.outcomes["validation"].scores)
        self.ready = self.ready._replace(task=task)
        for split, outcome in self.outcomes.items():
            scores = outcome.scores | task.calibrated_scores(outcome.scores)
            self.outcomes[split] = Predictions(scores, outcome.indices, outcome.finite)

    def judged(self) -> tuple[float, bool]:
        """Return the value of the recipe's selection rule at the last measurement, and whether higher is better."""
        rule, task = self.recipe.train.select, self.ready.task
        if rule in self.criteria:
            return self.criteria[rule], selection.CRITERIA[rule].higher_is_better
        name = selection.metric_of(rule) or task.primary
        return self.validated[name], task.metric(name).higher_is_better


def opened(
    recipe: Recipe,
    path: Path,
    *,
    overwrite: bool = False,
    base: Recipe | None = None,
    like: ActiveRun | None = None,
    records: int | None = None,
    test: bool = True,
    finished: bool = False,
    file: Path | None = None,
    with_commit: bool = False,
    mesh: Mesh | None = None,
) -> ActiveRun:
    """Open the run of a recipe in its folder and claim the folder (see `run_directory.claim`).

    The run holds the folder's lock until it is closed. `like` is another run, which may be closed, that may have the
    same weights and data; `records` and `finished` are as in `ActiveRun`, `file` and `with_commit` as in
    `run_directory.claim`; without `test` the test split is sealed; `mesh` is as in `prepare`.
    Nothing is written into the folder of a `finished` run. Errors of the recipe are raised before the folder is
    touched.
    """

    def prepared() -> tuple[Prepared, Splits, Tree]:
        splits = open_data(recipe, test)
        if like is not None:
            oddities.take_over(splits, like.splits)
        ready = prepare(recipe, splits, None if like is None else like.ready, mesh)
        ready = ready if overwrite else as_begun(ready, path)
        phase_spans(ready, total_steps(recipe, len(splits.train), splits.first))
        return ready, splits, memories(recipe.objective, setting(ready, splits))

    ready, splits, memory = processes.together(prepared)
    processes.check_equal({"the data": json.dumps(splits.fingerprint, sort_keys=True)})
    run = ActiveRun(recipe, path, ready, splits, memory, records, finished)
    command = shlex.join([program(), *sys.argv[1:]]) if base is not None else ""

    def claim() -> None:
        with guarded(path), ExitStack() as lock:
            lock.enter_context(run_directory.writing(path))
            if run_directory.finished(path, recipe, resume=True, overwrite=overwrite):
                raise FileExistsError(
                    f"{path}: another process has finished the run of this recipe; pass --resume to read it"
                )
            run_directory.claim(
                path, recipe, overwrite=overwrite, base=base, command=command, file=file, with_commit=with_commit
            )
            run.lock = lock.pop_all()

    if not finished:
        processes.decided(claim)
    return run


def as_begun(ready: Prepared, path: Path) -> Prepared:
    """Return the prepared recipe with the task that an unfinished run in the folder began with: an early version of tlx
    may have lacked a field of it."""
    if not (path / run_directory.RECIPE).is_file():
        return ready
    written = run_directory.read(path, run_directory.RECIPE)["recipe"]["task"]
    return ready._replace(task=ready.task.of_early_run(written))


def program() -> str:
    """Return the first word of the command that runs: `tlx`, however it was started, or the user's script."""
    path = Path(sys.argv[0])
    return "tlx" if path.stem == "tlx" or path.parts[-2:] == ("cli", "__main__.py") else sys.argv[0]


def total_steps(recipe: Recipe, examples: int, stream: str = "") -> int:
    """Return the number of updates: `train.steps`, or enough for `epochs` passes over the examples of `stream`, which
    may have another batch than `train.batch`."""
    return recipe.train.steps or max(1, math.ceil(recipe.train.epochs * examples / recipe.batch_of(stream)))


def phase_spans(ready: Prepared, steps: int) -> list[tuple[int, int]]:
    """Return the steps `[first, last)` of each phase; raise ValueError where the shares do not sum to one."""
    shares = [phase.share for phase in ready.phases]
    check_shares(ready.phases)
    ends = [round(steps * sum(shares[: n + 1])) for n in range(len(shares))]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def setting(ready: Prepared, splits: Splits) -> Setting:
    """Return what the terms may read before the first step."""
    recipe, streams = ready.recipe, {**splits.looked, **splits.streams}

    def examples_of(stream: str) -> list[Examples]:
        names = several(stream, streams)
        if missing := [name for name in names if name not in streams]:
            present = ", ".join(streams)
            raise ValueError(
                f"a term reads the stream {missing[0]!r}, which does not exist; the streams are: {present}"
            )
        return [streams[name] for name in names]

    def read(examples: Examples) -> Iterator[ArrayMap]:
        return evaluation_batches(
            examples, ready.processor, batch=recipe.train.eval_batch, buckets=recipe.data.lengths, targets=ready.targets
        )

    def batches(stream: str) -> Iterator[ArrayMap]:
        all_examples = examples_of(stream)
        if not all(examples.labelled for examples in all_examples):
            raise ValueError(f"a term reads the labels of {stream!r}, which has no labels")
        return itertools.chain.from_iterable(map(read, all_examples))

    def inputs(stream: str) -> Iterator[ArrayMap]:
        all_examples = examples_of(stream)
        if len(all_examples) > 1:
            raise ValueError(
                f"a term reads the examples of {stream!r} by their index, but {stream!r} contains {len(all_examples)} "
                f"data sets: name one of them, such as '{stream}/0'"
            )
        for batch in read(all_examples[0]):
            yield {name: array for name, array in batch.items() if name not in ready.task.fields()}

    return Setting(ready.model, ready.variables, ready.task, batches, ready.new, ready.trainable, inputs)


def moved_part(variables: Variables, trainable: frozenset[str]) -> Variables:
    """Return the variables without the parameters that no phase trains, which need not be kept twice."""
    params = {path: leaf for path, leaf in flatten(variables.params).items() if path in trainable}
    return Variables(nest(params), variables.stats)
