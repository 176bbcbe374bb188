"""Optuna's side of a search: the journal that workers share, the next trial, the sampler and the pruner.

A trial of Optuna contains numbers and texts; a `Point` contains the recipe's own values. This module converts between
them.
"""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from tlx import config
from tlx.files.documents import read_lines
from tlx.files.documents.checks import Record, Whole
from tlx.tune.space import Categorical, Integers, Point, Range, Space, draw_point, grid

# The attribute of a trial that holds the numbers of its group.
TOGETHER = "together"
JOURNAL, NAME = "journal.log", "tlx"
Sampler = Literal["tpe", "random", "grid", "cmaes"]
Pruner = Literal["none", "hyperband"]
SAMPLERS, PRUNERS = get_args(Sampler), get_args(Pruner)
LINE = Record({"op_code": Whole(0, 99)})
RESTORE = "restore the file, or choose another folder with --out"
# These samplers know all their points before the first trial.
UP_FRONT = ("random", "grid")


def check_installed(sampler: str) -> None:
    """Raise ImportError, which names the extra, if a package that the search needs is missing."""
    needed = ("optuna", "cmaes") if sampler == "cmaes" else ("optuna",)
    if lacking := [name for name in needed if find_spec(name) is None]:
        raise ImportError(f"a search by {sampler} needs {' and '.join(lacking)}: pip install 'tlx[search]'")


class JournalTurn:
    """The lock under which the journal is written.

    The kernel frees it however its holder dies. A line that a dead holder left half written is removed before the next
    line.
    """

    def __init__(self, path: Path):
        from filelock import FileLock

        self.path, self.lock = path, FileLock(f"{path}.lock")

    def acquire(self) -> bool:
        self.lock.acquire()
        with open(self.path, "r+b") as stream:
            content = stream.read()
            if content and not content.endswith(b"\n"):
                stream.truncate(content.rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        self.lock.release()


def open_study(storage: Any, direction: str, pruner: Any) -> Any:
    """Return the study in a journal; create it if there is none."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(
        storage=storage, study_name=NAME, direction=direction, pruner=pruner, load_if_exists=True
    )


def open_storage(out: Path) -> Any:
    """Return the journal of the folder `out`."""
    from optuna.storages import JournalStorage, journal

    path = out / JOURNAL
    if not path.exists():
        path.touch()
    read_lines(path, LINE, remedy=RESTORE)
    with readable(out):
        return JournalStorage(journal.JournalFileBackend(str(path), lock_obj=JournalTurn(path)))


@contextmanager
def readable(out: Path) -> Iterator[None]:
    """Convert errors of Optuna about a damaged journal into ValueError, which names the file."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise ValueError(
            f"{out / JOURNAL} is damaged ({reason}); expected the journal of a search; {RESTORE}"
        ) from error


def check_trials(study: Any, space: Space, out: Path) -> None:
    """Raise ValueError if a trial of the journal has no point of the space."""
    with readable(out):
        for trial in study.get_trials(deepcopy=False):
            values = [trial.value if trial.state.name == "COMPLETE" else None, *trial.intermediate_values.values()]
            if invalid := [
                value for value in values if value is not None and not (is_number(value) and math.isfinite(value))
            ]:
                raise ValueError(f"trial {trial.number} has the value {invalid[0]!r}")
            params = trial.params | trial.system_attrs.get("fixed_params", {})
            if space.keys() <= params.keys():
                point = to_point(space, params)
                suspects = [path for path, value in point.items() if not fits(space[path], value)]
                if suspects:
                    raise ValueError(f"trial {trial.number} has {suspects[0]}={point[suspects[0]]!r}")


def fits(spec: Any, value: object) -> bool:
    """Return whether a spec may choose this value."""
    if isinstance(spec, Categorical):
        return True
    return is_number(value) and bool(spec.low <= value <= spec.high)


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def again(study: Any, storage: Any, number: int) -> Any:
    """Return the trial of that number, which a worker began, to be continued."""
    import optuna

    study_id = storage.get_study_id_from_name(NAME)
    return optuna.trial.Trial(study, storage.get_trial_id_from_study_id_trial_number(study_id, number))


def begin(study: Any, storage: Any, number: int) -> Any:
    """Return the trial of that number, which was waiting, as a running trial."""
    import optuna

    trial_id = storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name(NAME), number)
    storage.set_trial_state_values(trial_id, state=optuna.trial.TrialState.RUNNING)
    return optuna.trial.Trial(study, trial_id)


