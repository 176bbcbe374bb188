"""The learning rate range test: train with a rate that grows from step to step, and suggest rates from the losses.

Smith (2017, section 3.3), with the smoothing, the stop and the four suggestions of fastai's `lr_find`.
"""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from tlx import config, optim, sharding
from tlx.partition import Partition
from tlx.recipe import Recipe
from tlx.records import run_directory
from tlx.records.progress import Progress
from tlx.training.active_run import setting
from tlx.training.loop import check_devices, remember_compilations
from tlx.training.prepare import Prepared, open_data, prepare, training_batches
from tlx.training.step import compile_step, initial_state, memories
from tlx.trees import Json
from tlx.tuning.base import parametric

LINES, PAGE = "lr_find.jsonl", "lr_find.html"
ALL = "all"
SMOOTHING, STOP = 0.98, 4.0
# How each rule chooses its rate, in words.
RULES = {
    "valley": "the middle of the long descent of the loss",
    "slide": "the last rate before the steep descent ends",
    "minimum": "a tenth of the rate with the lowest loss",
    "steep": "the rate at which the loss falls fastest",
}
# The recommended rule, as in fastai. Below this relative fall of the loss there is nothing to recommend; beyond this
# factor between the lowest and the highest suggestion the curve needs a look.
RECOMMENDED, FALL, APART = "valley", 0.02, 100.0


class Curve(NamedTuple):
    """One test: `rates`, `losses` and `smoothed` by step; `suggestions` by rule, None where the curve is too short."""

    group: str
    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestions: dict[str, float | None]

    @property
    def recommended(self) -> float | None:
        """Return the recommended learning rate; None where the test shows none."""
        return self.suggestions[RECOMMENDED] if self.falls else None

    @property
    def falls(self) -> bool:
        """Return whether the loss falls enough for a recommendation."""
        losses = [loss for loss in self.smoothed if math.isfinite(loss)]
        return bool(losses) and min(losses) < losses[0] - FALL * abs(losses[0])

    @property
    def reason(self) -> str:
        """Return why this rate is recommended, or why none is."""
        if self.suggestions[RECOMMENDED] is None:
            return "the test is too short to recommend a rate; raise --steps or lower --start"
        if not self.falls:
            return (
                "the loss hardly falls at any learning rate, so no rate is recommended; check the data, or raise --end"
            )
        rates = [rate for rate in self.suggestions.values() if rate]
        factor = max(rates) / min(rates)
        doubt = f"; the rules differ by a factor of {factor:.0f}, so look at the curve" if factor > APART else ""
        return f"{RECOMMENDED}: {RULES[RECOMMENDED]}{doubt}"


def find(
    recipe: Recipe,
    out: str | Path,
    *,
    steps: int = 100,
    start: float = 1e-7,
    end: float = 10.0,
    per_group: bool = False,
    quiet: bool = False,
    mesh: sharding.Mesh = sharding.Mesh(),
) -> list[Curve]:
    """Run the range test and write `lr_find.jsonl` and, where the extra is installed, `lr_find.html`.

    Every test begins at the same fresh state and sees the same batches as a run of the recipe. The rate grows from
    `start` to `end` in equal ratios; a rule's multiplier still applies, schedules and warm-up do not. A test ends where
    the smoothed loss exceeds four times its minimum.

    Args:
        recipe: The recipe; its first phase is tested.
        out: The folder of the results.
        steps: The number of steps of a test.
        start: The first rate.
        end: The last rate.
        per_group: Run a separate test for every stage that learns in some phase.
        quiet: Print nothing.
        mesh: The number of devices along each axis.

    Returns:
        A curve for each test.

    Raises:
        ValueError: The range or the number of steps is invalid.
        FileExistsError: `out` is a file or the folder of a run.
    """
    check_range(steps, start, end)
    path = Path(out)
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file; choose another folder with --out")
    with run_directory.writing(path):
        if (path / run_directory.RECIPE).is_file():
            raise FileExistsError(
                f"{path} contains a run, and tlx does not overwrite it; choose another folder with --out"
            )
        return _find(recipe, path, steps, start, end, per_group, quiet, mesh)


