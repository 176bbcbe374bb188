"""The messages of a run at its start and end, and the files it leaves: model, predictions, mistakes, tables,
`result.json`."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tlx import config
from tlx.data import Examples, Splits, notes
from tlx.data.members import members_by_split
from tlx.data.oddities import read_of
from tlx.files.documents import digests
from tlx.files.durable import guarded, sync_tree
from tlx.functional.metrics import document
from tlx.functional.selection import gaps
from tlx.objectives import without_inserted
from tlx.processors import vocabulary
from tlx.processors.columns import LABEL
from tlx.records import run_directory
from tlx.records.log import json_text, read_metrics, write_json
from tlx.records.members import member_lines
from tlx.records.run_directory import Predictions
from tlx.tasks import Task
from tlx.training import describe
from tlx.training.active_run import ActiveRun, phase_spans
from tlx.training.evaluate import answering, mistakes
from tlx.training.outcome_notes import constant, texts, undefined
from tlx.training.patience import rate_share, schedule_of
from tlx.training.precision import in_fewer_bits, unrounded
from tlx.training.prepare import Prepared
from tlx.training.step import TrainState
from tlx.trees import Json, flatten
from tlx.types import Variables
from tlx.weights import Pretrained, inserted, save_adapter, save_pretrained
from tlx.weights.files import write_file
from tlx.weights.form import STATS
from tlx.weights.merge import apart, merge

PAGE = "report.html"
# A schedule that has lowered the rate to this share of its peak has done its work.
DECAYED = 0.1
# Learned parameters that are no more than this are kept of a study's cell.
FEW_BYTES = 8 * 2**20


def write_all(arm: ActiveRun, state: TrainState, finish: Mapping[str, Any], leave: str = "all") -> dict[str, Any]:
    """Write the files of a finished run and return its result, as in `result.json`.

    `leave` "all" writes the model, the predictions, the mistakes and the tables; "learned" the predictions and, if they
    are few, the trained parameters. `result.json` is last, because it marks the run as complete.
    """
    path, ready, outcomes, splits = arm.path, arm.ready, arm.outcomes, arm.splits
    result = result_of(arm, finish)
    for name, predictions in outcomes.items():
        run_directory.write_predictions(path, name, predictions)
    if leave == "all":
        save_model(path, ready, state.variables)
        write_tables(path, ready, splits, outcomes.get(splits.page_split), state.variables)
    else:
        save_learned(path, ready, state)
    arm.records.flush()
    digests.write(path, {run_directory.RESULT: json_text(result)})
    # The result says that the run is finished, so everything else is on the disk before it.
    sync_tree(path)
    write_json(path / run_directory.RESULT, result, sync=True)
    return result


def result_of(arm: ActiveRun, finish: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of `result.json` of a finished run."""
    ready, recipe, outcomes, splits = arm.ready, arm.recipe, arm.outcomes, arm.splits
    clock, shorter = finish["clock"], run_directory.read(arm.path, run_directory.RECIPE).get("lengthened", [])
    seconds = {name: round(spent, 3) for name, spent in clock.seconds.items()}
    totals = [describe.totals(ready, n) for n in range(len(ready.phases))]
    metrics = finish["metrics"]
    return {
        "fingerprint": config.fingerprint(recipe),
        "seed": recipe.seed,
        "selection": recipe.train.select,
        "selected_step": finish["selected"],
        "rules": gaps(read_metrics(arm.path), ready.task.primary, ready.task.higher_is_better),
        "metrics": metrics,
        "measures": {name: document(metric) for name, metric in ready.task.measures.items()},
        "parameters": {"total": totals[0]["total"], "trainable": max(total["trainable"] for total in totals)},
        "steps": finish["steps"],
        "asked_steps": arm.steps,
        "lengthened": shorter,
        # Patience may run out at the last step too.
        "stopped": "patience" if arm.ended is not None else None if finish["steps"] == arm.steps else "judge",
        "seconds": seconds,
        "examples_per_second": round(clock.speed * recipe.batch_of(splits.first), 2),
        "flops": arm.flops,
        "peak_memory_bytes": peak_memory(),
        "examples": {
            **{name: len(examples) for name, examples in trained_on(splits).items()},
            **{name: len(predictions) for name, predictions in outcomes.items()},
            **{name: len(examples) for name, examples in splits.aside.items()},
        },
        "classes": list(splits.classes),
        # A task that reads no label leaves its kind open.
        "label": "" if ready.task.self_supervised else splits.columns[LABEL].kind,
        "task": ready.task.kept_fields,
        "columns": recorded_columns(splits),
        "data": splits.fingerprint,
        "tests": [name for name in splits.tests if name in outcomes],
        **recorded_members(splits),
        "test_split": "measured" if "test" in outcomes else "none" if splits.untested else "not looked at",
        "notes": [
            *odd(ready, splits, arm.steps),
            *longer(arm, shorter),
            *early(arm),
            *constant(ready.task, outcomes),
            *texts(ready.task, outcomes),
            *undefined(metrics),
        ],
        "energy": finish["energy"],
        "pack": finish["pack"],
        "prefix": list(arm.prefixes.values()),
    }


