"""Measure two sides of a benchmark in turns, and measure how busy the machine is.

Each side is a separate process, so the idle threads and the memory of one side do not count for the other. Both
processes live during the whole measurement: one works while the other waits. They take turns (A B, B A, A B, ...).
Before each turn the script waits for an idle machine. During the turn it measures the share of the cores that other
processes use. A pair is quiet if this share is at most a tenth in both turns. Quote only the ratios of quiet pairs.

This module also holds the common parts of the step benchmarks: the tlx side, the batches, the options, and the output.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

QUIET = 0.1
BATCH, TOKENS = 32, 64


def batches(count: int = 8) -> list[dict[str, np.ndarray]]:
    """Return batches of token ids, masks and labels; both sides use the same batches."""
    generator = np.random.default_rng(0)
    result = []
    for _ in range(count):
        lengths = generator.integers(TOKENS // 2, TOKENS + 1, BATCH)
        mask = (np.arange(TOKENS) < lengths[:, None]).astype(np.int32)
        ids = generator.integers(1000, 30522, (BATCH, TOKENS)).astype(np.int32) * mask
        label = generator.integers(0, 2, BATCH).astype(np.int32)
        result.append({"input_ids": ids, "attention_mask": mask, "token_type_ids": 0 * ids, "label": label})
    return result


def tlx_step(source: str, way: Any, dropout: float, optim: Any, steps: int) -> tuple[Any, Any, list[Any]]:
    """Compile the training step of MiniLM.

    Args:
        source: directory of the pretrained model.
        way: the tuning.
        dropout: rate of all dropout layers.
        optim: the optimiser.
        steps: length of the learning-rate schedule.

    Returns:
        The compiled step, its initial state, and the batches on the device.
    """
    import jax

    import tlx
    from tlx import models, partition, sharding, tasks
    from tlx.objectives import Supervised
    from tlx.training.step import Parts, compile_step, initial_state

    task = tasks.Classification(classes=2)
    pretrained = tlx.load_pretrained(source, task)
    rates = {"dropout": dropout, "attention_dropout": dropout, "head_dropout": dropout}
    model = models.build(replace(pretrained.model.config, **rates), task.outputs)
    params = way.insert(model, pretrained.variables.params, jax.random.key(1))
    parts = Parts(model, task, (Supervised(),), optim, partition.partition(params, way.phases(model)[0].rules))
    compiled = compile_step(parts, sharding.make_mesh())
    variables = pretrained.variables._replace(params=params)
    state = compiled.place(initial_state(parts, variables, steps, jax.random.key(0)))
    return compiled, state, [{"labelled": compiled.put(batch | {"index": np.arange(BATCH)})} for batch in batches()]


def step_function(compiled: Any, state: Any, data: list[Any]) -> Callable[[int], float]:
    """Return the function `step(number) -> loss` over the result of `tlx_step`."""

    def step(number: int) -> float:
        nonlocal state
        state, metrics = compiled.train(state, data[number % len(data)])
        return float(metrics["loss"])

    return step


def serve(step: Callable[[int], float], more: Callable[[], dict[str, Any]] = dict) -> None:
    """Read a number of steps from each line of stdin, run the steps, and print the measurements as JSON.

    The measurements are the seconds and CPU seconds per step, the last loss, the peak memory in MiB, and the entries
    that `more` returns.
    """
    number = 0
    for line in sys.stdin:
        count, start, used = int(line), time.perf_counter(), time.process_time()
        for _ in range(count):
            loss = step(number)
            number += 1
        seconds, busy = time.perf_counter() - start, time.process_time() - used
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        measurements = {"wall": seconds / count, "cpu": busy / count, "loss": loss, "peak": peak}
        print(json.dumps(measurements | more()), flush=True)


def processor() -> tuple[float, float]:
    """Return two sums over all cores since boot (Linux): busy seconds, including time taken by the hypervisor, and all
    seconds."""
    words = Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
    numbers = [float(word) / os.sysconf("SC_CLK_TCK") for word in words]
    return sum(numbers) - numbers[3] - numbers[4], sum(numbers)


def settle(patience: float) -> None:
    """Wait until the machine is idle for half a second, at most `patience` seconds."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        busy, whole = processor()
        time.sleep(0.5)
        after, total = processor()
        if after - busy <= QUIET * (total - whole):
            return


