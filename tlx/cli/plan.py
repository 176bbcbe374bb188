"""The command that plans runs and studies for chips that this machine does not have."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlx.cli.group import (
    main,
    mesh_of,
    mesh_option,
    out_option,
    print_files,
    print_table,
    quiet_option,
    set_option,
    together_option,
)
from tlx.cli.studies import load_study
from tlx.cli.user_files import NoFunction, function_of, load_recipe

if TYPE_CHECKING:
    from tlx.plan import Target
    from tlx.trees import Json

DOCUMENT, PAGE = "plan.json", "plan.html"


@main.command(
    section="Tools",
    examples=(
        "tlx plan configs/minilm_movies.py --on v5e:4x4 --on h100:8",
        "tlx plan configs/vit_digits.py --on v5e:16x16 --set train.batch=4096",
        "tlx plan my.py --on v5e:4x4 --sweep train.batch=256,512,train.remat=none,dots",
        "tlx plan my.py --on v5p:2x2x4 --sweep mesh=data=-1,data=-1:fsdp=4",
        "tlx plan experiments/labels.py --on v5e:2x2",
    ),
)
@click.argument("config")
@set_option
@click.option(
    "--on", "places", multiple=True, required=True, metavar="CHIP:FORM",
    help="Where the runs would take place: a TPU slice (v5e:4x4, v5p:2x2x4) or GPUs (h100:8).",
)  # fmt: skip
@mesh_option
@click.option(
    "--sweep", "sweeps", multiple=True, metavar="PATH=VALUE,VALUE",
    help="Plan every combination of settings, e.g. train.batch=256,512 or mesh=data=-1,data=-1:fsdp=4.",
)  # fmt: skip
@click.option(
    "--chips", "table", metavar="FILE", help="TOML table of chips [default: that of tlx, tlx/plan/chips.toml]."
)
@together_option(64)
@out_option("runs/plan- and the name of the config")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@quiet_option
def plan(
    config: str, changes: tuple[str, ...], places: tuple[str, ...], mesh: str | None, sweeps: tuple[str, ...],
    table: str | None, together: int, out: str | None, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Compile a run for absent TPUs or GPUs: memory, time, cost.

    CONFIG is a Python file with a function recipe() or study(). The training step is compiled by the chips' own
    compiler on this machine, and nothing runs. Times are ranges: a roofline bound over a stated utilisation. Without
    --mesh all chips share a batch, and a batch that they cannot share is raised. Writes plan.json and plan.html.
    """
    # The plan needs no device of this machine, and a plug-in without its chips would only delay it.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from tlx.plan import Planner, overview, parse_sweep, parse_target, plan_study, plan_sweep, read_chips
    from tlx.plan.compiling import check_compilers
    from tlx.records.log import write_json

    chips = read_chips(table)
    targets = [parse_target(text, chips) for text in places]
    check_compilers(targets)
    planner = Planner(lambda message: None if quiet else click.echo(message, err=True))
    shared = None if mesh is None else mesh_of(mesh)
    name = Path(config).stem
    folder = Path(out or f"runs/plan-{name}")
    if is_study(config):
        if sweeps:
            raise ValueError(f"{config} is a study, which is planned as it is; --sweep {sweeps[0]!r} needs a config")
        document = plan_study(planner, load_study(config, changes), name, targets, shared, together)
    else:
        recipe = load_recipe(config, changes)[1]
        settings = parse_sweep(sweeps, recipe)
        document = overview(name, recipe, plan_sweep(planner, recipe, targets, settings, shared))
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / DOCUMENT, document)
    draw(folder / PAGE, document)
    if as_json:
        click.echo(json.dumps(document, indent=2))
        return
    print_study(document) if "targets" in document else print_plans(document, targets)
    print_files(folder, DOCUMENT, PAGE)


def is_study(path: str) -> bool:
    """Return whether a user's file defines a study and no recipe."""
    try:
        function_of(path, "recipe", "config")
    except NoFunction:
        try:
            function_of(path, "study", "study")
        except NoFunction:
            return False
        return True
    return False


def draw(path: Path, document: Json) -> None:
    """Draw the page of a plan, where the packages for pages are installed."""
    from tlx import report

    if report.available():
        from tlx.report import plan as page

        page.write(path, document)