def write_tables(
    path: Path, ready: Prepared, splits: Splits, outcome: Predictions | None, variables: Variables
) -> None:
    """Write the page's tables: the worst mistakes on the split of the page (`Splits.page_split`), all parameters, the
    manifest, the environment."""
    if outcome is not None:
        examples = splits.by_name[splits.page_split]
        answers = answering(ready, variables, examples)
        write_json(path / "mistakes.json", mistakes(outcome, examples, ready.task, answers))
    write_json(path / "parameters.json", describe.document(ready))
    if ready.recipe.weights is not None:
        write_json(path / run_directory.WEIGHTS, {"source": ready.manifest.source, "entries": ready.manifest.lines()})
    write_json(path / "environment.json", run_directory.environment())


def save_learned(path: Path, ready: Prepared, state: TrainState) -> None:
    """Write `learned.safetensors`: the trained parameters by path, if they are at most `FEW_BYTES`; recipe and seed
    determine the rest."""
    leaves = {
        path: np.asarray(leaf) for path, leaf in flatten(state.variables.params).items() if path in ready.trainable
    }
    leaves |= {f"{STATS}{path}": np.asarray(leaf) for path, leaf in flatten(state.stats).items()}
    if sum(leaf.nbytes for leaf in leaves.values()) <= FEW_BYTES:
        write_file(path / run_directory.LEARNED, leaves)


def save_model(path: Path, ready: Prepared, final_variables: Variables) -> None:
    """Write `model/`, which can be loaded without other files, and `adapter/` where the tuning inserted leaves that the
    layers read.

    The model is merged into plain weights where that is possible; else its base, with the trained head, holds the
    adapter. Leaves that terms of the objective inserted are not part of the model.
    """
    variables = final_variables._replace(params=without_inserted(ready.model, final_variables.params))
    trained = Pretrained(ready.model, variables, ready.processor, ready.manifest, ready.task)
    if inserted(trained):
        tuning, moved = ready.recipe.tuning, ready.trainable & flatten(ready.model.params).keys()
        if not tuning.merged_in_step:
            # It is loaded onto the base as the checkpoint has it, not onto the values of a base in 8 bits.
            loaded = unrounded(variables.params, ready.pretrained.params, ready.precision)
            adapted = trained._replace(variables=variables._replace(params=loaded))
            save_adapter(adapted, path / "adapter", moved=moved, untrained=True)
        if not apart(variables, tuning):
            trained = trained._replace(variables=merge(variables, tuning))
    # The run's notes name the untrained parts of the model, so saving them is no error here.
    save_pretrained(trained, path / "model", untrained=True)


def peak_memory() -> int:
    """Return the peak memory in bytes: of the fullest device where it keeps count, else of this process."""
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in jax.local_devices()]
    return max(peaks) or peak_of_process()


def peak_of_process() -> int:
    """Return the peak memory of this process in bytes; 0 where the system does not report it."""
    with suppress(ImportError):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    # Windows has no such module.
    with suppress(ImportError, AttributeError, OSError):
        import ctypes

        # PROCESS_MEMORY_COUNTERS: two 32-bit numbers, then eight of the size of a pointer; the first is the peak.
        counters = (ctypes.c_size_t * 9)()
        size = ctypes.sizeof(counters)
        system: Any = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined]
        process = ctypes.c_void_p(system.GetCurrentProcess())
        if system.K32GetProcessMemoryInfo(process, ctypes.byref(counters), size):
            return int(counters[1])
    return 0


def write_page(path: Path, task: Task | None = None) -> Path | None:
    """Draw the page of a finished run; None where the extra that draws it is not installed.

    `task` is the run's own, with its classes, where its files cannot name it.

    Raises:
      DiskFull, StorageError: the run is finished and only the page could not be written.
    """
    from tlx import report

    if not report.available():
        return None
    with guarded(path, "draw the page with --resume; the run itself is finished"):
        return report.write_run(path, task)


