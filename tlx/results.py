"""What a run says as it begins and ends, and what it leaves: model, predictions, mistakes, tables, `result.json`."""

import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tlx import config, describe, folder
from tlx.arm import Arm, phase_spans
from tlx.data import Examples, Splits, notes
from tlx.evaluate import Outcome, mistakes
from tlx.merge import apart, merge
from tlx.objectives import without_inserted
from tlx.prepare import Prepared
from tlx.records import read_metrics, write_json
from tlx.selection import gaps
from tlx.step import TrainState
from tlx.trees import flatten
from tlx.types import Variables
from tlx.weights import Pretrained, inserted, save_adapter, save_pretrained
from tlx.weights.files import write_file
from tlx.weights.form import STATS

# Learned parameters that are no more than this are kept of a study's cell.
FEW_BYTES = 8 * 2**20


def write_all(arm: Arm, state: TrainState, finish: Mapping[str, Any], leave: str = "all") -> dict[str, Any]:
    """The model, the predictions, the mistakes, the tables (`leave` "all"), or the predictions and, if they are few,
    the parameters that moved ("learned"); `result.json` last, for it says that the run is whole."""
    path, ready, recipe, outcomes, splits = arm.path, arm.ready, arm.recipe, arm.outcomes, arm.splits
    seconds = {name: round(spent, 3) for name, spent in finish["clock"].seconds.items()}
    totals = [describe.totals(ready, n) for n in range(len(ready.phases))]
    metrics = {
        f"{split}/{name}": value for split, o in outcomes.items() for name, value in o.metrics(ready.task).items()
    }
    result = {
        "fingerprint": config.fingerprint(recipe),
        "seed": recipe.seed,
        "selection": recipe.train.select,
        "selected_step": finish["selected"],
        "rules": gaps(read_metrics(path), ready.task.primary, ready.task.higher_is_better),
        "metrics": metrics,
        "parameters": {"total": totals[0]["total"], "trainable": max(total["trainable"] for total in totals)},
        "steps": finish["steps"],
        "asked_steps": arm.steps,
        "seconds": seconds,
        "examples_per_second": round(finish["timed"] * recipe.train.batch / max(seconds["train"], 1e-9), 2),
        "flops": arm.flops,
        "peak_memory_bytes": peak_memory(),
        "examples": {
            **{name: len(own) for name, own in trained_on(splits).items()},
            **{name: len(o.labels) for name, o in outcomes.items()},
            **{name: len(own) for name, own in splits.aside.items()},
        },
        "classes": list(splits.classes),
        "data": splits.fingerprint,
        "notes": odd(ready, splits, arm.steps),
        "energy": finish["energy"],
        "pack": finish["pack"],
        "prefix": list(arm.prefixes.values()),
    }
    (path / "predictions").mkdir(exist_ok=True)
    for name, outcome in outcomes.items():
        np.savez(path / "predictions" / f"{name}.npz", **outcome._asdict())
    if leave == "all":
        save_model(path, ready, state.variables)
        write_tables(path, ready, splits, outcomes.get("test"))
    else:
        save_learned(path, ready, state)
    write_json(path / folder.RESULT, result)
    return result


def write_tables(path: Path, ready: Prepared, splits: Any, tested: Outcome | None) -> None:
    """What the page shows beside the result: the worst mistakes, all parameters, the manifest, the environment."""
    if tested is not None:
        write_json(path / "mistakes.json", mistakes(tested, splits.test, ready.task))
    write_json(path / "parameters.json", describe.document(ready))
    if ready.recipe.weights is not None:
        write_json(path / folder.WEIGHTS, {"source": ready.manifest.source, "entries": ready.manifest.lines()})
    write_json(path / "environment.json", folder.environment())


def save_learned(path: Path, ready: Prepared, state: TrainState) -> None:
    """`learned.safetensors`: what moved, by path, if it is no more than `FEW_BYTES`; recipe and seed give the rest."""
    leaves = {path: np.asarray(leaf) for path, leaf in flatten(state.variables.params).items() if path in ready.moving}
    leaves |= {f"{STATS}{path}": np.asarray(leaf) for path, leaf in flatten(state.stats).items()}
    if sum(leaf.nbytes for leaf in leaves.values()) <= FEW_BYTES:
        write_file(path / folder.LEARNED, leaves)


