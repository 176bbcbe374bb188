"""Measure the time of `tlx plan` for models of three sizes on 256 absent chips, from process start to the page.

    python benchmarks/plan.py [--on v5e:16x16] [--models minilm bert vit]

Each model is planned in a new process: MiniLM as in `configs/minilm_movies.py`, BERT-base over 128 tokens from a
checkpoint of random weights that the script writes, and ViT-B/16 over 224 x 224 pixels from scratch. The extra plan-tpu
(for GPUs plan-gpu) must be installed. The script prints the seconds of each process, the seconds of processors that it
used, the seconds of its compilation, and the peak of its memory.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# The script itself needs no chip; a plug-in that looks for its chips would only complain.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

from tlx import models
from tlx.weights import load_pretrained, save_pretrained

ROOT = Path(__file__).resolve().parents[1]
BERT = """
from pathlib import Path

from tlx import Data, Optim, Recipe, Train, Weights, tasks


def recipe() -> Recipe:
    return Recipe(
        data=Data(target="sentiment/movies", tokens=128), task=tasks.Classification(classes=2),
        weights=Weights(str(Path(__file__).parent / "bert-base")),
        optim=Optim(lr=1e-4, weight_decay=0.01, clip=1.0), train=Train(steps=1000, batch=256),
    )
"""
VIT = """
import numpy as np

from tlx import Data, Optim, Recipe, Train, models, tasks
from tlx.data import Arrays


def recipe() -> Recipe:
    images, labels = np.zeros((64, 224, 224, 3), np.uint8), np.arange(64) % 4
    return Recipe(
        data=Data(target=Arrays({"image": images, "label": labels})),
        task=tasks.Classification(classes=4), model=models.Vit(),
        optim=Optim(lr=1e-4, weight_decay=0.01, clip=1.0), train=Train(steps=1000, batch=256),
    )
"""
CONFIGS = {"minilm": (ROOT / "configs" / "minilm_movies.py").read_text(), "bert": BERT, "vit": VIT}


def write_bert(folder: Path) -> None:
    """Write a BERT-base with random weights and the tokenizer of MiniLM."""
    small = load_pretrained("minilm-l6")
    model = models.build(models.Bert(), None)
    variables = models.initialise(model, jax.random.key(0))
    save_pretrained(small._replace(model=model, variables=variables, task=None), folder, untrained=True)


def measure(name: str, target: str, folder: Path) -> dict[str, float]:
    """Return the seconds and the memory of the plan of a model."""
    config = folder / f"{name}.py"
    config.write_text(CONFIGS[name])
    if name == "bert":
        write_bert(folder / "bert-base")
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "tlx.cli", "plan", str(config), "--on", target, "--out", str(folder / name)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    (plan,) = json.loads((folder / name / "plan.json").read_text())["plans"]
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "processor": busy, "compilation": plan["compile_seconds"],
            "peak of memory, GB": after.ru_maxrss / 1e6}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--on", default="v5e:16x16", help="chips to compile for")
    parser.add_argument("--models", nargs="+", choices=tuple(CONFIGS), default=list(CONFIGS))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            figures = measure(name, arguments.on, Path(folder))
            print(name, ", ".join(f"{key} {value:.1f}" for key, value in figures.items()), flush=True)
    print(f"load of the machine in the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


if __name__ == "__main__":
    main()
