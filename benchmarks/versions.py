"""Compare two checkouts of tlx: is the code of this checkout as fast as the code of another one?

    python benchmarks/versions.py OTHER [--work step startup ...] [--pairs 5] [--steps 3] [--out FOLDER]

OTHER is the folder of another checkout, with a separate environment (`make test` creates `.venv`). Both checkouts do
the same work, each with the benchmark scripts in its folder. They take turns (A B, B A, ...) in separate processes,
with separate compilation caches. The table has the ratio of seconds, this checkout / other checkout: above 1 this
checkout is slower. Quote only the ratios of quiet pairs (see `pairs.py`).

`step`, `blocks`, `head`: a step of MiniLM (all trainable, four blocks frozen, head only) at dropout 0.1.
`lora`: a step of MiniLM with LoRA of rank 8.
`loop`: a step of `tlx.run` on a small CNN.
`startup`: a process from its start to the first finished step, with a warm compilation cache.
`cache`, `no-cache`: a probe of MiniLM on 1,000 movie reviews for 20 epochs, with and without cached features.
`vectorised`, `study`: 16 such probes in one compiled program, and as a study.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pairs import Side, keep, measured, processor, ratios, settle, turns

HERE = Path(__file__).parents[1]
STEPS = {"step": "full", "blocks": "blocks", "head": "head"}
SIDES = {
    "cache": ("cache", "cached"),
    "no-cache": ("cache", "uncached"),
    "vectorised": ("vectorised", "vectorised"),
    "study": ("scripts", "study"),
}
# The names of studies.py before they were renamed on 2026-11-29. Older checkouts still use them.
OLD_SIDES = {
    "cache": ("prefix", "stored"),
    "no-cache": ("prefix", "plain"),
    "vectorised": ("arms", "packed"),
    "study": ("scripts", "study"),
}
LOOP = """
import sys, tempfile
from pathlib import Path
import loop
recipe = loop.recipe("small", 300)
with tempfile.TemporaryDirectory() as folder:
    measure = getattr(loop, "tlx_loop", None) or loop.ours  # `ours`: its name in older checkouts
    print(min(measure(recipe, Path(folder) / "run") for _ in range(3)))
