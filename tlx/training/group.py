"""The runs that train together, as the loop sees them: their engine, states, evaluation, checkpoints and results.

The loop does not see whether there is one run or several vectorised runs; only this module and `vectorize` know.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import jax

from tlx import partition
from tlx.files.durable import common_folder, guarded
from tlx.functional.selection import Outputs
from tlx.recipe import Recipe
from tlx.records import run_directory
from tlx.records.compile_times import CompileTimes
from tlx.records.progress import Clock, Evaluations, Progress
from tlx.records.run_directory import Predictions
from tlx.training import vectorize
from tlx.training.active_run import ActiveRun, Diverged, moved_part
from tlx.training.batches import DispatchedSteps, one_of
from tlx.training.energy import Metered, Used
from tlx.training.evaluate import evaluate, look
from tlx.training.group_checkpoints import GroupCheckpoints
from tlx.training.grouping import signature
from tlx.training.interrupt import Interruption, noted
from tlx.training.phases import Before, PhaseSetup, set_up_phase
from tlx.training.programs import Shapes
from tlx.training.results import end_message, line, start_message, write_all, write_page
from tlx.training.step import Parts, TrainState
from tlx.trees import flatten, nest

if TYPE_CHECKING:
    from tlx.training.loop import How


class RunGroup:
    """Runs that train in one program: a single run, or several vectorised runs.

    `begin` is the step of their checkpoint and `step` the number of steps dispatched so far. `stopped` says that the
    runs end before their last step; `ended` is the step at which they end.
    """

    def __init__(
        self,
        runs: Sequence[ActiveRun],
        how: "How",
        clock: Clock,
        stop: Interruption,
        checkpoints: GroupCheckpoints,
        meter: Metered,
        progress: Progress,
    ):
        self.runs, self.how, self.clock, self.stop = list(runs), how, clock, stop
        self.checkpoints, self.meter, self.progress = checkpoints, meter, progress
        self.first = self.runs[0]
        self.recipe, self.splits, self.spans = self.first.recipe, self.first.splits, self.first.spans
        self.begin, self.steps = self.first.begin, self.first.steps
        self.step, self.ended, self.stopped = self.begin, self.steps, False
        self.setup: PhaseSetup | None = None
        self.before: Before | None = None
        self.state: Any = None
        # The last dispatched steps, whose metrics are not read yet, and the step before them.
        self.pending: tuple[int, DispatchedSteps] | None = None
        # Whether the devices computed the pending steps while another program was compiled.
        self.overlapped = False
        self.interrupted, self.saved = False, time.monotonic()
        self.times = CompileTimes()

    @property
    def phase(self) -> PhaseSetup:
        """Return the phase that trains now, or the last one that did."""
        if self.setup is None or self.state is None:
            raise ValueError(
                f"{self.first.path} has a checkpoint at step {self.begin}, beyond this recipe's {self.steps} steps"
            )
        return self.setup

    def set_up(self, number: int) -> None:
        """Begin a phase: place its states on the devices."""
        start, self.last = self.spans[number]
        self.step = max(self.begin, start)
        with self.clock("setup"), self.progress.doing("setting up"):
            if self.setup is None or (self.setup.phase, self.setup.step) != (number, self.step):
                before, self.before, self.setup = self.before, None, None
                feature_cache, restore = self.how.feature_cache, self.checkpoints.restore
                self.setup = set_up_phase(
                    self.runs, number, feature_cache, self.progress.say, before, restore, self.how.mesh
                )
            self.state = self.setup.placed()
        if not self.how.quiet:
            self.identity = identity_of(self.recipe, len(self.runs), number)
        self.setup.programs.announce = self.compiling
        self.progress.begin_phase()

    @contextmanager
    def compiling(self, program: str, shapes: Shapes) -> Iterator[None]:
        """Count the seconds in which a program is compiled; show how long it took last time, and remember it."""
        if self.how.quiet:
            with self.clock("compile"):
                yield
            return
        key = digest_of(self.identity, program, shapes)
        start = time.perf_counter()
        with self.clock("compile"), self.progress.compiling(program, self.times.last(key)):
            yield
        self.times.note(key, time.perf_counter() - start)

    def take_steps(self) -> None:
        """Dispatch steps, at most up to the next evaluation, and read the metrics of the steps before them."""
        interval = self.first.eval_every
        end = min(self.last, self.step - self.step % interval + interval)
        with self.clock("train"):
            dispatched = self.phase.batches.take(self.state, self.step, end)
            self.state = dispatched.state
            self.overlapped = self.pending is not None and not dispatched.compiled
            self.settle()
            self.pending, self.step = (self.step, dispatched), self.step + dispatched.steps
            self.interrupted = self.stop.requested
            if self.evaluation_due or self.interrupted:
                self.settle()

    def settle(self) -> None:
        """Read and record the metrics of the pending steps; waits for the device."""
        if self.pending is None:
            return
        (step, dispatched), self.pending = self.pending, None
        metrics = dispatched.metrics_on_host()
        # Steps that overlap with a compilation took no time of the training.
        self.clock.steps += 0 if self.overlapped else dispatched.steps
        self.overlapped = False
        self.rates = metrics["rate"][-1]
        for n, run in enumerate(self.runs):
            if run.failed is None:
                with self.ended_alone(run):
                    of_run = {name: values[:, n] for name, values in metrics.items()}
                    run.settle(step, self.phase.learning, of_run, partial(dispatched.examples, n))
        for k in range(dispatched.steps):
            self.progress.step(step + k + 1, float(metrics["loss"][k].mean()), float(metrics["rate"][k, 0]))

    @contextmanager
    def ended_alone(self, run: ActiveRun) -> Iterator[None]:
        """Mark a run that diverges as failed and let the others continue; a single run raises."""
        try:
            yield
        except Diverged as error:
            if len(self.runs) == 1:
                raise
            run.failed = error

    @property
    def evaluation_due(self) -> bool:
        """Return whether the validation split is measured after this step."""
        return self.step % self.first.eval_every == 0 or self.step == self.steps

    def validate(self) -> None:
        """Measure the validation split, and the inputs of the criteria, for every run. Stop the group where `how.judge`
        returns False for a single run, or where every run has failed."""
        with self.clock("eval"):
            engine, continues = self.phase.engine, True
            evaluated = engine.answer(self.state)
            readers = {name: one_of(by_run) for name, by_run in self.phase.readers.items()}
            validation, aside, ready = self.splits.validation, self.splits.aside, self.runs[0].ready
            with self.progress.doing("validating", len(validation) + sum(map(len, aside.values()))):
                advance = self.progress.advance
                outcomes = evaluate(engine, evaluated, validation, readers["validation"], ready, advance)
                criteria_inputs = look(engine, evaluated, aside, readers, ready, advance)
            for n, run in enumerate(self.runs):
                if run.failed is None:
                    with self.ended_alone(run):
                        continues = self.measure(n, outcomes[n], criteria_inputs[n])
            if self.recipe.train.select != "last":
                self.keep_best(evaluated)
        if not continues or all(run.failed for run in self.runs):
            self.stopped, self.ended = True, self.step

    def measure(self, n: int, outcome: Predictions, outputs: Outputs) -> bool:
        """Record the measurements of run n; return whether training continues, as `how.judge` decides."""
        run = self.runs[n]
        metrics = run.measured(self.step, outcome, outputs, float(self.rates[n]))
        if n == 0:
            self.progress.measured(line(self.step, self.steps, metrics, run.criteria))
        if self.how.judge is None or self.step == self.steps:
            return True
        # A judge may read any metric, and changes no record.
        return self.how.judge(self.step, outcome.metrics(run.ready.task))

    def keep_best(self, states: Any) -> None:
        """Keep the trainable parameters of every run whose measurement is the best so far by the recipe's rule."""
        for n, run in enumerate(self.runs):
            if run.failed is None:
                part = moved_part(self.phase.engine.fetch(states, n).variables, run.ready.trainable)
                run.best = run.best.better(self.step, *run.judged(), part)

    @property
    def checkpoint_due(self) -> bool:
        """Return whether a checkpoint is written after this step: before the program ends by a signal, or after an
        evaluation if the last checkpoint is old enough."""
        if self.stopped or self.step == self.steps:
            return False
        return self.interrupted or (
            self.evaluation_due and time.monotonic() - self.saved >= self.how.checkpoint_seconds
        )

    def save_checkpoint(self) -> None:
        """Start to write a checkpoint of all runs. Raise KeyboardInterrupt if a signal was noted."""
        self.saved = time.monotonic()
        self.count_flops()
        self.checkpoints.save(self.phase.engine, self.state)
        if self.interrupted:
            raise KeyboardInterrupt

    def count_flops(self) -> None:
        """Add the operations of the steps since the last call to those of each run; None once they are unknown."""
        with self.clock("compile"), self.progress.doing("counting operations"):
            flops = self.phase.flops()
            for n, run in enumerate(self.runs):
                run.flops = None if flops is None or run.flops is None else run.flops + flops[n]

    def finish_phase(self) -> None:
        """Read pending metrics, and keep the states for the phase that follows."""
        with self.clock("train"):
            self.settle()
        self.count_flops()
        # The last phase may take no step, and still begins where the one before has ended.
        if self.phase.phase < len(self.spans) - 1 and not self.stopped:
            engine = self.phase.engine
            self.before = self.phase.parts, [engine.fetch(self.state, n) for n in range(len(self.runs))]

    def choose_checkpoints(self) -> None:
        """Choose the state of each run by the recipe's rule, and measure the validation split again where a
        chosen state is not the last one."""
        engine = self.phase.engine
        with self.clock("eval"):
            evaluated = engine.answer(self.state)
            host = vectorize.on_host(evaluated)
            states = [engine.fetch(host, n) for n in range(len(self.runs))]
            parts = zip(self.runs, states, self.phase.parts, strict=True)
            self.chosen = [best_state(run, state, of_run, self.ended) for run, state, of_run in parts]
            if any(step != self.ended for _, step in self.chosen):
                evaluated = engine.place([state for state, _ in self.chosen])
                self.evaluate("validation", evaluated, "validating the chosen checkpoint")
        self.evaluated = evaluated

    def evaluate_test(self) -> None:
        """Measure every test set with the chosen states."""
        with self.clock("eval"):
            for name in self.splits.measured:
                self.evaluate(name, self.evaluated, "testing" if name == "test" else f"testing on {name}")

    def evaluate(self, split: str, states: Any, words: str) -> None:
        """Measure a split for every run, once for the result; `words` say so."""
        phase = self.phase
        examples, readers = self.splits.by_name[split], one_of(phase.readers[split])
        with self.progress.doing(words, len(examples)):
            outcomes = evaluate(phase.engine, states, examples, readers, self.runs[0].ready, self.progress.advance)
        for run, outcome in zip(self.runs, outcomes, strict=True):
            run.outcomes[split] = outcome

    def write_results(self) -> list[dict[str, Any] | Exception]:
        """Write the files of each run; return for each run its result, as in `result.json`, or the exception that ended
        it."""
        # Until the last result is written the checkpoint may be needed.
        self.checkpoints.wait()
        used = self.meter.stop().shared(len(self.runs))
        with self.progress.doing("writing the results"):
            return [self.write_result(n, used) for n in range(len(self.runs))]

    def write_result(self, n: int, used: Used) -> dict[str, Any] | Exception:
        """Return the result of run n, and write it unless the run was finished before or failed."""
        run, (state, selected) = self.runs[n], self.chosen[n]
        if run.finished:
            return run_directory.read(run.path)
        if run.failed is not None:
            return run.failed
        run.calibrate()
        metrics = {split: outcome.metrics(run.ready.task) for split, outcome in run.outcomes.items()}
        for split in self.splits.measured:
            if split in metrics:
                run.records.write(self.ended, {f"{split}/{name}": value for name, value in metrics[split].items()})
        run.records.flush()
        finish: dict[str, Any] = {"clock": self.clock, "steps": self.ended, "selected": selected}
        finish["metrics"] = {f"{split}/{name}": value for split in metrics for name, value in metrics[split].items()}
        finish["pack"] = {"arms": len(self.runs), "place": n}
        if len(self.runs) > 1:
            finish["pack"]["cells"] = self.checkpoints.cells
        finish["energy"] = used._asdict()
        result = write_all(run, state, finish, self.how.leave)
        if self.how.leave == "all":
            page = write_page(run.path, run.ready.task) if self.how.test else None
            self.progress.say(end_message(result, run.ready, run.path, page, run.outcomes))
        return result


