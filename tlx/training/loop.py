"""The training loop, for one run or several runs that share a program."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax

from tlx import config, processes, report, sharding
from tlx.assets import cache_dir
from tlx.files.durable import guarded
from tlx.notebooks import html_of
from tlx.predict import predict
from tlx.predict.opening import resolved
from tlx.predict.runs import last_predictor
from tlx.recipe import Recipe
from tlx.records import run_directory
from tlx.records.log import Callback
from tlx.records.progress import Clock
from tlx.records.remote import RemoteRun, is_url
from tlx.records.trackers import Tracker, trackers_of
from tlx.report.plots import RunPlots
from tlx.tasks import Task
from tlx.training.active_run import ActiveRun, Diverged, opened
from tlx.training.group import open_group
from tlx.training.layers import LAYERS
from tlx.training.phases import PhaseSetup
from tlx.training.profile import check_profile, check_remaining
from tlx.training.results import PAGE, write_page
from tlx.training.saving import check_best, check_saving
from tlx.trees import Json
from tlx.weights import Pretrained

__all__ = ["Diverged", "How", "Run", "run", "train"]


class Run(NamedTuple):
    """A finished run: the `folder` with all records, the `recipe`, and `result` as in `result.json`.

    In a notebook it shows its metrics with intervals, its curves and its worst mistakes.
    """

    folder: Path
    recipe: Recipe
    result: Json

    @property
    def metrics(self) -> dict[str, float]:
        """Return the metrics by name, as `split/metric`."""
        return self.result["metrics"]

    def __repr__(self) -> str:
        """Return the folder, the primary metric and the rule that chose the checkpoint."""
        # The data may have decided which metric is the primary one.
        primary = next(iter(self.result.get("measures") or [self.recipe.task.primary]))
        splits = (split for split in ("test", "validation") if f"{split}/{primary}" in self.metrics)
        names = [f"{split}/{primary}" for split in splits] or list(self.metrics)
        measured = "".join(f", {name} {self.metrics[name]:.4f}" for name in names[:1])
        return f"Run({str(self.folder)!r}{measured}, selection {self.result['selection']!r})"

    @property
    def history(self) -> Any:
        """Return the recorded metrics as a pandas frame: a row for each step, a column for each metric."""
        from tlx.training import frames

        return frames.history(self)

    @property
    def predictions(self) -> Any:
        """Return the test examples with their texts, labels and answers as a pandas frame."""
        from tlx.training import frames

        return frames.predictions(self)

    @property
    def model(self) -> Pretrained:
        """Return the trained model, for `tlx.forward(run.model.model, run.model.variables, inputs)`."""
        return last_predictor(self).model.pretrained

    @property
    def plot(self) -> RunPlots:
        """Return the drawings of the page as Altair charts: `run.plot.curves()`, `.confusion()`, `.calibration()`."""
        return RunPlots(self.folder, self.task)

    def predict(self, examples: Any, **settings: Any) -> Any:
        """Return the answers to examples of any kind, as `tlx.predict.predict(run, examples, ...)` does.

        Args:
            examples: A list of texts, pairs, images or sounds, a data frame, columns, arrays, a path or a source.
            settings: The names of columns and the other settings of `tlx.predict.predict`, such as `text="body"`.

        Returns:
            For a data frame the same rows with the columns of the answers, else a list.
        """
        return predict(self, examples, **settings)

    def save_config(self, path: str | Path) -> Path:
        """Write the recipe as a config file for `tlx run`, and return its path.

        Raises FileExistsError where the file exists with another content.
        """
        from tlx.report.recipe_file import write_config

        return write_config(self.recipe, Path(path))

    def open(self) -> Path:
        """Open the page of the run in the browser, and return its path; it is drawn first where it is missing."""
        import webbrowser

        page = self.folder / PAGE
        page = page if page.is_file() else report.write_run(self.folder)
        webbrowser.open(page.resolve().as_uri())
        return page

    @property
    def task(self) -> Task:
        """Return the task as the run used it: with its classes and with all that follows from the data."""
        task = resolved(self.folder, self.recipe.task) if self._is_kept else None
        if task is None:
            raise FileNotFoundError(f"{self.folder} no longer contains the run; train it again: tlx.run(run.recipe)")
        return task

    @property
    def _is_kept(self) -> bool:
        return (self.folder / run_directory.RESULT).is_file()

    def _repr_html_(self) -> str | None:
        if not self._is_kept:
            # The notebook shows the text form.
            return None
        return html_of("tlx.report.notebook:run_html", self.folder, self.task)


@dataclass(frozen=True, kw_only=True)
class How:
    """How a run is carried out and which files it leaves; no field changes a number of the experiment.

    `quiet` prints nothing. `leave` "all" writes the model, the page and every record; "learned" writes what a study
    keeps of a cell: `result.json`, predictions, at most 200 training records, and the trained parameters, if they are
    few. With `feature_cache`, the features of the frozen layers are computed once where that is exact. Without `test`
    the test split is sealed: nothing of it is read, and there is no page. `judge(step, metrics)` is called after each
    validation except the last and ends the run by returning False; the result then has fewer `steps` than
    `asked_steps`. `mesh` sets how many devices share a batch, the parameters and the work on each example. `layers`
    sets how repeated layers run: "loop" compiles one of them and runs it in a loop, "unrolled" compiles each, "auto"
    chooses the loop where it pays (see `tlx.training.layers`). The numbers agree to rounding.

    A checkpoint is written after each validation; with `checkpoint_seconds` instead after the first step at which the
    last one is this old. The newest `keep_last` stay, and the `keep_best` with the best measurements by the recipe's
    rule `train.select`; a best one is written whatever `checkpoint_seconds` says. `profile` is a number of steps that
    JAX's profiler traces, after two others, into the folder `profile`.

    `trackers` are names ("wandb", "mlflow", "trackio") or instances (see `tlx.records.trackers`) that receive the
    records of every run; TensorBoard events are written in any case where `leave` is "all". `callback(record)` is
    called with every record: a mapping of metrics by name, with `step` and `folder`, that cannot be changed. An error
    in it ends the run, with a checkpoint.
    """

    quiet: bool = False
    leave: Literal["all", "learned"] = "all"
    feature_cache: bool = True
    test: bool = True
    judge: Callable[[int, Mapping[str, float]], bool] | None = None
    checkpoint_seconds: float = 0.0
    keep_last: int = 2
    keep_best: int = 0
    profile: int | None = None
    mesh: sharding.Mesh = sharding.Mesh()
    layers: Literal["auto", "loop", "unrolled"] = "auto"
    trackers: tuple[str | Tracker, ...] = ()
    callback: Callback | None = None

    def __post_init__(self) -> None:
        config.check_choice("layers", self.layers, LAYERS)
        trackers_of(self.trackers)
        if self.callback is not None and not callable(self.callback):
            raise TypeError(f"callback is {self.callback!r}; expected a function of a record")
        check_profile(self.profile)
        check_saving(self.checkpoint_seconds, self.keep_last, self.keep_best)

    @property
    def chosen_trackers(self) -> tuple[Tracker, ...]:
        """Return the trackers, also those that are given by name."""
        return trackers_of(self.trackers)

    @property
    def records(self) -> int | None:
        """Return the largest number of training steps that are recorded, None for all."""
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
    file: str | Path | None = None,
) -> Run:
    """Train the recipe in a folder and measure the test split.

    Args:
        recipe: The recipe.
        out: The folder, or the URL of a place that gets a copy of it, such as `gs://bucket/run` (see
            `tlx.records.remote`); by default `runs/` and the fingerprint.
        resume: Continue from the newest checkpoint, with the same bits as a run that never stopped.
        overwrite: Start again from step 0.
        base: The recipe before overrides, for the record.
        quiet: Print nothing.
        how: How the run is carried out, in place of `quiet`.
        file: The config file of the recipe; the folder gets a copy of it, and the git commit of its directory.

    Raises:
        ValueError, TypeError, FileNotFoundError: The parts of the recipe do not fit together.
        FileExistsError: The folder is in use (`tlx.files.locks.InUse` while another process writes there).
        Diverged: The loss is not finite.
        durable.StorageError: The storage cannot be written, in particular `durable.DiskFull`.
        checkpoint.DamagedCheckpoint: No checkpoint is intact.
    """
    how = how or How(quiet=quiet)
    clock = Clock()
    copy = copy_of(out)
    path = copy.folder if copy else Path("runs", config.fingerprint(recipe)) if out is None else Path(out)
    if not processes.leads():
        how = replace(how, quiet=True)
    with ExitStack() as lock:
        with clock("setup"):
            check_processes(recipe, how)
            processes.decided(lambda: hold(lock, path))
            if copy is not None:
                processes.together(copy.download)
                if processes.leads():
                    lock.enter_context(copy.kept())
            if complete := finished(recipe, path, how, resume=resume, overwrite=overwrite):
                return with_page(whole(complete, how), how)
            active = opened(
                recipe, path, overwrite=overwrite, base=base, records=how.records, test=how.test,
                file=None if file is None else Path(file), with_commit=True, mesh=sharding.make_mesh(mesh=how.mesh),
            )  # fmt: skip
            if copy is not None:
                processes.decided(copy.claim)
                active.checkpoints.published, active.checkpoints.shared = copy.upload, False
        result = processes.attempt(lambda: train([active], how, clock)[0])
    if isinstance(result, Exception):
        raise result
    return result


def finished(recipe: Recipe, path: Path, how: How, *, resume: bool, overwrite: bool) -> Run | None:
    """Return the recipe's run where it is finished and kept, else None, after the checks that need no data."""
    config.check(recipe)
    check_devices(recipe, how.mesh)
    check_best(how.keep_best, recipe)
    if processes.decided(lambda: run_directory.finished(path, recipe, resume=resume, overwrite=overwrite)):
        return Run(path, recipe, processes.decided(lambda: run_directory.read(path)))
    if recipe.train.steps is not None:
        check_remaining(how.profile, recipe.train.steps)
    remember_compilations()
    return None


