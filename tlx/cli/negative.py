"""The command that measures whether sources help or hurt."""

from pathlib import Path

import click

from tlx.cli.group import (
    config_argument,
    file_word,
    load_recipe,
    main,
    mesh_option,
    print_files,
    print_table,
    run_and_measure,
    set_option,
    set_words,
)


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


@main.command("negative-transfer")
@config_argument
@set_option
@click.option(
    "--sources", type=Listed("NAME,NAME,..."), help="Data sets to test as the source [default: the source of CONFIG]."
)
@click.option("--target", help="Data set of the evaluation [default: the target of CONFIG].")
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
@click.option(
    "--out", type=click.Path(file_okay=False), help="Directory of the study [default: runs/negative- and the name]."
)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Number of processes.")
@click.option("--quiet", is_flag=True, help="Print the report only.")
@mesh_option
@click.option("--worker", type=float, hidden=True)
def negative_transfer(
    config: str, changes: tuple[str, ...], sources: tuple[str, ...] | None, target: str | None, seeds: int,
    labels: tuple[str, ...], eps: tuple[float, ...], smallest: float, out: str | None, jobs: int, quiet: bool,
    mesh: str | None, worker: float | None,
) -> None:  # fmt: skip
    """Measure whether each source helps or hurts the algorithm of CONFIG on the target, with intervals.

    The objective of CONFIG is the algorithm, such as (Supervised(on='source'), Dann()). The command runs it with each
    source and number of labels. It compares the result with the same algorithm without the source (Wang et al., 2019),
    with the labels of the source or of the target alone, and with a network from scratch; seeds, orders and steps are
    equal. Run the same command again to continue where it stopped; finished runs are not repeated.
    """
    from tlx import config as configs
    from tlx.analysis.negative import measure, negative_study, words
    from tlx.analysis.negative.arms import parse_labels

    _, recipe = load_recipe(config, changes)
    if target:
        # At once, for the new target may be the config's own source.
        changed = {"target": target, **({"source": sources[0]} if sources else {})}
        recipe = configs.replace(recipe, data=configs.replace(recipe.data, **changed))
    out = out or f"runs/negative-{Path(config).stem}"
    study = negative_study(
        recipe, sources=sources or (), labels=tuple(map(parse_labels, labels)), eps=eps, seeds=seeds, smallest=smallest
    )
    again = [file_word(config), *set_words(changes)]
    again += ["--sources", ",".join(sources)] if sources else []
    again += ["--target", target] if target else []
    again += ["--seeds", str(seeds), "--labels", ",".join(labels), "--eps", ",".join(map(repr, eps))]
    again += [*(["--smallest", str(smallest)] if smallest else []), "--out", out]
    document = run_and_measure(
        "negative-transfer", study, again, worker, measure, out=out, jobs=jobs, quiet=quiet, file=config, mesh=mesh
    )
    notes = (*words.advice(document), *words.notes(document))
    print_table(document["question"], words.HEADS, words.rows(document), notes)
    print_files(Path(out), "negative.json", "negative.html")
