"""Compare two checkouts of tlx: is the code of this checkout as fast as the code of another one?

    python benchmarks/versions.py OTHER [--what step startup ...] [--pairs 5] [--steps 3] [--out FOLDER]

OTHER is the folder of another checkout, with its own environment (`make test` creates `.venv`). Both checkouts do the
same work with their own benchmark scripts; they take turns (A B, B A, ...) in separate processes, with separate
compilation caches. The table has the ratio of seconds, this checkout / other checkout: above 1 this checkout is slower.
Only the ratios of quiet pairs are to be quoted (see `pairs.py`).

`step`, `blocks`, `head`: a step of MiniLM (everything trainable, four blocks frozen, head only), dropout 0.1.
`lora`: a step of MiniLM with LoRA of rank 8. `loop`: a step of `tlx.run` on a small CNN. `startup`: a whole process up
to the first finished step, warm compilation cache. `cache`, `no-cache`: a probe of MiniLM on 1,000 movie reviews for 20
epochs, with and without cached features. `vectorised`, `study`: 16 such probes in one compiled program, and as a study.
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
SIDES = {"cache": "prefix stored", "no-cache": "prefix plain", "vectorised": "arms packed", "study": "scripts study"}
SIZES = ["--sentences", "1000", "--epochs", "20", "--arms", "16"]
LOOP = """
import sys, tempfile
from pathlib import Path
import loop
recipe = loop.recipe("small", 300)
with tempfile.TemporaryDirectory() as folder:
    print(min(loop.ours(recipe, Path(folder) / "run") for _ in range(3)))
"""
STARTUP = """
import sys
from pathlib import Path
import startup
folder, compiled = Path(sys.argv[1]), Path(sys.argv[2])
(folder / "config.py").write_text(startup.CONFIG)
print(startup.ours(folder, compiled))
"""


def interpreter(checkout: Path) -> Path:
    """Return the Python of a checkout; raise SystemExit where it has none."""
    path = checkout / ".venv/bin/python"
    if not path.is_file():
        raise SystemExit(f"{path} does not exist: create the environment of that checkout (make test)")
    return path


def workers(what: str, checkouts: dict[str, Path], steps: int, pairs: int, patience: float) -> list[dict[str, Any]]:
    """Return the pairs of a step that two long-lived processes take in turns."""
    from tlx.assets import extract

    source = str(extract("minilm-l6"))
    words = [source, "0.1"] if what == "lora" else [source, STEPS[what], "0.1", "fused"]
    script = "lora.py" if what == "lora" else "step.py"
    sides = {
        name: Side([str(path / "benchmarks" / script), "--work", "tlx", *words], python=str(interpreter(path)))
        for name, path in checkouts.items()
    }
    return turns(sides, pairs, steps, patience)


def process(what: str, checkout: Path, cache: Path, patience: float) -> dict[str, float]:
    """Run one whole process of a checkout and return its seconds, and the share of the cores that others used."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache / "compiled")}
    python, scripts = str(interpreter(checkout)), checkout / "benchmarks"
    if what in SIDES:
        clear = "from tlx.training import feature_cache; feature_cache.clear()"
        subprocess.run([python, "-c", clear], env=environment, check=True, cwd=scripts)
    settle(patience)
    with tempfile.TemporaryDirectory() as folder:
        if what == "loop":
            command = [python, "-c", LOOP]
        elif what == "startup":
            command = [python, "-c", STARTUP, folder, str(cache / "startup")]
        else:
            part, side = SIDES[what].split()
            command = [python, "studies.py", part, *SIZES, "--side", side, "--out", folder]
        before, used, start = processor(), child_seconds(), time.perf_counter()
        done = subprocess.run(command, env=environment, cwd=scripts, capture_output=True, text=True, check=False)
        seconds, after = time.perf_counter() - start, processor()
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed in {checkout}:\n{done.stderr[-2000:]}")
    others = after[0] - before[0] - (child_seconds() - used)
    printed = done.stdout.split()
    wall = float(printed[-1]) if what in ("loop", "startup") else seconds
    return {"wall": wall, "others": max(0.0, others / max(after[1] - before[1], 1e-9))}


def child_seconds() -> float:
    """Return the CPU seconds of the child processes that have ended."""
    import resource

    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def processes(what: str, checkouts: dict[str, Path], caches: Path, pairs: int, patience: float) -> list[dict[str, Any]]:
    """Return the pairs of whole processes in turns, after one unmeasured turn that compiles."""
    first, second = checkouts
    for name, path in checkouts.items():
        process(what, path, caches / name, 0.0)
    rows: list[dict[str, Any]] = []
    for number in range(pairs):
        pair: dict[str, Any] = {}
        for name in (first, second) if number % 2 == 0 else (second, first):
            pair[name] = process(what, checkouts[name], caches / name, patience)
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
    return "\n".join([*lines, *(f"| {row['what']} | {ratios(row)} |" for row in rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choices = (*STEPS, "lora", "loop", "startup", *SIDES)
    parser.add_argument("other", type=Path, help="folder of the other checkout")
    parser.add_argument("--what", nargs="+", choices=choices, default=list(choices))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="steps in each turn of step, blocks, head and lora")
    parser.add_argument("--patience", type=float, default=20.0, help="seconds to wait for an idle machine")
    parser.add_argument("--out", type=Path, help="folder for the table and its numbers")
    options = parser.parse_args()
    # The ratio is the second's seconds over the first's.
    checkouts = {"other": options.other.resolve(), "this": HERE}
    rows = []
    with tempfile.TemporaryDirectory() as caches:
        for what in options.what:
            if what in STEPS or what == "lora":
                pairs = workers(what, checkouts, options.steps, options.pairs, options.patience)
            else:
                pairs = processes(what, checkouts, Path(caches), options.pairs, options.patience)
            rows.append({"what": what, **measured(pairs)})
            print(table(rows).splitlines()[-1], flush=True)
    print(f"\nseconds of this checkout / seconds of the other\n\n{table(rows)}")
    keep(options.out, "versions", table(rows), rows)


if __name__ == "__main__":
    sys.exit(main())
