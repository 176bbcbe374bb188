"""Compare repeated layers that run as one loop with layers that are compiled one by one.

    python benchmarks/scan.py [--models bert vit] [--ways full lora] [--compiles 3] [--pairs 5] [--steps 2]
                              [--batch 8] [--depth 12] [--on v5e:2x2] [--out FOLDER]

The models have the shapes of BERT-base and ViT-B and random weights; nothing is downloaded. The step is that of tlx
with AdamW and clipping, for all parameters or for LoRA of rank 8. Texts have 64 tokens, images 224 x 224 pixels.

Compilation: the sides take turns (A B, B A, ...), each time in a fresh process without a compilation cache. The table
has the ratio of the seconds of tracing, lowering and compiling, layers one by one / loop: above 1 the loop is faster.
The ratio of CPU seconds, over all threads, depends less on other processes. Step: the last two processes take turns
(`pairs.py`). The table has the seconds of a step in a loop / one by one: above 1 the loop is slower. Quote only the
ratios of quiet pairs.

`--on` compiles for a TPU that this machine does not have (pip install libtpu, in the version that jax[tpu] names), and
runs no step.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from pairs import Side, keep, measured, ratios, serve, settle, spread, step_function, turns

TOKENS, PIXELS, STEPS = 64, 224, 10_000
LAYERS = {"one by one": "unrolled", "loop": "loop"}


def parts_and_state(name: str, way: str, layers: str, depth: int) -> tuple[Any, Any]:
    """Return the static half of the step, and the function that makes its initial state."""
    import jax

    from tlx import Optim, models, partition, tasks, tuning
    from tlx.objectives import Supervised
    from tlx.training.step import Parts, initial_state
    from tlx.types import Variables

    config = {"bert": models.Bert, "vit": models.Vit}[name](depth=depth)
    model, how = models.build(config, 2), {"full": tuning.Full(), "lora": tuning.Lora(rank=8)}[way]
    insert = jax.jit(lambda key: how.insert(model, models.initialise(model, key).params, key))
    shapes = jax.eval_shape(insert, jax.random.key(0))
    optim = Optim("adamw", lr=2e-5, weight_decay=0.01, warmup=0.01, schedule="linear", clip=1.0)
    claimed = partition.partition(shapes, how.phases(model)[0].rules)
    parts = Parts(model, tasks.Classification(classes=2), (Supervised(),), optim, claimed, layers=layers)

    def state(params: Any) -> Any:
        return initial_state(parts, Variables(params, {}), STEPS, jax.random.key(0))

    return parts, (state, insert, shapes)


def batch_of(name: str, rows: int) -> dict[str, Any]:
    """Return a random batch."""
    import numpy as np

    random = np.random.default_rng(0)
    common = {"label": np.arange(rows, dtype=np.int32) % 2, "index": np.arange(rows, dtype=np.int32)}
    if name == "vit":
        return common | {"image": random.normal(size=(rows, PIXELS, PIXELS, 3)).astype(np.float32)}
    ids = random.integers(1000, 30522, (rows, TOKENS)).astype(np.int32)
    return common | {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def devices_of(topology: str) -> Any:
    """Return the mesh of this machine, or of the TPU `topology`."""
    import jax

    from tlx import sharding

    if not topology:
        return sharding.make_mesh(jax.devices()[:1])
    from jax.experimental import topologies

    return sharding.make_mesh(topologies.get_topology_desc(topology, platform="tpu").devices)


def work(name: str, way: str, layers: str, rows: int, depth: int, topology: str) -> None:
    """Compile one side, and serve its steps where the program runs on this machine."""
    import jax

    from tlx import sharding
    from tlx.training.placement import Placement
    from tlx.training.step import compile_step

    parts, (state_of, insert, shapes) = parts_and_state(name, way, layers, depth)
    mesh, batch = devices_of(topology), batch_of(name, rows)
    compiled = compile_step(parts, mesh)
    form = jax.eval_shape(state_of, shapes)
    placed = jax.tree.map(sharding.shapes, form, Placement(parts, mesh).of_state(form))
    start, used = time.perf_counter(), time.process_time()
    lowered = compiled.train.lower(placed, {"labelled": sharding.shapes(batch, sharding.by_example(mesh))})
    program = lowered.compile()
    measurements = {
        "compile": time.perf_counter() - start,
        "compile_cpu": time.process_time() - used,
        "temporaries": program.memory_analysis().temp_size_in_bytes / 2**20,
    }
    if topology:
        # There is no step to run: the measurements of the compilation are those of its turn.
        serve(lambda number: 0.0, lambda: measurements)
        return
    state = compiled.place(state_of(insert(jax.random.key(0))))
    runs = compiled._replace(train=program)
    serve(step_function(runs, state, [{"labelled": compiled.put(batch)}]), lambda: measurements)


def compare(name: str, way: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure both sides of one model and one tuning, and return a row of the table."""
    compilations: list[dict[str, Any]] = []
    sides: dict[str, Side] = {}
    for number in range(options.compiles):
        for side in sides.values():
            side.close()
        sides, pair = {}, {}
        for layers in sorted(LAYERS, reverse=number % 2 == 1):
            settle(options.patience)
            words = [name, way, LAYERS[layers], str(options.batch), str(options.depth), options.on]
            sides[layers] = Side([__file__, "--work", *words])
            pair[layers] = sides[layers].run(1)
        compilations.append(pair)
    sides = {layers: sides[layers] for layers in LAYERS}
    row: dict[str, Any] = {"model": name, "way": way, "compilations": compilations}
    for measure in ("compile", "compile_cpu"):
        row[measure] = spread([pair["one by one"][measure] / pair["loop"][measure] for pair in compilations])
    if options.on:
        for side in sides.values():
            side.close()
        return row | {"step": None}
    return row | {"step": measured(turns(sides, options.pairs, options.steps, options.patience))}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the Markdown table."""
    lines = [
        "| model | trained | compile, s, one by one / loop | ratio | ratio of CPU seconds | temporaries, MiB "
        "| quiet pairs | min | step, loop / one by one | max | median of all pairs |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        seconds, memory = (
            " / ".join(
                f"{statistics.median(pair[side][measure] for pair in row['compilations']):{form}}" for side in LAYERS
            )
            for measure, form in (("compile", ".1f"), ("temporaries", ".0f"))
        )
        step = ratios(row["step"]) if row["step"] else "- | - | - | - | -"
        lines.append(
            f"| {row['model']} | {row['way']} | {seconds} | {row['compile']['median']:.2f} "
            f"| {row['compile_cpu']['median']:.2f} | {memory} | {step} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=("bert", "vit"), default=["bert", "vit"])
    parser.add_argument("--ways", nargs="+", choices=("full", "lora"), default=["full", "lora"], help="tunings")
    parser.add_argument("--compiles", type=int, default=3, help="pairs of compilations")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of turns of steps")
    parser.add_argument("--steps", type=int, default=2, help="steps in each turn")
    parser.add_argument("--patience", type=float, default=20.0, help="seconds to wait for an idle machine")
    parser.add_argument("--batch", type=int, default=8, help="rows of a batch")
    parser.add_argument("--depth", type=int, default=12, help="layers of the models")
    parser.add_argument("--on", default="", metavar="TOPOLOGY", help="compile for this TPU, for example v5e:2x2")
    parser.add_argument("--out", type=Path, help="folder for the table and its numbers")
    options = parser.parse_args()
    rows = []
    for name in options.models:
        for way in options.ways:
            rows.append(compare(name, way, options))
            print(table(rows).splitlines()[-1], flush=True)
    kind = f"for {options.on}" if options.on else "on this machine"
    print(f"\n{kind}, {options.depth} layers, batches of {options.batch} rows\n\n{table(rows)}")
    keep(options.out, "scan", table(rows), rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
        work(*sys.argv[2:5], int(sys.argv[5]), int(sys.argv[6]), sys.argv[7])
    else:
        main()