"""
STARTUP = """
import sys
from pathlib import Path
import startup
folder, compiled = Path(sys.argv[1]), Path(sys.argv[2])
(folder / "config.py").write_text(startup.CONFIG)
measure = getattr(startup, "tlx_side", None) or startup.ours  # `ours`: its name in older checkouts
print(measure(folder, compiled))
"""


def interpreter(checkout: Path) -> Path:
    """Return the Python of a checkout; raise SystemExit if it has none."""
    path = checkout / ".venv/bin/python"
    if not path.is_file():
        raise SystemExit(f"{path} does not exist: create the environment of that checkout (make test)")
    return path


def steps_in_turns(
    work: str, checkouts: dict[str, Path], steps: int, pairs: int, patience: float
) -> list[dict[str, Any]]:
    """Measure one step in two processes that stay alive, and return the pairs."""
    from tlx.assets import extract

    source = str(extract("minilm-l6"))
    arguments = [source, "0.1"] if work == "lora" else [source, STEPS[work], "0.1", "fused"]
    script = "lora.py" if work == "lora" else "step.py"
    sides = {
        name: Side([str(path / "benchmarks" / script), "--work", "tlx", *arguments], python=str(interpreter(path)))
        for name, path in checkouts.items()
    }
    return turns(sides, pairs, steps, patience)


def run_process(work: str, checkout: Path, cache: Path, patience: float) -> dict[str, float]:
    """Run one process of a checkout.

    Returns:
        Its seconds, and the share of the cores that other processes used.
    """
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache / "compiled")}
    python, scripts = str(interpreter(checkout)), checkout / "benchmarks"
    if work in SIDES:
        clear = "from tlx.training import feature_cache; feature_cache.clear()"
        subprocess.run([python, "-c", clear], env=environment, check=True, cwd=scripts)
    settle(patience)
    with tempfile.TemporaryDirectory() as folder:
        if work == "loop":
            command = [python, "-c", LOOP]
        elif work == "startup":
            command = [python, "-c", STARTUP, folder, str(cache / "startup")]
        else:
            command = [python, "studies.py", *study_arguments(work, scripts), "--out", folder]
        before, used, start = processor(), child_seconds(), time.perf_counter()
        process = subprocess.run(command, env=environment, cwd=scripts, capture_output=True, text=True, check=False)
        seconds, after = time.perf_counter() - start, processor()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed in {checkout}:\n{process.stderr[-2000:]}")
    others = after[0] - before[0] - (child_seconds() - used)
    words = process.stdout.split()
    wall = float(words[-1]) if work in ("loop", "startup") else seconds
    return {"wall": wall, "others": max(0.0, others / max(after[1] - before[1], 1e-9))}


def study_arguments(work: str, scripts: Path) -> list[str]:
    """Return the arguments of studies.py for one side, in the names that the checkout uses."""
    old = '"--arms"' in (scripts / "studies.py").read_text()
    comparison, side = (OLD_SIDES if old else SIDES)[work]
    sizes = ["--sentences", "1000", "--epochs", "20", "--arms" if old else "--runs", "16"]
    return [comparison, *sizes, "--side", side]


def child_seconds() -> float:
    """Return the CPU seconds of the child processes that have ended."""
    import resource

    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def processes_in_turns(
    work: str, checkouts: dict[str, Path], caches: Path, pairs: int, patience: float
) -> list[dict[str, Any]]:
    """Measure processes from start to end in turns, after one unmeasured turn that compiles, and return the pairs."""
    first, second = checkouts
    for name, path in checkouts.items():
        run_process(work, path, caches / name, 0.0)
    rows: list[dict[str, Any]] = []
    for number in range(pairs):
        pair: dict[str, Any] = {}
        for name in (first, second) if number % 2 == 0 else (second, first):
            pair[name] = run_process(work, checkouts[name], caches / name, patience)
        pair["ratio"] = pair[second]["wall"] / pair[first]["wall"]
        pair["quiet"] = max(pair[first]["others"], pair[second]["others"]) <= 0.1
        rows.append(pair)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return the Markdown table."""
    lines = [
        "| work | quiet pairs | min | median | max | median of all pairs |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    return "\n".join([*lines, *(f"| {row['work']} | {ratios(row)} |" for row in rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choices = (*STEPS, "lora", "loop", "startup", *SIDES)
    parser.add_argument("other", type=Path, help="folder of the other checkout")
    parser.add_argument("--work", nargs="+", choices=choices, default=list(choices))
    parser.add_argument("--pairs", type=int, default=5, help="pairs of turns")
    parser.add_argument("--steps", type=int, default=3, help="steps in each turn of step, blocks, head and lora")
    parser.add_argument("--patience", type=float, default=20.0, help="seconds to wait for an idle machine")
    parser.add_argument("--out", type=Path, help="folder for the table and its numbers")
    options = parser.parse_args()
    # `turns` divides the seconds of the second side by the seconds of the first side.
    checkouts = {"other": options.other.resolve(), "this": HERE}
    rows = []
    with tempfile.TemporaryDirectory() as caches:
        for work in options.work:
            if work in STEPS or work == "lora":
                pairs = steps_in_turns(work, checkouts, options.steps, options.pairs, options.patience)
            else:
                pairs = processes_in_turns(work, checkouts, Path(caches), options.pairs, options.patience)
            rows.append({"work": work, **measured(pairs)})
            print(table(rows).splitlines()[-1], flush=True)
    print(f"\nseconds of this checkout / seconds of the other\n\n{table(rows)}")
    keep(options.out, "versions", table(rows), rows)


if __name__ == "__main__":
    sys.exit(main())