def enqueue(study: Any, space: Space, points: Sequence[Point], largest: int) -> None:
    """Add trials at these points, each with the numbers of its group.

    A group has at most `largest` trials. They are consecutive, and one worker executes them together.
    """
    first = len(study.get_trials(deepcopy=False))
    for n, point in enumerate(points):
        start = n - n % largest
        group = list(range(first + start, first + min(start + largest, len(points))))
        study.enqueue_trial(to_params(space, point), user_attrs={TOGETHER: group})


def group_of(every: Sequence[Any], number: int) -> list[int]:
    """Return the numbers of the trials in the same group; only this trial if no group is recorded."""
    group = every[number].user_attrs.get(TOGETHER, [number])
    return [n for n in group if n < len(every) and every[n].user_attrs.get(TOGETHER, [n]) == group]


def close(study: Any, number: int, state: str, value: float | None) -> None:
    """End the trial of that number: "done" with its value, "stopped" or "failed"."""
    from optuna.trial import TrialState

    if state == "done":
        study.tell(number, value)
    else:
        study.tell(number, state=TrialState.PRUNED if state == "stopped" else TrialState.FAIL)


def pruner_of(name: Pruner, every: int, steps: int) -> Any:
    """Return Hyperband (Li et al., 2018) in training steps, from the first validation to the last; or no pruner."""
    import optuna

    if name == "none":
        return optuna.pruners.NopPruner()
    if steps < 2 * every:
        raise ValueError(
            f"hyperband needs two validations or more in a run, but a run of {steps} steps has one validation "
            f"every {every} steps: set train.eval_every lower"
        )
    return optuna.pruners.HyperbandPruner(min_resource=every, max_resource=steps, reduction_factor=3)


def sampler_of(name: Sampler, seed: int, number: int) -> Any:
    """Return the sampler for the trial of that number.

    It is a new sampler each time, so that a resumed search proposes the same points as an uninterrupted one, and
    workers do not propose the same points.
    """
    import optuna

    trial_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    if name == "tpe":
        return optuna.samplers.TPESampler(seed=trial_seed, constant_liar=True)
    if name == "cmaes":
        # CMA-ES cannot search unordered values; they are drawn at random.
        return optuna.samplers.CmaEsSampler(seed=trial_seed, warn_independent_sampling=False)
    return optuna.samplers.RandomSampler(seed=trial_seed)


def check_sampler(name: Sampler, space: Space) -> None:
    """Raise ValueError if the sampler cannot search the space."""
    if name == "grid":
        grid(space)
    numbers = [path for path, spec in space.items() if not isinstance(spec, Categorical)]
    if name == "cmaes" and len(numbers) < 2:
        raise ValueError(f"cmaes needs at least two numeric ranges, but the space has {len(numbers)}; use tpe")


def points(name: Sampler, space: Space, seed: int, trials: int) -> list[Point]:
    """Return at most `trials` points of a sampler that knows its points beforehand."""
    return grid(space)[:trials] if name == "grid" else [draw_point(space, seed, number) for number in range(trials)]


def suggested(trial: Any, space: Space) -> Point:
    """Return the point of a trial: the values that it already has, and the sampler's proposals for the rest."""
    point: Point = {}
    for path, spec in space.items():
        if isinstance(spec, Range):
            point[path] = trial.suggest_float(path, spec.low, spec.high, log=spec.log)
        elif isinstance(spec, Integers):
            point[path] = trial.suggest_int(path, spec.low, spec.high, step=spec.step)
        else:
            point[path] = spec.by_text[trial.suggest_categorical(path, list(spec.by_text))]
    return point


def to_params(space: Space, point: Point) -> dict[str, Any]:
    """Convert a point to the parameters of Optuna."""
    return {
        path: config.source(point[path]) if isinstance(spec, Categorical) else point[path]
        for path, spec in space.items()
    }


def to_point(space: Space, params: Mapping[str, Any]) -> Point:
    """Convert the parameters of Optuna to a point, in the order of the space."""
    return {
        path: spec.by_text[params[path]] if isinstance(spec, Categorical) else params[path]
        for path, spec in space.items()
    }


def importances(study: Any) -> dict[str, float]:
    """Return the importance of each path, as its share of the difference between the best trials and the others
    (PED-ANOVA, Watanabe et al., 2023); empty if too few trials finished."""
    from optuna.exceptions import ExperimentalWarning
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(trials) < 4 or len({trial.value for trial in trials}) < 2:
        return {}
    with warnings.catch_warnings():
        # Before Optuna 5 this evaluator was experimental, and another one was the default.
        warnings.simplefilter("ignore", ExperimentalWarning)
        shares = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return {path: float(share) for path, share in shares.items()}
