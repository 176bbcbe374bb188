"""Check the arguments of a search, and prepare its folder."""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

from tlx import config
from tlx.files.documents import read_json, records
from tlx.recipe import Recipe
from tlx.records.log import write_json
from tlx.records.studies import CELLS, CLAIMS, is_study
from tlx.tasks import Task
from tlx.training.active_run import total_steps
from tlx.training.prepare import open_data
from tlx.trees import Json, near_miss
from tlx.tune import journal
from tlx.tune.journal import PRUNERS, SAMPLERS, Pruner, Sampler
from tlx.tune.space import Space, check, format_space

SEARCH = "search.json"
Direction = Literal["maximize", "minimize"]


class Settings(NamedTuple):
    """Checked arguments of a search, as in `search`."""

    recipe: Recipe
    space: Space
    sampler: Sampler
    pruner: Pruner
    metric: str
    direction: Direction
    seed: int

    @property
    def document(self) -> Json:
        """The settings that two workers of one search must share."""
        return {
            "fingerprint": config.fingerprint(self.recipe),
            "recipe": config.dump(self.recipe),
            "space": format_space(self.space),
            "sampler": self.sampler,
            "pruner": self.pruner,
            "metric": f"validation/{self.metric}",
            "direction": self.direction,
            "seed": self.seed,
        }


def check_settings(
    recipe: Recipe,
    space: Space,
    trials: int,
    sampler: str,
    pruner: str,
    metric: str | None,
    direction: str | None,
    seed: int,
) -> Settings:
    """Check everything about a search that can be checked before it begins."""
    if trials < 1:
        raise ValueError(f"trials is {trials}; expected 1 or more")
    config.check_seed(seed, "seed")
    config.check_choice("sampler", sampler, SAMPLERS)
    config.check_choice("pruner", pruner, PRUNERS)
    config.check_choice("direction", direction or "maximize", get_args(Direction))
    journal.check_installed(sampler)
    config.check(recipe)
    if recipe.data.labels is not None and recipe.train.select != "oracle":
        raise ValueError(
            "a search chooses by the labels of the validation split, but data.labels does not grant them: declare "
            "this with train.select 'oracle'"
        )
    check(space, recipe)
    journal.check_sampler(cast(Sampler, sampler), space)
    name = check_metric(metric or recipe.task.primary, recipe.task)
    better = recipe.task.metric(name).higher_is_better
    towards = cast(Direction, direction or ("maximize" if better else "minimize"))
    return Settings(recipe, space, cast(Sampler, sampler), cast(Pruner, pruner), name, towards, seed)


def check_metric(metric: str, task: Task) -> str:
    """Return the metric's name without its split.

    Raises:
        ValueError: The metric is measured on the test split, or the task does not have it.
    """
    split, _, name = metric.rpartition("/")
    if split not in ("", "validation"):
        raise ValueError(
            f"metric is {metric!r}; a search uses the validation split only: expected a name such as "
            "'validation/accuracy'"
        )
    if name not in task.measures:
        raise ValueError(
            f"metric is {metric!r}, which {type(task).__name__} does not measure{near_miss(name, task.measures)}"
        )
    return name


def pruner_of(settings: Settings) -> Any:
    """Return Optuna's pruner for the search."""
    if settings.pruner == "none":
        return journal.pruner_of("none", 1, 1)
    train = settings.recipe.train
    splits = open_data(settings.recipe, test=False)
    steps = total_steps(settings.recipe, len(splits.train), splits.first)
    a_pass = -(-len(splits.train) // settings.recipe.batch_of(splits.first))
    return journal.pruner_of(settings.pruner, train.eval_every or a_pass, steps)


def settle(folder: Path, settings: Settings) -> None:
    """Assign the folder to the search.

    Raises:
        FileExistsError: The folder contains another search, or other files.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; choose another folder with --out")
    if folder.is_dir() and any(folder.iterdir()) and not is_search(folder):
        raise FileExistsError(f"{folder} is not empty and contains no search; choose another folder with --out")
    for name in (CLAIMS, CELLS):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with alone(folder):
        if not (folder / SEARCH).is_file():
            write_json(folder / SEARCH, settings.document)
            return
    saved = read_json(folder / SEARCH, records.SEARCH, remedy="restore the file, or choose another folder with --out")
    for name, value in settings.document.items():
        if name != "recipe" and saved[name] != value:
            same = name == "fingerprint" and saved.get("recipe") == json.loads(json.dumps(settings.document["recipe"]))
            part = "version of the source code" if same else "recipe" if name == "fingerprint" else name
            raise FileExistsError(
                f"{folder} contains a search with another {part}: {format_setting(saved[name])} there, "
                f"{format_setting(value)} in this search; choose another folder with --out"
            )


def is_search(folder: Path) -> bool:
    """Return whether the folder belongs to a search. Another process may have just begun it, and claims are created
    before the file."""
    return (folder / SEARCH).is_file() or ((folder / CLAIMS).is_dir() and not is_study(folder))


def format_setting(value: object) -> str:
    """Return a setting as text."""
    return ", ".join(f"{path}: {spec}" for path, spec in value.items()) if isinstance(value, dict) else str(value)


def alone(folder: Path) -> Any:
    """Return the lock under which the next trial is chosen and the search's own files are written."""
    from filelock import FileLock

    return FileLock(folder / CLAIMS / "search.lock")