@contextmanager
def open_group(
    runs: Sequence[ActiveRun], how: "How", clock: Clock, setup: PhaseSetup | None = None
) -> Iterator[RunGroup]:
    """Open the checkpoint of runs that train together, and close it and the runs at the end. `setup` is the set-up of
    their first phase, if it exists already. Ctrl-C and SIGTERM are only noted within the block."""
    first = runs[0]
    with ExitStack() as stack:
        stop = stack.enter_context(noted())
        stack.enter_context(guarded(common_folder([run.path for run in runs])))
        for run in runs:
            stack.enter_context(closing(run))
        # Reads the checkpoints, which may be damaged: the runs are closed all the same.
        checkpoints = stack.enter_context(closing(GroupCheckpoints(runs)))
        meter = stack.enter_context(Metered())
        batch = first.recipe.batch_of(first.splits.first) * len(runs)
        test = sum(map(len, first.splits.measured.values())) if how.test else 0
        evaluations = Evaluations(first.eval_every, len(first.splits.validation), test)
        progress = stack.enter_context(Progress(first.steps, first.begin, batch, how.quiet, clock, evaluations))
        if not how.quiet:
            progress.say(start_message(first.ready, first.splits, first.steps, first.begin, first.path))
        group = RunGroup(runs, how, clock, stop, checkpoints, meter, progress)
        group.setup = setup
        yield group


def identity_of(recipe: Recipe, runs: int, phase: int) -> str:
    """Return a text that is equal for phases whose programs compile alike; it costs no tracing."""
    device = jax.devices()[0]
    versions = jax.__version__, device.platform, device.device_kind, str(jax.device_count())
    return digest_of(signature(recipe), runs, phase, *versions)


def digest_of(*parts: object) -> str:
    """Return sixteen hexadecimal digits for some values."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def best_state(run: ActiveRun, state: TrainState, parts: Parts, ended: int) -> tuple[TrainState, int]:
    """Return the state whose numbers are reported, and its step."""
    best = run.best
    if best.variables is None or best.step == ended:
        return state, ended
    params = nest(flatten(state.variables.params) | flatten(best.variables.params))
    trainable, frozen = partition.split(params, parts.partition)
    return state._replace(trainable=trainable, frozen=frozen, stats=best.variables.stats), best.step
