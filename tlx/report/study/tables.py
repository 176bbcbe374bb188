"""Write the comparison as a table for a paper or a text: LaTeX with booktabs, and Markdown."""

from collections.abc import Callable

from tlx.functional.significance import p_text
from tlx.records.studies import StudyTable, is_baseline
from tlx.report.study import names
from tlx.report.study.answer import how

ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "\N{MINUS SIGN}": "$-$", "\N{NO-BREAK SPACE}": "~", "–": "--",
    "·": r"\textperiodcentered{}",
}  # fmt: skip
HEADS = ("mean", "95 % interval", "seeds", "difference", "95 % interval", "p (Holm)", "verdict", "detectable")
SHARES = {"mean": "mean, %", "difference": "difference, points"}


def escape(text: str) -> str:
    r"""Escape a text for LaTeX.

    >>> escape("Lora(rank=8) & 50 % of a_b")
    'Lora(rank=8) \\& 50 \\% of a\\_b'
    """
    return "".join(ESCAPES.get(letter, letter) for letter in " ".join(text.split()))


def markdown_escape(text: str) -> str:
    r"""Escape a text for a cell of a Markdown table.

    >>> markdown_escape("a|b *c* <d>")
    'a\\|b \\*c\\* \\<d\\>'
    """
    plain = " ".join(text.replace("\N{NO-BREAK SPACE}", " ").split())
    return "".join(f"\\{letter}" if letter in "\\|*_`<>[]~" else letter for letter in plain)


def lines(table: StudyTable) -> tuple[list[str], list[list[str]], int]:
    """Return the heads and the rows as plain text, and the number of columns that are names."""
    columns, unit = names.columns(table), names.unit(table)
    chosen = columns.varying or columns.every
    comparisons = {id(comparison.arm): comparison for comparison in table.comparisons}
    rows = []
    for summary in table.summaries:
        arm_names, comparison = summary.arm.names, comparisons.get(id(summary.arm))
        row = [names.value(arm_names[name]) if columns.says(name, arm_names) else "–" for name in chosen]
        row += [unit.size(summary.mean), unit.span(summary.low, summary.high), str(len(summary.scores))]
        if comparison is None:
            base = bool(table.study.baseline) and is_baseline(arm_names, table.study.baseline)
            row += ["baseline" if base else "–", "–", "–", "–", "–"]
        else:
            gap = comparison.difference
            row += [unit.gain(gap.mean), unit.gains(gap.low, gap.high), p_text(comparison.holm), comparison.verdict]
            row += ["–" if comparison.detectable is None else unit.size(comparison.detectable)]
        rows.append(row)
    shares = {"seeds": "seeds" if table.repeat == "seed" else "runs"} | (SHARES if unit.share else {})
    heads = [shares.get(head, head) for head in HEADS]
    return [*(names.short(name, columns.every) for name in chosen), *heads], rows, len(chosen)


def note(table: StudyTable) -> str:
    """Return the sentence about the metric and the verdicts."""
    return how(table, names.unit(table))


def latex(table: StudyTable) -> str:
    r"""Return a LaTeX table environment; it needs `\usepackage{booktabs}`."""
    heads, rows, name_count = lines(table)
    kinds = "l" * name_count + "rlrrlrlr"
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape(table.study.question or table.study.name)} {escape(note(table))}}}",
            rf"\begin{{tabular}}{{{kinds}}}",
            r"\toprule",
            " & ".join(map(escape, heads)) + r" \\",
            r"\midrule",
            *(" & ".join(map(escape, row)) + r" \\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def markdown(table: StudyTable) -> str:
    """Return a Markdown table, with its title and a note."""
    heads, rows, name_count = lines(table)
    marks = ["---"] * name_count + ["---:", "---", "---:", "---:", "---", "---:", "---", "---:"]
    body = [[markdown_escape(text) for text in row] for row in rows]
    cells = [[markdown_escape(text) for text in heads], marks, *body]
    title = f"**{markdown_escape(table.study.question or table.study.name)}**"
    return "\n".join(
        [title, "", *("| " + " | ".join(row) + " |" for row in cells), "", markdown_escape(note(table))]
    )  # fmt: skip


FORMS: dict[str, Callable[[StudyTable], str]] = {"latex": latex, "markdown": markdown}
