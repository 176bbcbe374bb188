"""Measure how the cost of a training step depends on the number of devices and of processes.

    python benchmarks/scaling.py devices [--counts 1 8 64 256] [--out FOLDER]
    python benchmarks/scaling.py processes [--pairs 8] [--steps 600] [--out FOLDER]

`devices` compiles the step of a small BERT (5.3 M parameters, AdamW, all trainable) for meshes of CPU devices, from
shapes alone: nothing is computed. Each number of devices has a process with
`--xla_force_host_platform_device_count`. The meshes are data (every device has the model), fsdp (all devices share the
parameters) and tensor (up to eight devices share the work on each example, the others share the batch). A batch has
eight examples of 64 tokens for each device; with tensor, for each group of eight devices. The table has, for one
device, the FLOPs and the memory (arguments and temporaries) as the compiler counts them, and the bytes of the arrays
that its collectives produce.

`processes` measures the price of the path for several processes where there is one: `tlx run` with and without
`--coordinator 127.0.0.1:PORT --processes 1 --process 0` takes turns, and the ratio of a pair is that of the seconds per
step of the two runs, each in the fastest tenth of its windows of 25 steps: the machine may have other work.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pairs import keep

MIB, WINDOW = 2**20, 25
ROWS, TOKENS, LARGEST_TENSOR = 8, 64, 8
MESHES = ("data", "fsdp", "tensor")
BERT = {"vocabulary": 8192, "width": 256, "depth": 4, "heads": 8, "mlp": 1024, "positions": 64}
COLUMNS = {"flops": "GFLOP", "memory": "memory, MiB", "collectives": "collectives, MiB"}
CONFIG = """
from tlx import Data, Optim, Recipe, Train, models, tasks

def recipe():
    return Recipe(
        data=Data(target="digits"),
        task=tasks.Classification(classes=10),
        model=models.Mlp(inputs=(8, 8, 1), widths=(1024, 1024)),
        optim=Optim(lr=1e-3),
        train=Train(steps={steps}, batch=64, eval_every={steps}),
    )
"""


def compiled(kind: str, count: int) -> dict[str, Any]:
    """Compile the step of the small BERT on a mesh of all devices and return a row of the table.

    Args:
        kind: One of `MESHES`.
        count: The number of devices of this process.
    """
    import jax
    import numpy as np

    from tlx import Optim, models, partition, sharding, tasks, tuning
    from tlx.models import initialise
    from tlx.objectives import Supervised
    from tlx.plan.collectives import collective_bytes
    from tlx.training.placement import Placement
    from tlx.training.step import Parts, compile_step, initial_state

    sizes = {"data": {}, "fsdp": {"data": 1, "fsdp": count}, "tensor": {"tensor": min(count, LARGEST_TENSOR)}}[kind]
    mesh = sharding.make_mesh(mesh=sharding.Mesh(**sizes))
    model = models.build(models.Bert(**BERT, dropout=0.1, attention_dropout=0.1), 2)
    variables = jax.eval_shape(lambda: initialise(model, jax.random.key(0)))
    claimed = partition.partition(variables.params, tuning.Full().phases(model)[0].rules)
    parts = Parts(model, tasks.Classification(classes=2), (Supervised(),), Optim("adamw", lr=1e-3), claimed)
    form = jax.eval_shape(lambda params: initial_state(parts, params, 100, jax.random.key(0)), variables)
    state = jax.tree.map(sharding.shapes, form, Placement(parts, mesh).of_state(form))
    rows = ROWS * sharding.rows_of(mesh)
    tokens = jax.ShapeDtypeStruct((rows, TOKENS), np.int32)
    numbers = jax.ShapeDtypeStruct((rows,), np.int32)
    batch = {"input_ids": tokens, "attention_mask": tokens, "label": numbers, "index": numbers}
    placed = {"labelled": sharding.shapes(batch, sharding.by_example(mesh))}
    program = compile_step(parts, mesh).train.lower(state, placed).compile()  # type: ignore[attr-defined]
    memory, sent = program.memory_analysis(), collective_bytes(program.as_text())
    return {
        "mesh": kind,
        "devices": count,
        "flops": program.cost_analysis()["flops"] / 1e9,
        "memory": (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / MIB,
        "collectives": sum(sent.values()) / MIB,
        "collectives_by_kind": {name: size / MIB for name, size in sorted(sent.items())},
    }


def measure_devices(counts: Sequence[int]) -> list[dict[str, Any]]:
    """Return a row for each mesh and number of devices; each number has a process."""
    rows: list[dict[str, Any]] = []
    for count in counts:
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
        done = subprocess.run(
            [sys.executable, __file__, "--work", str(count)], env=os.environ | {"XLA_FLAGS": flags},
            stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        rows += json.loads(done.stdout.splitlines()[-1])
        print(f"compiled for {count} devices", file=sys.stderr, flush=True)
    return sorted(rows, key=lambda row: (MESHES.index(row["mesh"]), row["devices"]))


def devices_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the Markdown table of one device."""
    lines = [f"| mesh | devices | {' | '.join(COLUMNS.values())} |", "| --- | ---: | ---: | ---: | ---: |"]
    for row in rows:
        cells = " | ".join(f"{row[name]:.2f}" for name in COLUMNS)
        lines.append(f"| {row['mesh']} | {row['devices']} | {cells} |")
    return "\n".join(lines)