def save_model(path: Path, ready: Prepared, found: Variables) -> None:
    """`model/`, which suffices by itself, and `adapter/` where the tuning inserted leaves.

    The model is merged into plain weights where that can be done; else its base, with the head as trained, holds the
    adapter. What terms of the objective inserted is no part of the model.
    """
    variables = found._replace(params=without_inserted(ready.model, found.params))
    trained = Pretrained(ready.model, variables, ready.processor, ready.manifest, ready.task)
    if inserted(trained):
        save_adapter(trained, path / "adapter", moved=ready.moving & flatten(ready.model.params).keys())
        if not apart(variables):
            trained = trained._replace(variables=merge(variables))
    save_pretrained(trained, path / "model")


def peak_memory() -> int:
    """Bytes: of the fullest device where it keeps count, else of this process."""
    counted = [(device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in jax.local_devices()]
    unit = 1 if sys.platform == "darwin" else 1024
    return max(counted) or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def write_page(path: Path) -> Path | None:
    """The run's page, where the extra that draws it is installed."""
    from tlx import report

    return report.write_run(path) if report.available() else None


def trained_on(splits: Splits) -> dict[str, Examples]:
    """The examples of training by stream, which is "train" where the target's labelled ones are all."""
    alone = list(splits.streams) == ["labelled"]
    return {"train": splits.train} if alone else dict(splits.streams)


def odd(ready: Prepared, splits: Splits, steps: int) -> list[str]:
    """What is odd about the data of a run, and about its phases, and yet no mistake."""
    spans = phase_spans(ready, steps)
    idle = [
        f"phase {n + 1} of {len(spans)} takes no step: its share, {phase.share:.2g} of {steps} steps, rounds to none"
        for n, (phase, (first, last)) in enumerate(zip(ready.phases, spans, strict=True))
        if first == last
    ]
    return notes(ready.recipe.data, splits, ready.recipe.train.batch) + idle


def told_at_start(ready: Prepared, splits: Any, steps: int, begin: int, path: Path) -> str:
    found = [describe.totals(ready, n) for n in range(len(ready.phases))]
    learning, total = sorted({totals["trainable"] for totals in found}), found[0]["total"]
    count = " to ".join(f"{number:,}" for number in learning[:: max(1, len(learning) - 1)])
    share = " to ".join(f"{number / total:.1%}" for number in learning[:: max(1, len(learning) - 1)])
    phases = f" in {len(found)} phases" if len(found) > 1 else ""
    data = ready.recipe.data
    named = {**trained_on(splits), "validation": splits.validation, "test": splits.test}
    sizes = (f"{len(own)} {name}" for name, own in named.items())
    told = [
        f"{' and '.join(data.sources.values())}{' to ' if data.sources else ''}{data.target}: {', '.join(sizes)}",
        f"weights {ready.manifest}" if ready.manifest.entries else "weights from scratch",
        f"{count} of {total:,} parameters learn ({share}); {steps} steps{phases} into {path}",
    ]
    told += [f"note: {note}" for note in odd(ready, splits, steps)]
    return "\n".join(told + ([f"resumed at step {begin}"] if begin else []))


def line(step: int, steps: int, measured: Mapping[str, float], criteria: Mapping[str, float]) -> str:
    told = [f"validation {name} {value:.4f}" for name, value in measured.items()]
    told += [f"criterion {name} {value:.4f}" for name, value in criteria.items()]
    return "  ".join([f"step {step}/{steps}", *told])


def told_at_end(result: Mapping[str, Any], ready: Prepared, path: Path, page: Path | None) -> str:
    split = "test" if f"test/{ready.task.primary}" in result["metrics"] else "validation"
    name = f"{split}/{ready.task.primary}"
    told = f"{name} {result['metrics'][name]:.4f} (selection: {result['selection']}, step {result['selected_step']})"
    if split == "validation":
        return f"{told}\n{path} (the test split was not looked at)"
    return f"{told}\n{page}" if page else f"{told}\n{path} (no page: pip install 'tlx[report]')"
