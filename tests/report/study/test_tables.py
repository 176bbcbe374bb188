"""Tables for papers: every row is complete, every name is escaped, the numbers are those of the page."""

import re

import numpy as np
import pytest

from tlx import report

EVIL = r"50% of $x_1$ & {b} \ ~ ^ # <i> | *c*"


@pytest.fixture
def study(written):
    for seed in range(3):
        written.add(np.arange(100) < 50 + seed, method="a", seed=seed)
        written.add(np.arange(100) < 60 + seed**2, method=EVIL, seed=seed)
    return written.write(question=EVIL)


def test_latex_is_booktabs_with_rows_of_one_width(study):
    lines = report.table(study, "latex").splitlines()
    assert [line for line in lines if line.endswith("rule")] == [r"\toprule", r"\midrule", r"\bottomrule"]
    [columns] = re.findall(r"\\begin\{tabular\}\{([lr]+)\}", "\n".join(lines))
    rows = [line for line in lines if line.endswith(r" \\")]
    assert len(rows) == 3
    for row in rows:
        assert len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1
    escaped = (
        r"50\% of \$x\_1\$ \& \{b\} \textbackslash{} \textasciitilde{} \textasciicircum{} \# "
        r"\textless{}i\textgreater{} \textbar{} *c*"
    )
    assert rows[2].startswith(f"{escaped} & 61.7 & ")
    assert sum(escaped in line for line in lines) == 2
    assert "baseline" in rows[1]


def test_markdown_is_a_table_with_rows_of_one_width(study):
    title, blank, *rows, gap, note = report.table(study, "markdown").splitlines()
    assert (blank, gap) == ("", "")
    widths = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
    assert widths == {10}
    assert title == r"**50% of $x\_1$ & {b} \\ \~ ^ # \<i\> \| \*c\***"
    assert "| 61.7 |" in rows[-1]
    assert "paired over 3 seeds" in note


def test_the_table_has_the_numbers_of_the_page(small_study):
    table = report.table(small_study, "markdown")
    html = report.write_study(small_study).read_text(encoding="utf-8")
    for line in [line for line in table.splitlines() if line.startswith("| probe")]:
        cells = [cell.strip().replace("\\", "") for cell in line.strip("|").split("|")]
        for number in (cells[2], cells[5], cells[6], cells[9]):
            assert number in html
    assert set(re.findall(r"better|worse|no difference shown", table)) <= {"better", "worse", "no difference shown"}


def test_only_known_forms(small_study):
    with pytest.raises(KeyError):
        report.table(small_study, "html")