def copy_of(out: str | Path | None) -> RemoteRun | None:
    """Return the copy of a run that is written at a URL; None where `out` is a folder."""
    if not is_url(out):
        return None
    return RemoteRun(str(out), "run" if processes.leads() else f"process-{jax.process_index()}")


# The options by which the processes of a run must act as one.
AGREED = (
    "mesh", "layers", "feature_cache", "checkpoint_seconds", "keep_last", "keep_best", "profile", "test", "leave",
)  # fmt: skip


def hold(lock: ExitStack, path: Path) -> None:
    """Hold the lock of a folder until `lock` is closed."""
    lock.enter_context(run_directory.writing(path))


def check_processes(recipe: Recipe, how: How) -> None:
    """Raise ValueError where the processes that train together have other recipes, versions, devices or options."""
    if jax.process_count() > 1:
        values = {"the recipe (by its fingerprint)": config.fingerprint(recipe)}
        values |= {f"the version of {name}": version(name) for name in ("tlx", "jax", "jaxlib")}
        values |= {f"the option {name}": repr(getattr(how, name)) for name in AGREED}
        processes.check_equal(values | {"the number of devices": str(jax.local_device_count())})


def whole(run: Run, how: How) -> Run:
    """Return a finished run unchanged; raise FileExistsError where it lacks the test split or steps that `how`
    requests."""
    result, shortfall = run.result, ""
    if how.test and result.get("test_split") == "not looked at":
        shortfall = "was trained without test evaluation"
    elif how.judge is None and result["steps"] < result.get("asked_steps", 0) and result.get("stopped") != "patience":
        shortfall = f"stopped at step {result['steps']} of {result['asked_steps']}"
    if shortfall:
        raise FileExistsError(f"the run in {run.folder} {shortfall}; pass --overwrite to run it again in full")
    return run


