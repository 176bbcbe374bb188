"""Compare the settings that `tlx.finetune` chooses with those of the configs, over five paired seeds.

python experiments/finetune_defaults.py movies     # configs/minilm_movies.py
python experiments/finetune_defaults.py mnist5k    # configs/cnn_mnist.py
python experiments/finetune_defaults.py digits     # configs/vit_digits.py
python experiments/finetune_defaults.py few        # 216 labelled film reviews: all parameters, or the biases

Each is a study in runs/finetune-NAME, whose page has the paired differences with their intervals. The results are in
docs/results/finetune.md.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from tlx import Data, Optim, Recipe, Study, Train, Weights, choice, param, prod, tasks, tuning
from tlx.cli import load_recipe
from tlx.finetuning import Choices, recipe_for
from tlx.study import run_study
from tlx.study.table import markdown

CONFIGS = Path(__file__).parents[1] / "configs"
SEEDS = range(5)
# The fields of a recipe that `finetune` chooses.
FIELDS = ("data", "weights", "tuning", "optim", "train")

Settings = dict[str, dict[str, object]]


def changes(recipe: Recipe) -> dict[str, object]:
    """Return the overrides that make another recipe of the same model and data."""
    return {name: getattr(recipe, name) for name in FIELDS}


def movies() -> Study:
    """Compare on film reviews, with all parameters and with the head alone."""
    head = recipe_for("minilm-l6", "sentiment/movies", Choices(head_only=True))
    return compared("minilm_movies", "minilm-l6", {"finetune, head only": changes(head)})


def mnist5k() -> Study:
    """Compare a convolutional network on 5,000 digits, from random weights."""
    return compared("cnn_mnist")


def digits() -> Study:
    """Compare a vision transformer on 1,797 digits, from random weights."""
    return compared("vit_digits")


def few() -> Study:
    """Compare numbers of steps for 216 labelled film reviews, with all parameters and with the biases alone."""
    base = Recipe(
        data=Data(target="sentiment/movies", shots=108, tokens=56, buckets=(56,)),
        task=tasks.Classification(),
        weights=Weights("minilm-l6", pooling="mean"),
        optim=Optim(weight_decay=0.01, warmup=0.1, schedule="linear", clip=1.0),
    )
    ways = {
        "Full, 60 steps": (tuning.Full(), 2e-4, 60),
        "BitFit, 60 steps": (tuning.BitFit(), 3e-3, 60),
        "Full, 200 steps": (tuning.Full(), 2e-4, 200),
    }
    settings: Settings = {
        name: {"tuning": way, "optim.lr": rate, "train": Train(steps=steps, batch=16, eval_every=steps)}
        for name, (way, rate, steps) in ways.items()
    }
    return Study(
        base=base,
        cells=prod(param("seed", SEEDS), choice("settings", settings)),
        question="Which tuning, and how many steps, for 216 labelled sentences?",
        baseline={"settings": "Full, 60 steps"},
        smallest=0.01,
    )


def compared(name: str, model: str | None = None, more: Settings | None = None) -> Study:
    """Return the study of a config and the settings of `finetune` for its data, and for its model where `model` is
    None."""
    _, base = load_recipe(str(CONFIGS / f"{name}.py"), ())
    settings: Settings = {
        "config": {},
        "finetune": changes(recipe_for(model or base.model, str(base.data.target))),
        **(more or {}),
    }
    return Study(
        base=base,
        cells=prod(param("seed", SEEDS), choice("settings", settings)),
        question=f"Are the settings of tlx.finetune as accurate as those of configs/{name}.py?",
        baseline={"settings": "config"},
        smallest=0.01,
    )


STUDIES: dict[str, Callable[[], Study]] = {"movies": movies, "mnist5k": mnist5k, "digits": digits, "few": few}


def main() -> None:
    names = sys.argv[1:] or list(STUDIES)
    if unknown := [name for name in names if name not in STUDIES]:
        sys.exit(f"there is no study {unknown[0]!r}; expected {' or '.join(STUDIES)}")
    for name in names:
        records = run_study(STUDIES[name](), f"runs/finetune-{name}", most=1)
        print(markdown(records.folder))


if __name__ == "__main__":
    main()
