"""The command that measures whether sources help or hurt."""

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


class Listed(click.ParamType):
    """Values, separated by commas."""

    def __init__(self, name: str, convert: type = str):
        self.name, self.of = name, convert

    def convert(self, value: str, param: click.Parameter | None, context: click.Context | None) -> tuple:
        if not isinstance(value, str):
            return value
        try:
            return tuple(self.of(part.strip()) for part in value.split(",") if part.strip())
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers such as 0,0.3,0.7", param, context)


@main.command(
    "negative-transfer",
    section="Measure transfer",
    examples=(
        "tlx negative-transfer configs/minilm_dann.py",
        "tlx negative-transfer configs/minilm_dann.py --set data.target=sentiment/nyt",
        "tlx negative-transfer configs/minilm_dann.py --labels 0,8,0.5 --eps 0,0.7",
    ),
)
@config_argument
@set_option
@click.option(
    "--sources", type=Listed("NAME,NAME,..."), help="Data sets to test as the source [default: the source of CONFIG]."
)
@click.option("--target", hidden=True)
@click.option("--seeds", default=5, show_default=True, help="Number of seeds per arm.")
@click.option(
    "--labels", type=Listed("N,N,..."), default="0,0.1,0.5", show_default=True,
    help="Labelled target examples: a number per class, or a share such as 0.1.",
)  # fmt: skip
@click.option(
    "--eps", type=Listed("E,E,...", float), default="0", show_default=True,
    help="Shares of source examples with perturbed inputs, and of those with random labels.",
)  # fmt: skip
@click.option("--smallest", default=0.0, show_default=True, help="Smallest gap worth reporting.")
@out_option("runs/negative- and the name of the config")
@jobs_option
@place_options
@quiet_option
@mesh_option
@cluster_options
@click.option("--worker", type=float, hidden=True)
def negative_transfer(
    config: str, changes: tuple[str, ...], sources: tuple[str, ...] | None, target: str | None, seeds: int,
    labels: tuple[str, ...], eps: tuple[float, ...], smallest: float, out: str | None, jobs: int, quiet: bool,
    mesh: str | None, coordinator: str | None, processes: int | None, process: int | None, worker: float | None,
    place: RunPlace,
) -> None:  # fmt: skip
    """Measure whether each source helps or hurts on the target.

    CONFIG is a Python file with a function recipe(). Its objective is the algorithm, such as (Supervised(on='source'),
    Dann()). The command runs it with each source and number of labels. It compares the result with the same algorithm
    without the source (Wang et al., 2019), with the labels of the source or of the target alone, and with a network
    from scratch; seeds, orders and steps are equal. Run the same command again to continue where it stopped; finished
    runs are not repeated.
    """
    from tlx.analysis.negative import measure, negative_study, words
    from tlx.analysis.negative.arms import parse_labels

    join_processes(worker, coordinator, processes, process)
    if target:
        changes = (*changes, f"data.target={target}")
    fields = [change.partition("=")[0].strip() for change in changes]
    # The new target may be the source of the config, so the two change together.
    source = (f"data.source={sources[0]}",) if sources and "data.target" in fields else ()
    changed = changes if "data.source" in fields else (*changes, *source)
    _, recipe = in_all(lambda: load_recipe(config, changed))
    out = out or f"runs/negative-{Path(config).stem}"
    study = negative_study(
        recipe, sources=sources or (), labels=tuple(map(parse_labels, labels)), eps=eps, seeds=seeds, smallest=smallest
    )
    again = [file_word(config), *set_words(changes)]
    again += ["--sources", ",".join(sources)] if sources else []
    again += ["--seeds", str(seeds), "--labels", ",".join(labels), "--eps", ",".join(map(repr, eps))]
    again += [*(["--smallest", str(smallest)] if smallest else []), "--out", out]
    document = run_and_measure(
        "negative-transfer",
        study,
        again,
        worker,
        measure,
        out=out,
        jobs=jobs,
        quiet=quiet,
        file=config,
        mesh=mesh,
        place=place,
    )
    notes = (*words.advice(document), *words.notes(document))
    print_table(document["question"], words.HEADS, words.rows(document), notes)
    print_files(Path(out), "negative.json", "negative.html")