def with_page(run: Run, how: How) -> Run:
    """Draw the page of a finished run where it is missing: the disk may have become full just before it."""
    if how.leave == "all" and how.test and processes.leads() and not (run.folder / PAGE).is_file():
        with guarded(run.folder):
            page = write_page(run.folder)
        if page is not None and not how.quiet:
            print(f"drew the missing page {page}", file=sys.stderr)
    return run


def train(runs: Sequence[ActiveRun], how: How, clock: Clock, setup: PhaseSetup | None = None) -> list[Run | Exception]:
    """Train one run, or several that share a program, from their checkpoint to their end.

    Several runs have the same number of steps and phases (see `tlx.training.grouping`) and one checkpoint. A run that
    diverges stops no other run. A full disk ends all runs, and so does Ctrl-C, after the current step and with a
    checkpoint. A run that is `finished` trains for the others: its folder stays unchanged.

    Args:
        runs: The open runs; they are closed at the end, also after an error.
        how: How they are carried out.
        clock: The seconds spent until now.
        setup: The set-up of the first phase, if it exists already.

    Returns:
        For each run its `Run`, or the exception that ended it.
    """
    with open_group(runs, how, clock, setup) as group:
        for phase, (_, last) in enumerate(group.spans):
            # A checkpoint at the end of a phase is restored into that phase, which then has no step left.
            if group.begin > last:
                continue
            group.set_up(phase)
            while group.step < last and not group.stopped:
                group.take_steps()
                if group.evaluation_due:
                    group.validate()
                if group.checkpoint_due:
                    group.save_checkpoint()
            group.finish_phase()
            if group.stopped:
                break
        group.choose_checkpoints()
        if how.test:
            group.evaluate_test()
        outcomes = group.write_results()
        group.agree_to_end()
    return [
        outcome if isinstance(outcome, Exception) else Run(run.path, run.recipe, outcome)
        for run, outcome in zip(runs, outcomes, strict=True)
    ]


