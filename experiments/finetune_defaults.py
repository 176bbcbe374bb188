"""Compare the settings that `tlx.finetune` chooses with those of the configs, over five paired seeds.

python experiments/finetune_defaults.py movies     # configs/minilm_movies.py
python experiments/finetune_defaults.py digits     # configs/cnn_mnist.py

Each is a study in runs/finetune-NAME, whose page has the paired differences with their intervals. The results are in
docs/results/finetune.md.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from tlx import Recipe, Study, choice, param, prod
from tlx.cli import load_recipe
from tlx.finetuning import Choices, recipe_for
from tlx.study import run_study
from tlx.study.table import markdown

CONFIGS = Path(__file__).parents[1] / "configs"
SEEDS = range(5)
# The fields of a recipe that `finetune` chooses.
FIELDS = ("data", "weights", "tuning", "optim", "train")


def changes(recipe: Recipe) -> dict[str, object]:
    """Return the overrides that make another recipe of the same model and data."""
    return {name: getattr(recipe, name) for name in FIELDS}


def movies() -> Study:
    """Compare on film reviews, with all parameters and with the head alone."""
    _, base = load_recipe(str(CONFIGS / "minilm_movies.py"), ())
    settings = {
        "config": {},
        "finetune": changes(recipe_for("minilm-l6", "sentiment/movies")),
        "finetune, head only": changes(recipe_for("minilm-l6", "sentiment/movies", Choices(head_only=True))),
    }
    return compared(base, settings, "Are the settings of tlx.finetune as accurate as those of minilm_movies.py?")


def digits() -> Study:
    """Compare on 5,000 digits, from random weights."""
    _, base = load_recipe(str(CONFIGS / "cnn_mnist.py"), ())
    settings = {"config": {}, "finetune": changes(recipe_for(base.model, "mnist5k"))}
    return compared(base, settings, "Are the settings of tlx.finetune as accurate as those of cnn_mnist.py?")


def compared(base: Recipe, settings: dict[str, dict[str, object]], question: str) -> Study:
    cells = prod(choice("settings", settings), param("seed", SEEDS))
    return Study(base=base, cells=cells, question=question, baseline={"settings": "config"}, smallest=0.01)


STUDIES: dict[str, Callable[[], Study]] = {"movies": movies, "digits": digits}


def main() -> None:
    names = sys.argv[1:] or list(STUDIES)
    if unknown := [name for name in names if name not in STUDIES]:
        sys.exit(f"there is no study {unknown[0]!r}; expected {' or '.join(STUDIES)}")
    for name in names:
        records = run_study(STUDIES[name](), f"runs/finetune-{name}", most=1)
        print(markdown(records.folder))


if __name__ == "__main__":
    main()