def _find(
    recipe: Recipe,
    path: Path,
    steps: int,
    start: float,
    end: float,
    per_group: bool,
    quiet: bool,
    mesh_settings: sharding.Mesh,
) -> list[Curve]:
    """Run the tests of `find` and write them into a folder that is locked."""
    config.check(recipe)
    check_devices(recipe, mesh_settings)
    mesh = sharding.make_mesh(mesh=mesh_settings)
    remember_compilations()
    splits = open_data(recipe)
    ready = prepare(recipe, splits)
    groups = partitions_of(ready) if per_group else {ALL: ready.partitions[0]}
    memory = memories(recipe.objective, setting(ready, splits))
    curves = []
    with Progress(steps * len(groups), 0, recipe.batch_of(splits.first), quiet) as progress:
        for number, (group, claimed) in enumerate(groups.items()):
            batches = training_batches(ready, splits)
            rates = [start * (end / start) ** (n / (steps - 1)) for n in range(steps)]
            curve = traced(ready, group, claimed, rates, batches, memory, mesh, progress, number * steps)
            curves.append(curve)
            if len(groups) > 1:
                progress.say(f"{group}: {len(curve.rates)} of {steps} steps")
    path.mkdir(parents=True, exist_ok=True)
    write_lines(path / LINES, curves)
    from tlx import report

    if report.available():
        from tlx.report import range_test

        range_test.write(path / PAGE, curves, config.dump(recipe), RULES)
    return curves


def check_range(steps: int, start: float, end: float) -> None:
    """Raise ValueError for fewer than two steps or an empty range."""
    if steps < 2:
        raise ValueError(f"steps is {steps}; a range test needs 2 or more")
    if not 0 < start < end < math.inf:
        raise ValueError(
            f"start is {start:g} and end is {end:g}; expected 0 < start < end, because the learning rate grows from "
            "start to end"
        )


def partitions_of(ready: Prepared) -> dict[str, Partition]:
    """Return for every stage that learns in some phase, from the top, the partition in which only it learns, with the
    rules of the last phase that trains it. Parameters outside of all stages form separate groups, by the first part of
    their path."""
    partitions_by_group: dict[str, Partition] = {}
    stages = list(reversed(parametric(ready.model)))
    for path in ready.partitions[0]:
        claims = [parts[path] for parts in ready.partitions if parts[path] is not None]
        if claims:
            group = next((name for name in stages if path.startswith(f"{name}/")), path.split("/")[0])
            partitions_by_group.setdefault(group, dict.fromkeys(ready.partitions[0]))[path] = claims[-1]
    order = {name: n for n, name in enumerate(stages)}
    return {
        name: partitions_by_group[name]
        for name in sorted(partitions_by_group, key=lambda name: (order.get(name, len(order)), name))
    }


def traced(
    ready: Prepared,
    group: str,
    claimed: Partition,
    rates: Sequence[float],
    batches: Any,
    memory: Any,
    mesh: Mesh,
    progress: Progress,
    offset: int,
) -> Curve:
    """Return one curve from a fresh state."""
    recipe = ready.recipe
    averaged = any(term.needs(recipe.data.stream_names).average for term in recipe.objective)
    claimed = {path: learn and learn._replace(schedule=None) for path, learn in claimed.items()}
    parts = ready.parts(0)._replace(
        optim=replace(recipe.optim, schedule="constant", warmup=0.0),
        partition=claimed,
        layout=optim.layout(ready.model, [claimed], turns=ready.turns),
        # An average that no term reads only costs memory.
        ema=recipe.train.ema if averaged else None,
    )
    compiled = compile_step(parts, mesh)
    key = jax.random.fold_in(jax.random.key(recipe.seed), 2)
    state = compiled.place(initial_state(parts, ready.variables, len(rates), key, memory))
    losses: list[float] = []
    smoothed: list[float] = []
    for step, rate in enumerate(rates):
        numbers = state.numbers | {"optim": state.numbers["optim"] | {"lr": jnp.float32(rate)}}
        state = state._replace(numbers=jax.device_put(numbers, sharding.replicated(mesh)))
        with counted(progress, compiles=step == 0):
            state, metrics = compiled.train(state, compiled.put(next(batches)))
            losses.append(float(metrics["loss"]))
        smoothed = smooth(losses)
        progress.step(offset + step + 1, losses[-1], rate)
        if not math.isfinite(losses[-1]) or smoothed[-1] > STOP * min(smoothed):
            break
    rates_taken = list(rates[: len(losses)])
    return Curve(group, rates_taken, losses, smoothed, suggest(rates_taken, smoothed, len(rates)))


