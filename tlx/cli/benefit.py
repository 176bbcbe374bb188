"""The command that measures the benefit of transfer."""

from functools import partial
from pathlib import Path

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
from tlx.training.energy import POUNDS_2018, PUE_2018


class Counts(click.ParamType):
    """Whole numbers, separated by commas."""

    name = "N,N,..."

    def convert(self, value: str, param: click.Parameter | None, context: click.Context | None) -> tuple[int, ...]:
        try:
            return tuple(int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers such as 8,16,32", param, context)


@main.command(
    section="Measure transfer",
    examples=(
        "tlx benefit configs/minilm_movies.py",
        "tlx benefit configs/minilm_movies.py --scratch optim.lr=1e-3 --shots 8,64",
    ),
)
@config_argument
@set_option
@click.option(
    "--scratch", multiple=True, metavar="PATH=VALUE",
    help="Change only the runs from scratch, e.g. optim.lr=1e-3: a rate for fine-tuning may not suit them.",
)  # fmt: skip
@click.option("--seeds", default=5, show_default=True, help="Number of seeds per arm.")
@click.option(
    "--shots",
    type=Counts(),
    help="Numbers of examples per class for the learning curve [default: those of 8,16,32,64 that the data have].",
)
@click.option(
    "--pue", type=float, default=PUE_2018, show_default=True,
    help="Power usage effectiveness of the building, in the formula of Strubell et al. (2019).",
)  # fmt: skip
@click.option(
    "--pounds-per-kwh", type=float, default=POUNDS_2018, show_default=True,
    help="Pounds of CO2e per kWh in this formula; TLX_KG_CO2E_PER_KWH is the value for the measured energy.",
)  # fmt: skip
@out_option("runs/benefit- and the name of the config")
@jobs_option
@place_options
@quiet_option
@mesh_option
@cluster_options
@click.option("--worker", type=float, hidden=True)
def benefit(
    config: str, changes: tuple[str, ...], scratch: tuple[str, ...], seeds: int, shots: tuple[int, ...] | None,
    pue: float, pounds_per_kwh: float, out: str | None, jobs: int, quiet: bool, mesh: str | None,
    coordinator: str | None, processes: int | None, process: int | None, worker: float | None, place: RunPlace,
) -> None:  # fmt: skip
    """Compare pretrained weights with training from scratch.

    The network, the data and the budget of CONFIG (a Python file with a function recipe()) are equal in both arms.
    Run the same command again to continue where it stopped; finished runs are not repeated.
    """
    from tlx.analysis.benefit import benefit_study, measure, words

    join_processes(worker, coordinator, processes, process)
    _, recipe = in_all(lambda: load_recipe(config, changes))
    out = out or f"runs/benefit-{Path(config).stem}"
    study = benefit_study(recipe, seeds=seeds, shots=shots, scratch=scratch)
    again = [file_word(config), *set_words(changes), *set_words(scratch, "--scratch")]
    again += ["--seeds", str(seeds), *(("--shots", ",".join(map(str, shots))) if shots else ()), "--out", out]
    again += ["--pue", str(pue)] if pue != PUE_2018 else []
    again += ["--pounds-per-kwh", str(pounds_per_kwh)] if pounds_per_kwh != POUNDS_2018 else []
    measured = partial(measure, pue=pue, pounds_per_kwh=pounds_per_kwh)
    card = run_and_measure(
        "benefit", study, again, worker, measured, out=out, jobs=jobs, quiet=quiet, file=config, mesh=mesh, place=place
    )
    print_table(card["question"], words.HEADS, words.rows(card), words.notes(card))
    print_files(Path(out), "benefit.json", "benefit.html")