def devices_picture(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the costs of one device over the number of devices, as a PNG."""
    import altair as alt

    panels = []
    for name, title in COLUMNS.items():
        values = [{"mesh": row["mesh"], "devices": row["devices"], name: row[name]} for row in rows]
        panels.append(
            alt.Chart(alt.Data(values=values), title=f"{title}, of one device", width=220, height=180)
            .mark_line(point=True)
            .encode(
                x=alt.X("devices:Q", scale=alt.Scale(type="log", base=2), title="devices"),
                y=alt.Y(f"{name}:Q", scale=alt.Scale(zero=True), title=title),
                color=alt.Color("mesh:N", sort=list(MESHES)),
                strokeDash=alt.StrokeDash("mesh:N", sort=list(MESHES), legend=None),
            )
        )
    alt.hconcat(*panels).save(path, scale_factor=1.5)


def seconds_per_step(folder: Path, name: str, words: Sequence[str]) -> float:
    """Train once by `tlx run` and return the seconds per step in the fastest tenth of the windows of `WINDOW` steps:
    other programs on the machine only make a window slower."""
    line = [sys.executable, "-m", "tlx.cli", "run", "config.py", "--out", name, *words]
    subprocess.run(line, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    records = map(json.loads, (folder / name / "metrics.jsonl").read_text().splitlines())
    times = {record["step"]: record["time"] for record in records if record["name"] == "train/loss"}
    windows = [(times[step + WINDOW] - times[step]) / WINDOW for step in times if step + WINDOW in times]
    return statistics.quantiles(windows, n=10)[0]


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def measure_processes(pairs: int, steps: int) -> list[dict[str, Any]]:
    """Return for each pair of runs the seconds per step alone and as one of one process, and their ratio."""
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        (folder / "config.py").write_text(CONFIG.format(steps=steps))
        seconds_per_step(folder, "first", ())  # fills the caches
        for number in range(pairs):
            words = {"alone": (), "joined": joining(free_port())}
            order = list(words) if number % 2 == 0 else list(reversed(words))
            seconds = {name: seconds_per_step(folder, f"{name}-{number}", words[name]) for name in order}
            rows.append({**seconds, "ratio": seconds["joined"] / seconds["alone"]})
    return rows


def joining(port: int) -> tuple[str, ...]:
    """Return the options that start the path for several processes in a single one."""
    return ("--coordinator", f"127.0.0.1:{port}", "--processes", "1", "--process", "0")


def processes_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the Markdown table of the ratios."""
    low, middle, high = statistics.quantiles([row["ratio"] for row in rows], n=4, method="inclusive")
    alone = 1000 * statistics.median(row["alone"] for row in rows)
    return (
        "| pairs | ms per step alone | ratio with --coordinator, median [quartiles] |\n| ---: | ---: | ---: |\n"
        f"| {len(rows)} | {alone:.2f} | {middle:.3f} [{low:.3f}, {high:.3f}] |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    devices = parts.add_parser("devices", help="compile for meshes of many devices")
    devices.add_argument("--counts", nargs="+", type=int, default=[1, 8, 64, 256], help="numbers of devices")
    processes = parts.add_parser("processes", help="overhead of the path for several processes")
    processes.add_argument("--pairs", type=int, default=8, help="pairs of runs, at least 2")
    processes.add_argument("--steps", type=int, default=600, help="steps of each run")
    for part in (devices, processes):
        part.add_argument("--out", type=Path, help="folder for the table, its numbers and the picture")
    options = parser.parse_args()
    if options.part == "devices":
        rows = measure_devices(options.counts)
        name, table = "scaling-devices", devices_table(rows)
    else:
        rows = measure_processes(options.pairs, options.steps)
        name, table = "scaling-processes", processes_table(rows)
    print(table)
    keep(options.out, name, table, rows)
    if options.part == "devices" and options.out is not None:
        devices_picture(rows, options.out / "scaling-devices.png")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        print(json.dumps([compiled(kind, int(sys.argv[2])) for kind in MESHES]))
    else:
        main()
