"""Write Markdown of GitHub's form with foreign texts in it: no name, path or note changes the structure of the page."""

import re
from collections.abc import Iterable, Sequence

# Signs that begin or end a form of Markdown, HTML, mathematics or a link, and those that begin a list.
SIGNS = re.compile(r"[\\`*_\[\]<>#|~$&@^]|:(?=//)|(?<=www)\.|^[-+]|(?<=^\d)[.)]")
# Control characters, and those that change the direction of the text after them.
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]")


def one_line(text: str) -> str:
    """Return a text on one line: white space becomes a space, another control character the replacement character.

    >>> one_line("a\\n---\\nb")
    'a --- b'
    """
    return CONTROLS.sub("\N{REPLACEMENT CHARACTER}", " ".join(text.split()))


def plain(text: str) -> str:
    r"""Return a foreign text as running text or as a cell of a table.

    >>> plain("a|b *c*")
    'a\\|b \\*c\\*'
    """
    return SIGNS.sub(r"\\\g<0>", one_line(text)) or "(empty)"


def code(text: str) -> str:
    """Return a foreign text as code within a line; its fence is longer than any in the text. Not for a table.

    >>> code("runs/demo"), code("a`b")
    ('`runs/demo`', '`` a`b ``')
    """
    line = one_line(text)
    fence = "`" * (longest_run("`", line) + 1)
    pad = " " if "`" in line else ""
    return f"{fence}{pad}{line}{pad}{fence}" if line else "(empty)"


def block(lines: str, language: str = "") -> str:
    """Return a block of code; its fence is longer than any in the code.

    >>> block("x = 1", "python")
    '```python\\nx = 1\\n```'
    """
    fence = "`" * max(3, longest_run("`", lines) + 1)
    return f"{fence}{language}\n{lines}\n{fence}"


def longest_run(sign: str, text: str) -> int:
    """Return the length of the longest run of a sign."""
    return max((len(run) for run in re.findall(f"{re.escape(sign)}+", text)), default=0)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; the cells are Markdown, foreign texts as from `plain`.

    >>> print(table(("a", "b"), [("1", "2")]))
    | a | b |
    | --- | --- |
    | 1 | 2 |
    """
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def items(lines: Iterable[str]) -> str:
    """Return a list of Markdown lines."""
    return "\n".join(f"* {line}" for line in lines)
