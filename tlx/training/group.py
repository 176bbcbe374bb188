"""The runs that train together, as the loop sees them: their engine, states, evaluation, checkpoints and results.

The loop does not see whether there is one run or several vectorised runs; only this module and `vectorize` know.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import jax

from tlx import processes
from tlx.files.durable import common_folder, guarded
from tlx.functional.selection import Outputs
from tlx.interrupt import Interruption, noted
from tlx.records.progress import Clock, Evaluations, Progress
from tlx.records.run_directory import Predictions
from tlx.training import vectorize
from tlx.training.active_run import ActiveRun, Diverged, moved_part
from tlx.training.batches import DispatchedSteps, one_of
from tlx.training.compilations import Compilations
from tlx.training.ending import result
from tlx.training.energy import Metered
from tlx.training.evaluate import evaluate, look
from tlx.training.group_checkpoints import GroupCheckpoints, best_state
from tlx.training.patience import divided
from tlx.training.phases import Before, PhaseSetup, set_up_phase
from tlx.training.profile import StepTrace
from tlx.training.reading_together import raise_first
from tlx.training.results import line, start_message
from tlx.training.votes import Votes, Wish
from tlx.training.writing import is_written, rounds, writes_now

if TYPE_CHECKING:
    from tlx.training.loop import How


class RunGroup:
    """Runs that train in one program: a single run, or several vectorised runs.

    `begin` is the step of their checkpoint and `step` the number of steps dispatched so far. `stopped` says that the
    runs end before their last step.
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
        self.step, self.stopped = self.begin, False
        self.setup: PhaseSetup | None = None
        self.before: Before | None = None
        self.state: Any = None
        # The last dispatched steps, whose metrics are not read yet, and the step before them.
        self.pending: tuple[int, DispatchedSteps, Votes] | None = None
        # Whether the devices computed the pending steps while another program was compiled.
        self.overlapped = False
        self.agreed, self.saved = Wish.NOTHING, time.monotonic()
        self.trace = StepTrace(how.profile, self.begin, self.steps, self.first.path, progress.say)
        self.opened, self.compilations = False, Compilations(clock, progress, how.quiet)

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
                    self.runs, number, feature_cache, self.progress.say, before, restore, self.how.mesh, self.how.layers
                )
            self.state = self.setup.placed()
        self.compilations.begin_phase(self.recipe, len(self.runs), number)
        self.setup.programs.announce = self.compilations.announce
        self.progress.begin_phase()
        if not self.opened:
            self.opened = True
            processes.decided(self.open_records)
            # The checkpoint may be one of runs that have ended.
            self.stop_where_all_ended()

    def open_records(self) -> None:
        """Open the records of every run."""
        for run in self.runs:
            run.open_records(self.how.chosen_trackers, self.how.callback)

    def take_steps(self) -> None:
        """Dispatch steps, at most up to the next evaluation, and read the metrics of the steps before them."""
        interval = self.first.eval_every
        end = self.trace.begin(self.step, min(self.last, self.step - self.step % interval + interval), self.settle)
        # The first batch waits until its readers have begun.
        first = self.step == self.phase.step
        with self.clock("train"):
            with self.clock("setup") if first else nullcontext(), self.trace.named(self.step):
                dispatched = self.phase.batches.take(self.state, self.step, end)
            self.state = processes.in_order(dispatched.state)
            self.overlapped = self.pending is not None and not dispatched.compiled
            self.settle()
            votes = Votes(self.phase.mesh, self.own_wish)
            self.pending, self.step = (self.step, dispatched, votes), self.step + dispatched.steps
            if self.evaluation_due or self.wish:
                self.settle()
            self.trace.end(self.step, self.settle)

    def settle(self) -> None:
        """Read and record the metrics of the pending steps; waits for the device."""
        if self.pending is None:
            return
        (step, dispatched, votes), self.pending = self.pending, None
        metrics = dispatched.metrics_on_host()
        # Steps that overlap with a compilation took no time of the training.
        self.clock.steps += 0 if self.overlapped else dispatched.steps
        self.overlapped = False
        self.rates = metrics["rate"][-1]
        for n, run in enumerate(self.runs):
            if run.active:
                with self.ended_alone(run):
                    of_run = {name: values[:, n] for name, values in metrics.items()}
                    run.settle(step, self.phase.learning, of_run, partial(dispatched.examples, n))
        self.agreed = max(self.agreed, votes.wish)
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
    def own_wish(self) -> Wish:
        """Return what this process wishes: to stop because of a signal or an error, or a checkpoint, because the last
        one is old; the clock of the leader counts."""
        if self.failure is not None:
            return Wish.FAIL
        if self.stop.requested:
            return Wish.STOP
        seconds = self.how.checkpoint_seconds
        old = seconds > 0 and processes.leads() and time.monotonic() - self.saved >= seconds
        return Wish.SAVE if old else Wish.NOTHING

    @property
    def wish(self) -> Wish:
        """Return the wish on which this process acts: no process of several acts before all know it."""
        return self.own_wish if jax.process_count() == 1 else self.agreed

    @property
    def failure(self) -> Exception | None:
        """Return the error of the user's callback, or the one by which this process could not read a batch."""
        failures: list[Exception | None] = [run.records.failure for run in self.runs]
        failures += [self.setup.batches.failure] if self.setup is not None else []
        return next((failure for failure in failures if failure is not None), None)

    @property
    def evaluation_due(self) -> bool:
        """Return whether the validation split is measured after this step."""
        return self.step % self.first.eval_every == 0 or self.step == self.steps

    def validate(self) -> None:
        """Measure the validation split, and the inputs of the criteria, for every run. Stop the group where `how.judge`
        returns False for a single run, or where every run has failed or lost patience."""
        with self.clock("eval"):
            engine, continues = self.phase.engine, True
            evaluated = engine.answer(self.state)
            readers = {name: one_of(by_run) for name, by_run in self.phase.readers.items()}
            validation, aside, ready = self.splits.validation, self.splits.aside, self.first.ready
            write = writes_now(ready, judged=self.how.judge is not None)
            total = len(validation) * (rounds(ready, len(self.runs)) if write else 1)
            with self.progress.doing("validating", total + sum(map(len, aside.values()))):
                advance = self.progress.advance
                outcomes = evaluate(engine, evaluated, validation, readers["validation"], ready, advance, write)
                criteria_inputs = look(engine, evaluated, aside, readers, ready, advance)
            for n, run in enumerate(self.runs):
                if run.active:
                    with self.ended_alone(run):
                        continues = self.measure(n, outcomes[n], criteria_inputs[n])
            if self.recipe.train.select != "last":
                self.keep_best(evaluated)
        if self.recipe.train.patience is not None and self.last == self.steps:
            self.wait_for_better()
        self.stopped = self.stopped or not continues
        self.stop_where_all_ended()

    def wait_for_better(self) -> None:
        """Count the validations without a better measurement; lower the rate of runs whose schedule does so, and end
        those that have lost patience."""
        divisors, ended = [1.0] * len(self.runs), []
        for n, run in enumerate(self.runs):
            if run.active:
                before, run.patience = run.patience, run.patience.after(*run.judged(), run.recipe)
                if run.patience.falls > before.falls:
                    divisors[n] = run.recipe.optim.plateau_divisor
                    self.progress.say(f"step {self.step}/{self.steps}  plateau: the rate is divided by {divisors[n]}")
                if run.patience.over(run.recipe):
                    ended.append(run)
        if max(divisors) > 1:
            self.state = divided(self.state, divisors, len(self.runs))
        if ended:
            self.count_flops()
        for run in ended:
            run.ended = self.step

    def stop_where_all_ended(self) -> None:
        """Stop the group where no run trains any more."""
        self.stopped = self.stopped or not any(run.active for run in self.runs)

    def measure(self, n: int, outcome: Predictions, outputs: Outputs) -> bool:
        """Record the measurements of run n; return whether training continues, as `how.judge` decides."""
        run = self.runs[n]
        metrics = run.measured(self.step, outcome, outputs, float(self.rates[n]))
        if run is next(other for other in self.runs if other.active):
            self.progress.measured(line(self.step, self.steps, metrics, run.criteria))
        judge = self.how.judge
        if judge is None or self.step == self.steps:
            return True
        # A judge may read any metric, and changes no record.
        return processes.decided(lambda: bool(judge(self.step, outcome.metrics(run.ready.task))))

    def keep_best(self, states: Any) -> None:
        """Keep the trainable parameters of every run whose measurement is the best so far by the recipe's rule."""
        for n, run in enumerate(self.runs):
            if run.active:
                part = moved_part(self.phase.engine.fetch(states, n).variables, run.ready.trainable)
                run.best = run.best.better(self.step, *run.judged(), part)

    @property
    def checkpoint_due(self) -> bool:
        """Return whether a checkpoint is written after this step: before the program ends by a signal or by an error of
        the callback; where the last one is old enough; after an evaluation, with `checkpoint_seconds` only if it is the
        best one so far and the best are kept."""
        if self.stopped or self.step == self.steps:
            return False
        best = self.how.keep_best > 0 and any(run.best.step == self.step for run in self.runs)
        return bool(self.wish) or (self.evaluation_due and (best or self.how.checkpoint_seconds == 0))

    def save_checkpoint(self) -> None:
        """Start to write a checkpoint of all runs. Raise the error of the callback, if there is one, and
        KeyboardInterrupt if a signal was noted."""
        # The wish of a single process may have come after the last step was taken.
        self.settle()
        self.saved = time.monotonic()
        self.count_flops()
        self.checkpoints.save(self.phase.engine, self.state, self.evaluation_due)
        self.raise_failure()
        if self.wish > Wish.SAVE:
            raise KeyboardInterrupt
        self.agreed = Wish.NOTHING

    def raise_failure(self) -> None:
        """Raise the error of the callback or of a batch, in every process."""
        if self.wish == Wish.FAIL:
            processes.together(partial(raise_first, [self.failure]))

    def count_flops(self) -> None:
        """Add the operations of the steps since the last call to those of each run; None once they are unknown."""
        with self.clock("compile"), self.progress.doing("counting operations"):
            flops = self.phase.flops()
            for n, run in enumerate(self.runs):
                if run.ended is None:
                    run.flops = None if flops is None or run.flops is None else run.flops + flops[n]

    def finish_phase(self) -> None:
        """Read pending metrics, and keep the states for the phase that follows, or save those after the last step."""
        with self.clock("train"):
            self.settle()
        self.count_flops()
        # The last phase may take no step, and still begins where the one before has ended.
        if self.phase.phase < len(self.spans) - 1 and not self.stopped:
            engine = self.phase.engine
            self.before = self.phase.parts, [engine.fetch(self.state, n) for n in range(len(self.runs))]
        else:
            self.save_last()

    def save_last(self) -> None:
        """Start to write a checkpoint of the last step, from which a finished run is lengthened, and from which a run
        continues that ends by an error of the callback. Raise this error."""
        keeps = self.how.leave == "all" or self.how.callback is not None
        # A phase without a step would be restored into the phase before.
        if keeps and self.step > max(self.begin, self.spans[self.phase.phase][0]):
            self.checkpoints.save(self.phase.engine, self.state, self.evaluation_due)
        self.raise_failure()

    def choose_checkpoints(self) -> None:
        """Choose the state of each run by the recipe's rule, and measure the validation split again where a
        chosen state is not the last one."""
        engine = self.phase.engine
        with self.clock("eval"):
            evaluated = engine.answer(self.state)
            host = vectorize.on_host(evaluated)
            states = [engine.fetch(host, n) for n in range(len(self.runs))]
            parts = zip(self.runs, states, self.phase.parts, strict=True)
            self.chosen = [best_state(run, state, of_run, self.step) for run, state, of_run in parts]
            # A run that continues at its last step has measured nothing yet.
            outcomes = [run.outcomes for run in self.runs if run.failed is None]
            measured = all("validation" in of_run for of_run in outcomes)
            if not measured or any(step != self.step for _, step in self.chosen):
                evaluated = engine.place([state for state, _ in self.chosen])
                self.evaluate("validation", evaluated, "validating the chosen checkpoint")
            elif not all(is_written(self.first.ready, of_run["validation"].scores) for of_run in outcomes):
                self.evaluate("validation", evaluated, "writing the answers of the validation split")
        self.evaluated = evaluated

    def evaluate_test(self) -> None:
        """Measure every test set with the chosen states."""
        with self.clock("eval"):
            for name in self.splits.measured:
                self.evaluate(name, self.evaluated, "testing" if name == "test" else f"testing on {name}")

    def evaluate(self, split: str, states: Any, words: str) -> None:
        """Measure a split for every run, once for the result; `words` say so."""
        phase, ready = self.phase, self.first.ready
        examples, readers = self.splits.by_name[split], one_of(phase.readers[split])
        with self.progress.doing(words, len(examples) * rounds(ready, len(self.runs))):
            outcomes = evaluate(phase.engine, states, examples, readers, ready, self.progress.advance, write=True)
        for run, outcome in zip(self.runs, outcomes, strict=True):
            run.outcomes[split] = outcome

    def write_results(self) -> list[dict[str, Any] | Exception]:
        """Write the files of each run; return for each run its result, as in `result.json`, or the exception that ended
        it."""
        # Until the last result is written the checkpoint may be needed.
        self.checkpoints.wait()
        used = self.meter.stop().shared(len(self.runs))
        with self.progress.doing("writing the results"):
            return [result(self, n, used) for n in range(len(self.runs))]

    def agree_to_end(self) -> None:
        """Let a signal to one process after its last step end all of them."""
        if jax.process_count() > 1:
            self.stop.requested = any(processes.gathered(self.stop.requested))


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
        checkpoints = stack.enter_context(closing(GroupCheckpoints(runs, how)))
        meter = stack.enter_context(Metered())
        batch = first.recipe.batch_of(first.splits.first) * len(runs)
        test = sum(map(len, first.splits.measured.values())) if how.test else 0
        evaluations = Evaluations(first.eval_every, len(first.splits.validation), test)
        progress = stack.enter_context(Progress(first.steps, first.begin, batch, how.quiet, clock, evaluations))
        if not how.quiet:
            progress.say(start_message(first.ready, first.splits, first.steps, first.begin, first.path))
        group = RunGroup(runs, how, clock, stop, checkpoints, meter, progress)
        group.setup = setup
        stack.callback(group.trace.close)
        yield group
