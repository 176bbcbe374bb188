"""Measure what a study adds to each of its cells, and the page of a large study.

    python benchmarks/cells.py [--cells 10 100 1000 10000] [--together 64] [--out FOLDER]

A cell trains a network of 70 numbers for one step on 40 pictures of 4 x 4 pixels with two labels, so its work is near
zero. Each number of cells is a new process, which first runs a study of 10 cells in order to import and to compile.
Then it measures:

  seconds per cell   from the start of the study to its table, without the page; with the processor seconds beside it,
                     which other programs on the machine change less
  page               seconds to draw the page of the study, and its megabytes
  MiB                the largest resident memory of the process

`--together 1` trains every cell alone, as a study of networks of many shapes would.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pairs import keep

RATES = 10


def study(cells: int) -> Any:
    """Return a study of `cells` cells: ten learning rates, and as many seeds as it takes."""
    import numpy as np

    from tlx import Data, Optim, Recipe, Study, Train, models, param, prod, tasks
    from tlx.data.sources import Arrays

    pictures = np.random.default_rng(0).integers(0, 256, (40, 4, 4), dtype=np.uint8)
    base = Recipe(
        data=Data(target=Arrays({"image": pictures, "label": np.arange(40) % 2})),
        task=tasks.Classification(classes=2),
        model=models.Mlp(inputs=(4, 4, 1), widths=(4,)),
        optim=Optim(lr=0.01),
        train=Train(steps=1, batch=8, eval_batch=16),
    )
    rates = [0.001 * (n + 1) for n in range(RATES)]
    return Study(
        base=base,
        cells=prod(param("optim.lr", rates), param("seed", range(cells // RATES))),
        question="How long does a cell take beside its work?",
    )


def measure(cells: int, together: int) -> dict[str, float]:
    """Run a study of `cells` cells in this process and return its seconds."""
    from tlx import report
    from tlx.study import run_study

    page: list[float] = []
    draw = report.write_study

    def timed(folder: Path) -> Any:
        start = time.perf_counter()
        drawn = draw(folder)
        page.append(time.perf_counter() - start)
        return drawn

    report.write_study = timed
    with tempfile.TemporaryDirectory() as folder:
        run_study(study(RATES), Path(folder) / "first", most=together, quiet=True)
        start, used = time.perf_counter(), time.process_time()
        planned = study(cells)
        defined = time.perf_counter() - start
        records = run_study(planned, Path(folder) / "study", most=together, quiet=True)
        seconds, processor = time.perf_counter() - start - page[-1], time.process_time() - used - page[-1]
        if records.counts["done"] != cells:
            raise SystemExit(f"expected {cells} finished cells; {records.counts}")
        size = (Path(folder) / "study" / report.study.NAME).stat().st_size
    # ru_maxrss would begin at the memory of the parent process.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return {
        "cells": cells,
        "together": together,
        "seconds per cell": seconds / cells,
        "processor seconds per cell": processor / cells,
        "definition": defined,
        "page seconds": page[-1],
        "page megabytes": size / 1e6,
        "MiB": int(status["VmHWM"].split()[0]) / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[10, 100, 1000, 10_000], help="multiples of 10")
    parser.add_argument("--together", type=int, default=64, help="cells that train in one program at most")
    parser.add_argument("--out", type=Path, help="a folder for the table and its numbers")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if wrong := [count for count in options.cells if count < RATES or count % RATES]:
        parser.error(f"--cells {wrong[0]}: expected a multiple of {RATES}")
    if options.here:
        print(json.dumps(measure(options.cells[0], options.together)))
        return
    rows = []
    table = [
        "| cells | seconds per cell | processor seconds per cell | page seconds | page MB | MiB |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    print("\n".join(table))
    for count in options.cells:
        command = [sys.executable, __file__, "--here", "--cells", str(count), "--together", str(options.together)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        row = json.loads(output.splitlines()[-1])
        rows.append(row)
        table.append(
            f"| {count:,} | {row['seconds per cell']:.3f} | {row['processor seconds per cell']:.3f} | "
            f"{row['page seconds']:.1f} | {row['page megabytes']:.1f} | {row['MiB']:.0f} |"
        )
        print(table[-1], flush=True)
    keep(options.out, "cells", "\n".join(table), rows)


if __name__ == "__main__":
    main()
