"""Two sides of a benchmark, measured in turns: a process each, at a pipe, and how busy the machine was meanwhile. With
what the benchmarks of a step share: our side, the batches, options, and how a row is told and kept.

Each side is a process of its own, so that neither's idle threads nor its memory count for the other, and both live as
long as the measurement: one works while the other waits. They take turns (A B, B A, A B, ...). Each turn waits for an
idle machine, and what other processes use of the cores meanwhile is measured. A pair is quiet where that is at most a
tenth in both turns; only the ratios of quiet pairs are to be quoted.
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
    """Token ids, mask and labels, the same on both sides."""
    draw = np.random.default_rng(0)
    made = []
    for _ in range(count):
        lengths = draw.integers(TOKENS // 2, TOKENS + 1, BATCH)
        mask = (np.arange(TOKENS) < lengths[:, None]).astype(np.int32)
        ids = draw.integers(1000, 30522, (BATCH, TOKENS)).astype(np.int32) * mask
        label = draw.integers(0, 2, BATCH).astype(np.int32)
        made.append({"input_ids": ids, "attention_mask": mask, "token_type_ids": 0 * ids, "label": label})
    return made


def our_step(source: str, how: Any, dropout: float, optim: Any, steps: int) -> tuple[Any, Any, list[Any]]:
    """The compiled step of MiniLM under the tuning `how`, its first state, and the batches on the device."""
    import jax

    import tlx
    from tlx import models, partition, sharding, tasks
    from tlx.objectives import Supervised
    from tlx.training.step import Parts, compile_step, initial_state

    task = tasks.Classification(classes=2)
    brought = tlx.load_pretrained(source, task)
    still = {"dropout": dropout, "attention_dropout": dropout, "head_dropout": dropout}
    model = models.build(replace(brought.model.config, **still), task.outputs)
    params = how.insert(model, brought.variables.params, jax.random.key(1))
    parts = Parts(model, task, (Supervised(),), optim, partition.partition(params, how.phases(model)[0].rules))
    compiled = compile_step(parts, sharding.make_mesh())
    variables = brought.variables._replace(params=params)
    state = compiled.place(initial_state(parts, variables, steps, jax.random.key(0)))
    return compiled, state, [{"labelled": compiled.put(batch | {"index": np.arange(BATCH)})} for batch in batches()]


def walker(compiled: Any, state: Any, data: list[Any]) -> Callable[[int], float]:
    """`step(number) -> loss` of `our_step`."""

    def step(number: int) -> float:
        nonlocal state
        state, metrics = compiled.train(state, data[number % len(data)])
        return float(metrics["loss"])

    return step


def answer(step: Callable[[int], float], more: Callable[[], dict[str, Any]] = dict) -> None:
    """Answers each line `steps` with the seconds and CPU seconds a step, the last loss, the peak memory in MiB, and
    what `more` tells."""
    number = 0
    for line in sys.stdin:
        count, start, used = int(line), time.perf_counter(), time.process_time()
        for _ in range(count):
            loss = step(number)
            number += 1
        seconds, busy = time.perf_counter() - start, time.process_time() - used
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        told = {"wall": seconds / count, "cpu": busy / count, "loss": loss, "peak": peak}
        print(json.dumps(told | more()), flush=True)


def processor() -> tuple[float, float]:
    """Seconds that all cores together were busy, with what the hypervisor took, and were there at all (Linux)."""
    words = Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
    numbers = [float(word) / os.sysconf("SC_CLK_TCK") for word in words]
    return sum(numbers) - numbers[3] - numbers[4], sum(numbers)


def settle(patience: float) -> None:
    """Waits until the machine was idle for half a second, or `patience` is at its end."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        busy, whole = processor()
        time.sleep(0.5)
        after, total = processor()
        if after - busy <= QUIET * (total - whole):
            return


class Side:
    """One of the two processes: `words` are the arguments of the interpreter `python`."""

    def __init__(self, words: list[str], huge: bool = False, python: str = sys.executable) -> None:
        extra = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} if huge else {}
        self.process = subprocess.Popen(
            [python, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | extra
        )

    def run(self, steps: int) -> dict[str, Any]:
        """What the worker answers, and `others`: the share of all cores that other processes used meanwhile."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        busy, whole = processor()
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        answered = self.process.stdout.readline()
        if not answered:
            raise SystemExit(f"{self.process.args} ended with {self.process.wait()}; its message is above")
        after, total = processor()
        told = json.loads(answered)
        others = (after - busy - steps * told["cpu"]) / max(total - whole, 1e-9)
        return told | {"others": max(others, 0.0)}

    def close(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()


def turns(sides: dict[str, Side], count: int, steps: int, patience: float) -> list[dict[str, Any]]:
    """`count` pairs of what the two sides answered, whose `ratio` is the second's seconds over the first's."""
    first, second = sides
    for side in sides.values():
        side.run(3)  # compilation, first allocations
    pairs: list[dict[str, Any]] = []
    for number in range(count):
        found = {}
        for name in (first, second) if number % 2 == 0 else (second, first):
            settle(patience)
            found[name] = sides[name].run(steps)
        pair: dict[str, Any] = {name: found[name] for name in sides}
        pair["ratio"] = found[second]["wall"] / found[first]["wall"]
        pair["quiet"] = max(found[name]["others"] for name in sides) <= QUIET
        pairs.append(pair)
    for side in sides.values():
        side.close()
    return pairs


def options_of(told: str) -> argparse.ArgumentParser:
    """What every such benchmark may be asked for; `told` is its docstring."""
    parser = argparse.ArgumentParser(description=told, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dropout", nargs="+", type=float, default=[0.1, 0.0])
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=2, help="steps in each turn")
    parser.add_argument(
        "--patience", type=float, default=20.0, help="seconds to wait for an idle machine before a turn"
    )
    parser.add_argument("--out", type=Path, help="folder for the table and its numbers")
    return parser


def keep(folder: Path | None, name: str, table: str, rows: list[dict[str, Any]]) -> None:
    """Writes the table and the rows into the folder, where one is given."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.md").write_text(table + "\n")
        (folder / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n")


def measured(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """What a row says of its pairs: the spread of the ratios of the `quiet` ones and of `all`, and the `pairs`."""
    quiet = [pair["ratio"] for pair in pairs if pair["quiet"]]
    return {"quiet": spread(quiet), "all": spread([pair["ratio"] for pair in pairs]), "pairs": pairs}


def spread(ratios: list[float]) -> dict[str, float] | None:
    if not ratios:
        return None
    return {"pairs": len(ratios), "min": min(ratios), "median": statistics.median(ratios), "max": max(ratios)}


def ratios(row: dict[str, Any]) -> str:
    """Cells of a table: how many pairs were quiet, their min, median and max, and the median of all pairs."""
    quiet, every = row["quiet"], row["all"]
    told = f"0/{every['pairs']} | - | **none** | -"
    if quiet:
        told = (
            f"{quiet['pairs']}/{every['pairs']} | {quiet['min']:.2f} | **{quiet['median']:.2f}** | {quiet['max']:.2f}"
        )
    return f"{told} | {every['median']:.2f}"
