"""The command that measures which tasks of a mixture help or hurt which others."""

from pathlib import Path
from typing import Any, cast

import click

from tlx.cli.group import (
    cluster_options,
    config_argument,
    file_word,
    in_all,
    jobs_option,
    join_processes,
    main,
    mesh_option,
    out_option,
    print_files,
    print_table,
    quiet_option,
    run_and_measure,
    set_option,
    set_words,
)
from tlx.cli.places import RunPlace, place_options
from tlx.cli.user_files import load_recipe


@main.command(
    section="Measure transfer",
    examples=(
        "tlx interference mixture.py",
        "tlx interference mixture.py --pairs --budget examples",
        "tlx interference mixture.py --set data.target.rates=equal --seeds 3",
    ),
)
@config_argument
@set_option
@click.option("--pairs", is_flag=True, help="Train each pair of members too.")
@click.option(
    "--budget", type=click.Choice(("steps", "examples")), default="steps", show_default=True,
    help="What all arms have equal: their steps, or the number of draws of each member.",
)  # fmt: skip
@click.option("--seeds", default=5, show_default=True, help="Number of seeds per arm.")
@click.option("--smallest", default=0.0, show_default=True, help="Smallest effect worth reporting.")
@out_option("runs/interference- and the name of the config")
@jobs_option
@place_options
@quiet_option
@mesh_option
@cluster_options
@click.option("--worker", type=float, hidden=True)
def interference(
    config: str, changes: tuple[str, ...], pairs: bool, budget: str, seeds: int, smallest: float, out: str | None,
    jobs: int, quiet: bool, mesh: str | None, coordinator: str | None, processes: int | None, process: int | None,
    worker: float | None, place: RunPlace,
) -> None:  # fmt: skip
    """Measure which tasks of a mixture help or hurt which others.

    The target of CONFIG (a Python file with a function recipe()) is a mixture. The command trains one model with all of
    its members, one with each member alone, and one without each member, with the same seeds. The presence of a member
    changes the score of another one by the difference of the first and the last. Run the same command again to
    continue where it stopped; finished runs are not repeated.
    """
    from tlx.analysis.interference import Interference, measure, words

    join_processes(worker, coordinator, processes, process)
    _, recipe = in_all(lambda: load_recipe(config, changes))
    out = out or f"runs/interference-{Path(config).stem}"
    plan = Interference(recipe=recipe, pairs=pairs, budget=cast(Any, budget), seeds=seeds, smallest=smallest)
    again = [file_word(config), *set_words(changes), *(["--pairs"] if pairs else []), "--budget", budget]
    again += ["--seeds", str(seeds), *(["--smallest", str(smallest)] if smallest else []), "--out", out]
    document = run_and_measure(
        "interference", plan.study, again, worker, lambda study, out, **settings: measure(plan, out, **settings),
        out=out, jobs=jobs, quiet=quiet, file=config, mesh=mesh, place=place,
    )  # fmt: skip
    print_table(document["question"], words.EFFECT_HEADS, words.effect_rows(document), words.answer(document))
    if document["pairs"]:
        print_table("pairs: with the member of the column alone", words.EFFECT_HEADS,
                    words.effect_rows(document, "pairs"), ())  # fmt: skip
    print_table("alone and in the mixture", words.TABLE_HEADS, words.table_rows(document), words.notes(document))
    print_files(Path(out), "interference.json", "interference.html")
