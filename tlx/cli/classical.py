"""The command that measures classical methods on features."""

from pathlib import Path

import click

from tlx.cli.group import config_argument, main, out_option, print_table, quiet_option, set_option
from tlx.cli.user_files import load_recipe
from tlx.trees import Json


@main.command(
    section="Measure transfer",
    examples=(
        "tlx classical configs/minilm_dann.py",
        "tlx classical configs/minilm_dann.py --methods source,coral,tca --seeds 3",
    ),
)
@config_argument
@set_option
@click.option(
    "--methods", metavar="NAME,NAME,...",
    help="Some of source, target, coral, subspace, tca, ot, kmm, kliep, tradaboost [default: all that can run].",
)  # fmt: skip
@click.option("--seeds", default=5, show_default=True, help="Number of draws of the target's labels.")
@out_option("runs/classical- and the name of the config")
@quiet_option
def classical(
    config: str, changes: tuple[str, ...], methods: str | None, seeds: int, out: str | None, quiet: bool
) -> None:
    """Measure classical transfer methods on features.

    The features are those of the model of CONFIG (a Python file with a function recipe()) before any training. Each
    method is compared with logistic regression on the source, paired by seed, on the test split of the target.
    """
    from tlx.analysis.classical import DOCUMENT, compare

    _, recipe = load_recipe(config, changes)
    out = out or f"runs/classical-{Path(config).stem}"
    chosen = None if methods is None else [name.strip() for name in methods.split(",")]
    document = compare(
        recipe, out, methods=chosen, seeds=seeds, say=None if quiet else lambda message: click.echo(message, err=True)
    )
    print_results(document)
    click.echo(Path(out) / DOCUMENT)


HEADS = (
    "method",
    "test accuracy",
    "difference to source only",
    "95 % interval over seeds",
    "over seeds and examples",
    "p, Holm",
    "verdict",
)


def print_results(document: Json) -> None:
    """Print the document on the terminal."""
    from tlx.functional.significance import p_text

    sizes = ", ".join(f"{count:,} {name}" for name, count in document["examples"].items())
    title = f"{document['source']} to {document['target']}: {sizes}; {len(document['seeds'])} seeds"
    rows = []
    for row in document["methods"]:
        gain = row.get("difference")
        compared = ("-",) * 5
        if gain is not None:
            compared = (
                f"{gain['mean']:+.4f}",
                span(gain["low"], gain["high"]),
                span(gain["examples_low"], gain["examples_high"]),
                p_text(gain["holm"]),
                gain["verdict"],
            )
        rows.append((row["name"], f"{row['accuracy']:.4f}", *compared))
    print_table(title, HEADS, rows, document["notes"])


def span(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:+.4f} to {high:+.4f}"
