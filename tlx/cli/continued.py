"""The command that continues the pretraining on texts of a domain or of a task."""

from pathlib import Path

import click

from tlx.cli.group import (
    cluster_options,
    command_of,
    config_argument,
    file_word,
    in_all,
    jobs_option,
    join_processes,
    main,
    mesh_option,
    out_option,
    quiet_option,
    run_and_measure,
    set_option,
    set_words,
)
from tlx.cli.places import RunPlace, place_options
from tlx.cli.studies import print_end
from tlx.cli.user_files import load_recipe


@main.command(
    section="Measure transfer",
    examples=(
        "tlx dapt configs/minilm_movies.py --set data.shots=64",
        "tlx dapt configs/minilm_movies.py --domain sentiment/amazon --lr 5e-5",
    ),
)
@config_argument
@set_option
@click.option(
    "--domain", metavar="NAME",
    help="Data set of the texts of the domain [default: all training texts of the target of CONFIG].",
)  # fmt: skip
@click.option("--pretraining-steps", default=500, show_default=True, help="Steps of language modelling in each arm.")
@click.option("--lr", default=1e-4, show_default=True, help="Learning rate of language modelling.")
@click.option("--whole-words", is_flag=True, help="Hide whole words, not pieces of words.")
@click.option("--seeds", default=5, show_default=True, help="Number of seeds per arm.")
@out_option("runs/dapt- and the name of the config")
@jobs_option
@place_options
@quiet_option
@mesh_option
@cluster_options
@click.option("--worker", type=float, hidden=True)
def dapt(
    config: str, changes: tuple[str, ...], domain: str | None, pretraining_steps: int, lr: float, whole_words: bool,
    seeds: int, out: str | None, jobs: int, quiet: bool, mesh: str | None, coordinator: str | None,
    processes: int | None, process: int | None, worker: float | None, place: RunPlace,
) -> None:  # fmt: skip
    """Measure whether continued pretraining helps a task.

    The weights of CONFIG (a Python file with a function recipe()) learn language modelling on the texts of the domain
    (DAPT), on those of the task (TAPT), or on one after the other; then the task is trained from each, and from the
    weights as they are, with the same seeds. No label and no text of the test split is read before.
    Run the same command again to continue where it stopped.
    """
    from tlx.analysis.continued import Continued, measure

    join_processes(worker, coordinator, processes, process)
    _, recipe = in_all(lambda: load_recipe(config, changes))
    out = out or f"runs/dapt-{Path(config).stem}"
    plan = Continued(recipe=recipe, domain=domain, steps=pretraining_steps, lr=lr, whole_words=whole_words, seeds=seeds)
    again = [file_word(config), *set_words(changes), *(["--domain", domain] if domain else [])]
    again += ["--pretraining-steps", str(pretraining_steps), "--lr", repr(lr)]
    again += [*(["--whole-words"] if whole_words else []), "--seeds", str(seeds), "--out", out]
    records = run_and_measure(
        "dapt", plan.study(Path(out)), again, worker, lambda study, out, **settings: measure(plan, out, **settings),
        out=out, jobs=jobs, quiet=quiet, file=config, mesh=mesh, place=place,
    )  # fmt: skip
    print_end(records, command_of("dapt", *again), quiet)