@contextmanager
def counted(progress: Progress, compiles: bool) -> Iterator[None]:
    """Count the seconds of a step within the block, as compilation if it `compiles` its program."""
    if compiles:
        with progress.clock("compile"), progress.compiling("training step", None):
            yield
        progress.begin_phase()
    else:
        with progress.clock("train"):
            yield
        progress.clock.steps += 1


def smooth(losses: Sequence[float], keep: float = SMOOTHING) -> list[float]:
    """Return the exponential moving average, corrected for its start.

    >>> smooth([2.0, 1.0], keep=0.5)
    [2.0, 1.3333333333333333]
    """
    mean, averages = 0.0, list[float]()
    for count, loss in enumerate(losses, 1):
        mean = keep * mean + (1 - keep) * loss
        averages.append(mean / (1 - keep**count))
    return averages


def suggest(rates: Sequence[float], smoothed: Sequence[float], steps: int) -> dict[str, float | None]:
    """Return the four suggestions. As in fastai, the first tenth of the test and its last five steps do not count."""
    pairs = [pair for pair in zip(rates, smoothed, strict=True) if math.isfinite(pair[1])][steps // 10 : -5]
    if len(pairs) < 3:
        return dict.fromkeys(("valley", "slide", "minimum", "steep"))
    x, y = (np.asarray(column) for column in zip(*pairs, strict=True))
    return {"valley": valley(x, y), "slide": slide(x, y), "minimum": minimum(x, y), "steep": steep(x, y)}


def valley(rates: np.ndarray, losses: np.ndarray) -> float:
    """Return the middle of the second third of the valley: the longest falling subsequence of the losses, whose span is
    taken to be its number of steps back from where it first ends."""
    length = np.ones(len(losses), int)
    for n in range(1, len(losses)):
        above = length[:n][losses[:n] > losses[n]]
        length[n] = 1 + above.max(initial=0)
    last = int(length.argmax())
    third = length[last] / 3
    return float(rates[max(last - int(length[last]) + int(third) + int(third / 2), 0)])


def slide(rates: np.ndarray, losses: np.ndarray, width: int = 15, threshold: float = 0.005) -> float | None:
    """Return the rate at the left end of an interval of `width` steps that slides down from the end of the test until
    the slopes at its two ends differ by at most `threshold`; one step before that. None where the test is shorter."""
    if len(losses) <= width:
        return None
    slopes = np.gradient(losses)
    right = len(losses) - 1
    left = right - width
    while right - width >= 0 and abs(slopes[right] - slopes[right - width]) > threshold:
        left = right - width
        right -= 1
    return float(rates[left])


def minimum(rates: np.ndarray, losses: np.ndarray) -> float:
    """Return a tenth of the rate at the lowest loss."""
    return float(rates[losses.argmin()] / 10)


def steep(rates: np.ndarray, losses: np.ndarray) -> float:
    """Return the rate at which the loss falls most by the logarithm of the rate."""
    return float(rates[(np.diff(losses) / np.diff(np.log(rates))).argmin()])


def write_lines(path: Path, curves: Sequence[Curve]) -> None:
    """Write one JSON line for each step, then one for each suggestion; a number that is not finite is null."""
    lines: list[Json] = []
    for curve in curves:
        rows = zip(curve.rates, curve.losses, curve.smoothed, strict=True)
        for step, (rate, loss, mean) in enumerate(rows, 1):
            lines.append(
                {"group": curve.group, "step": step, "rate": rate, "loss": finite(loss), "smoothed": finite(mean)}
            )
        lines += [{"group": curve.group, "suggestion": name, "rate": rate} for name, rate in curve.suggestions.items()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def finite(value: float) -> float | None:
    """Return the value; None where it is not finite."""
    return value if math.isfinite(value) else None