def trained_on(splits: Splits) -> dict[str, Examples]:
    """Return the training examples by stream; the stream is "train" where the target's labelled examples are the only
    ones."""
    only_labelled = list(splits.streams) == ["labelled"]
    return {"train": splits.train} if only_labelled else dict(splits.streams)


def recorded_columns(splits: Splits) -> Json:
    """Return for each input and the label its kind, its samples per second if it is a sound, and the names of its
    columns in the table of the target; no names where the target is no table."""
    names = splits.validation.roles
    return {
        role: {"kind": column.kind, "rate": column.rate, "names": list(names[role]) if role in names else []}
        for role, column in splits.columns.items()
    }


def recorded_members(splits: Splits) -> Json:
    """Return, for a mixture, the rate of each member and its number of examples in each split, by name."""
    members = members_by_split(splits)
    stream = next((members[name] for name in splits.streams if name in members), None)
    if stream is None:
        return {}
    held_out = {split: members[split] for split in ("validation", *splits.measured) if split in members}
    counts = {split: part.counts.tolist() for split, part in {"train": stream, **held_out}.items()}
    rates = stream.rates.tolist()
    return {
        "members": {
            name: {"rate": rates[number], "examples": {split: by[number] for split, by in counts.items()}}
            for number, name in enumerate(stream.names)
        }
    }


def odd(ready: Prepared, splits: Splits, steps: int) -> list[str]:
    """Return notes on what is unusual about a run but not an error: its head, its data, its phases, the pieces of its
    batches."""
    spans = phase_spans(ready, steps)
    idle = [
        f"phase {n + 1} of {len(spans)} has no steps: its share, {phase.share:.2g} of {steps} steps, rounds to 0"
        for n, (phase, (first, last)) in enumerate(zip(ready.phases, spans, strict=True))
        if first == last
    ]
    recipe = ready.recipe
    of_data = notes(recipe.data, splits, recipe.train.batch, ready.processor)
    classes = len(splits.classes)
    if classes and (ready.task.outputs or 0) > classes:
        counts = f"the task has {ready.task.outputs} classes and the data have {classes}"
        of_data.append(f"{counts}: there are no examples of the other classes")
    of_task = balanced(ready)
    for name, examples in read_of(splits).items():
        if examples.labelled:
            labels = (examples.light(position)[LABEL] for position in range(len(examples)))
            of_task += ready.task.label_notes(name, labels)
    of_step = in_pieces(ready) + in_fewer_bits(ready.precision)
    return ready.notes + of_data + of_task + idle + of_step + vocabulary.notes(ready.processor)


def balanced(ready: Prepared) -> list[str]:
    """Return a note with the weights of the classes that a balanced task has computed."""
    if ready.recipe.task.class_weights != "balanced":
        return []
    pairs = list(zip(ready.task.names, ready.task.class_weights, strict=True))
    listed = ", ".join(f"{name} {weight:.3g}" for name, weight in pairs[:8])
    more = f", ... and {len(pairs) - 8} more" if len(pairs) > 8 else ""
    return [f"balanced weights of the classes: {listed}{more}"]


def in_pieces(ready: Prepared) -> list[str]:
    """Return a note for each part of a step that sees the pieces of a batch separately where `train.accumulate` cuts
    it."""
    recipe, train, lines = ready.recipe, ready.recipe.train, list[str]()
    if train.accumulate == 1:
        return []
    size = f"each of {train.accumulate} pieces of {train.batch // train.accumulate} examples (train.accumulate)"
    # A fixed batch norm uses its running statistics, not those of a batch; a bias among them is a constant.
    modes = [ready.parts(phase).evaluation_mode for phase in range(len(ready.partitions))]
    fixed = [tuple(f"{name}/" for name in (mode.still - mode.moving) | mode.fixed) for mode in modes]
    moments = [path for path in flatten(ready.model.stats) if not path.endswith("/bias")]
    if any(not path.startswith(prefixes) for path in moments for prefixes in fixed):
        lines.append(f"batch norm computes its statistics on {size}, not on the whole batch")
    for term in recipe.objective:
        if term.needs(recipe.data.stream_names).features is None:
            lines.append(
                f"{type(term).__name__} is computed on {size} separately; a term that compares examples should declare "
                "needs with features=True, and any other term with features=False"
            )
    return lines