def print_plans(document: Json, targets: list[Target]) -> None:
    """Print a row for each plan, the best of a sweep, and the notes."""
    from tlx.report.plan_words import settings_text
    from tlx.report.words import duration, size

    rows = []
    for entry in document["plans"]:
        settings = settings_text(entry)
        if "error" in entry:
            rows.append([entry["target"], settings, "-", "-", entry["error"], *["-"] * 6])
            continue
        rows.append([
            entry["target"], settings or entry["mesh"], str(entry["batch"]), "yes" if entry["fits"] else "NO",
            f"{size(entry['needed'])} of {size(entry['usable'])}", *numbers(entry), duration(entry["compile_seconds"]),
        ])  # fmt: skip
    heads = ["target", "settings" if any(entry["settings"] for entry in document["plans"]) else "mesh", "batch", "fits"]
    heads += ["memory per device", "step at least", "limit", "run", "energy", "cost", "compiled in"]
    print_table(f"plan of {document['name']}", heads, rows, [])
    for line in [*memory_lines(document), *best_lines(document), *notes(document, document["plans"])]:
        click.echo(line)


def numbers(entry: Json) -> list[str]:
    """Return the bound, the limit, and the ranges of the time, the energy and the cost as texts."""
    from tlx.report.plan_words import dollars_text, energy_text, hours_text, step_text

    if entry["bound"] is None:
        return ["-"] * 5
    ranges = hours_text(entry["hours"]), energy_text(entry["kilowatt_hours"]), dollars_text(entry["dollars"])
    return [step_text(entry["bound"]["seconds"]), entry["bound"]["limit"], *ranges]


def memory_lines(document: Json) -> list[str]:
    """Return for each plan its bytes by part, operations, bytes moved and collectives."""
    from tlx.report.plan_words import settings_text
    from tlx.report.words import size

    lines = []
    for entry in document["plans"]:
        if "error" in entry:
            continue
        words = ", ".join(f"{name} {size(count)}" for name, count in entry["memory"].items() if count)
        label = f"{entry['target']} {settings_text(entry)}".strip()
        lines.append(f"{label} per device: {words}")
        if entry["bound"] is not None:
            sent = ", ".join(f"{kind} {size(count)}" for kind, count in entry["collectives"].items()) or "none"
            lines.append(
                f"  a step: {entry['flops']:.3g} operations, {size(entry['moved'])} moved; collectives: {sent}"
            )
    return lines


def best_lines(document: Json) -> list[str]:
    """Return the best settings of a sweep on each target; none without a sweep."""
    from tlx.report.plan_words import settings_text

    plans = document["plans"]
    if not any(entry["settings"] for entry in plans):
        return []
    lines = []
    for row in document["best"]:
        if row["largest"] is None:
            lines.append(f"{row['target']}: nothing fits")
            continue
        largest, fastest = plans[row["largest"]], plans[row["fastest_per_example"]]
        lines.append(
            f"{row['target']}: the largest batch that fits is {largest['batch']}; the bound per example is lowest with "
            f"{settings_text(fastest)} (mesh {fastest['mesh']})"
        )
    return lines


def notes(document: Json, plans: Sequence[Json]) -> list[str]:
    """Return the changes of batches, the notes of all plans, and what the ranges mean."""
    from tlx.report.plan_words import notes_of

    low, high = document["utilisation"]
    meaning = (
        f"times: the roofline bound over a utilisation of {high:.0%} to {low:.0%}, without evaluation, compilation and "
        "input; nothing was run on these chips"
    )
    return [f"- {line}" for line in (*notes_of(plans), meaning)]


def print_study(document: Json) -> None:
    """Print the totals of a study on each target."""
    from tlx.report.plan_words import dollars_text, energy_text, hours_text

    click.echo(document["question"])
    rows = []
    for target in document["targets"]:
        total: Any = target["total"]
        rows.append([
            target["target"], str(document["runs"]), str(document["groups"]), str(document["programs"]),
            str(target["chips"]), "yes" if total["fits"] else "NO",
            hours_text(total["hours"]), energy_text(total["kilowatt_hours"]), dollars_text(total["dollars"]),
        ])  # fmt: skip
    heads = ["target", "runs", "groups", "programs", "chips", "fits", "time of all runs", "energy", "cost"]
    print_table(f"plan of {document['name']}", heads, rows, [])
    for line in notes(document, [row for target in document["targets"] for row in target["programs"]]):
        click.echo(line)