class Side:
    """One of the two processes.

    Args:
        words: arguments of the interpreter.
        huge: let glibc use huge pages.
        python: path of the interpreter.
    """

    def __init__(self, words: list[str], huge: bool = False, python: str = sys.executable) -> None:
        extra = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} if huge else {}
        self.process = subprocess.Popen(
            [python, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | extra
        )

    def run(self, steps: int) -> dict[str, Any]:
        """Run some steps in the process and return its measurements, with `others`: the share of all cores that other
        processes used meanwhile."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        busy, whole = processor()
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args} failed with exit code {self.process.wait()}; its message is above")
        after, total = processor()
        measurements = json.loads(line)
        others = (after - busy - steps * measurements["cpu"]) / max(total - whole, 1e-9)
        return measurements | {"others": max(others, 0.0)}

    def close(self) -> None:
        """End the process."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()


def turns(sides: dict[str, Side], count: int, steps: int, patience: float) -> list[dict[str, Any]]:
    """Measure `count` pairs of turns.

    Returns:
        One dictionary per pair: the measurements of each side; `ratio`, the seconds of the second side divided by the
        seconds of the first side; and `quiet`.
    """
    first, second = sides
    for side in sides.values():
        side.run(3)  # compilation, first allocations
    pairs: list[dict[str, Any]] = []
    for number in range(count):
        turn = {}
        for name in (first, second) if number % 2 == 0 else (second, first):
            settle(patience)
            turn[name] = sides[name].run(steps)
        pair: dict[str, Any] = {name: turn[name] for name in sides}
        pair["ratio"] = turn[second]["wall"] / turn[first]["wall"]
        pair["quiet"] = max(turn[name]["others"] for name in sides) <= QUIET
        pairs.append(pair)
    for side in sides.values():
        side.close()
    return pairs


def parser_of(description: str) -> argparse.ArgumentParser:
    """Return a parser of the common options of the step benchmarks."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dropout", nargs="+", type=float, default=[0.1, 0.0])
    parser.add_argument("--pairs", type=int, default=10, help="pairs of turns")
    parser.add_argument("--steps", type=int, default=2, help="steps in each turn")
    parser.add_argument(
        "--patience", type=float, default=20.0, help="seconds to wait for an idle machine before a turn"
    )
    parser.add_argument("--out", type=Path, help="folder for the table and its numbers")
    return parser


def keep(folder: Path | None, name: str, table: str, rows: list[dict[str, Any]]) -> None:
    """Write the table and the rows into the folder, unless the folder is None."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.md").write_text(table + "\n")
        (folder / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n")


def measured(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Summarise the pairs of a row: the spread of the ratios over the `quiet` pairs and over `all` pairs, and the
    `pairs`."""
    quiet = [pair["ratio"] for pair in pairs if pair["quiet"]]
    return {"quiet": spread(quiet), "all": spread([pair["ratio"] for pair in pairs]), "pairs": pairs}


def spread(ratios: list[float]) -> dict[str, float] | None:
    """Return count, minimum, median and maximum, or None if there is no ratio."""
    if not ratios:
        return None
    return {"pairs": len(ratios), "min": min(ratios), "median": statistics.median(ratios), "max": max(ratios)}


def ratios(row: dict[str, Any]) -> str:
    """Return the table cells: number of quiet pairs, their minimum, median and maximum, and the median of all pairs."""
    quiet, total = row["quiet"], row["all"]
    cells = f"0/{total['pairs']} | - | **none** | -"
    if quiet:
        cells = (
            f"{quiet['pairs']}/{total['pairs']} | {quiet['min']:.2f} | **{quiet['median']:.2f}** | {quiet['max']:.2f}"
        )
    return f"{cells} | {total['median']:.2f}"