def longer(run: ActiveRun, shorter: Sequence[Json]) -> list[str]:
    """Return notes on a run that was lengthened: the meaning of its schedule, and validations that a run of the new
    length does not have."""
    if not shorter:
        return []
    message = f"the run was lengthened after {' and after '.join(str(entry['steps']) for entry in shorter)} steps"
    recipe = run.recipe
    extra = [str(entry["steps"]) for entry in shorter if entry["steps"] % run.eval_every]
    more = [
        f"the validation after step {step} is one that a run of the new length does not have: train.eval_every is "
        f"{run.eval_every}; the choice of the checkpoint and the patience count it"
        for step in extra
    ]
    if recipe.optim.schedule == "constant" and not recipe.optim.warmup:
        return [message, *more]
    return [
        *more,
        f"{message}: until then its schedule {recipe.optim.schedule!r} was that of the shorter run, and from there on "
        "that of the new length, so its numbers differ from those of a run of the new length",
    ]


def early(run: ActiveRun) -> list[str]:
    """Return a note on a run that lost patience, with the course of its rate until then."""
    if run.ended is None or run.ended == run.steps:
        return []
    parts, phase = run.ready.parts(len(run.spans) - 1), run.ready.phases[-1]
    name, waits = schedule_of(parts), run.recipe.train.patience
    validations = "1 validation" if waits == 1 else f"{waits} validations"
    message = f"the run ended at step {run.ended} of {run.steps}: {validations} without a better measurement"
    share = rate_share(parts, run.ended - 1, run.spans[-1] if phase.restart else (0, run.steps))
    if name == "plateau":
        times = "once" if run.patience.falls == 1 else f"{run.patience.falls} times"
        return [f"{message}, after the rate was divided by {parts.optim.plateau_divisor} {times}"]
    if name == "constant" or share < DECAYED:
        return [message]
    return [
        f"{message}; the rate was still {share:.0%} of its peak, because the schedule {name!r} lowers it over all "
        f"{run.steps} steps: schedule='plateau' lowers it before a run ends early"
    ]


def start_message(ready: Prepared, splits: Any, steps: int, begin: int, path: Path) -> str:
    """Return the message at the start of a run: data, weights, parameters, steps, notes."""
    totals_by_phase = [describe.totals(ready, n) for n in range(len(ready.phases))]
    learning, total = sorted({totals["trainable"] for totals in totals_by_phase}), totals_by_phase[0]["total"]
    count = " to ".join(f"{number:,}" for number in learning[:: max(1, len(learning) - 1)])
    share = " to ".join(f"{number / total:.1%}" for number in learning[:: max(1, len(learning) - 1)])
    phases = f" in {len(totals_by_phase)} phases" if len(totals_by_phase) > 1 else ""
    data = ready.recipe.data
    examples_by_name = {**trained_on(splits), "validation": splits.validation}
    examples_by_name |= splits.measured
    sizes = (f"{len(examples)} {name}" for name, examples in examples_by_name.items())
    lines = [
        f"{' and '.join(map(str, data.sources.values()))}{' to ' if data.sources else ''}{data.target}: "
        + ", ".join(sizes),
        f"weights {ready.manifest}" if ready.manifest.entries else "weights from scratch",
        f"{count} of {total:,} parameters are trainable ({share}); {steps} steps{phases}; output in {path}",
    ]
    lines += [f"note: {note}" for note in odd(ready, splits, steps)]
    return "\n".join(lines + ([f"resumed at step {begin}"] if begin else []))


def line(step: int, steps: int, measured: Mapping[str, float], criteria: Mapping[str, float]) -> str:
    """Return the progress line of a validation."""
    parts = [f"validation {name} {value:.4f}" for name, value in measured.items()]
    parts += [f"criterion {name} {value:.4f}" for name, value in criteria.items()]
    return "  ".join([f"step {step}/{steps}", *parts])


def end_message(result: Json, run: ActiveRun, page: Path | None) -> str:
    """Return the message at the end of a run: the primary metric, notes, and where the page or the folder is."""
    ready, path = run.ready, run.path
    split = "test" if f"test/{ready.task.primary}" in result["metrics"] else "validation"
    name = f"{split}/{ready.task.primary}"
    message = f"{name} {result['metrics'][name]:.4f} (selection: {result['selection']}, step {result['selected_step']})"
    message += "".join(f"\n{text}" for text in member_lines(result, split, ready.task.primary))
    message += "".join(
        f"\nnote: {note}"
        for note in [*longer(run, result["lengthened"]), *early(run), *constant(ready.task, run.outcomes)]
    )
    if result["test_split"] == "not looked at":
        return f"{message}\n{path} (the test split was not evaluated)"
    return f"{message}\n{page}" if page else f"{message}\n{path} (no page: pip install 'tlx[report]')"