def check_devices(recipe: Recipe, mesh_settings: sharding.Mesh = sharding.Mesh()) -> None:
    """Raise ValueError where there are fewer devices than requested, or as `check_shares`."""
    check_shares(recipe, sharding.make_mesh(mesh=mesh_settings), mesh_settings)


def check_shares(recipe: Recipe, mesh: sharding.AnyMesh, mesh_settings: sharding.Mesh) -> None:
    """Raise ValueError where the devices of a mesh cannot share a batch or its micro-batches evenly."""
    if recipe.train.compile == "pmap" and not sharding.is_plain(mesh):
        raise ValueError(f"mesh {mesh_settings}: pmap has the axis data alone; use train.compile='jit'")
    sharding.check_batch(recipe.train.batch, mesh, "train.batch")
    sharding.check_batch(recipe.train.eval_batch, mesh, "train.eval_batch")
    count, pieces = sharding.rows_of(mesh), recipe.train.accumulate
    for stream in recipe.data.streams:
        if stream.batch is not None and stream.batch % (count * pieces):
            raise ValueError(
                f"the stream {stream.name!r} has batch={stream.batch}, which cannot be divided evenly among {count} "
                f"devices and {pieces} pieces (train.accumulate); use a multiple of {count * pieces}"
            )
    if recipe.train.batch % (count * pieces):
        raise ValueError(
            f"train.accumulate is {pieces}, so a micro-batch has {recipe.train.batch // pieces} examples, which cannot "
            f"be divided evenly among {count} devices; use a train.batch that is a multiple of {count * pieces}, or "
            "fewer pieces"
        )


def remember_compilations() -> None:
    """Keep compiled programs in the cache folder, unless the user has set another one; a second start is then fast."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
