"""Write the answer in plain sentences, from the verdicts."""

from collections.abc import Sequence

from tlx.functional.significance import FEW, LEVEL, p_text
from tlx.records.studies import Comparison, StudyTable
from tlx.report import words
from tlx.report.study.links import anchors
from tlx.report.study.names import Columns, Unit, counted, metric
from tlx.trees import Json

VERDICTS = ("better", "worse", "no difference shown", "not compared")
SHOWN = 8


def answer(table: StudyTable, columns: Columns, unit: Unit) -> Json:
    """Return the sentences of the answer.

    `lead` are pieces of the first sentence, each with the verdict that it states or the anchor of its arm; `methods`
    the results per method if there are several comparisons, and `rest` the number of methods that only the table shows;
    `how` and `state` sentences.
    """
    comparisons = table.comparisons
    methods: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        methods.setdefault(columns.method(comparison.arm.names), []).append(comparison)
    listed = (
        list(methods.items())[:SHOWN]
        if len(comparisons) > 1 or any(comparison.p is None for comparison in comparisons)
        else []
    )
    summaries = [{"name": name, "verdicts": grouped(of, columns, unit, table)} for name, of in listed]
    return {
        "lead": lead(table, methods, columns, unit),
        "methods": summaries,
        "rest": max(0, len(methods) - SHOWN) if summaries else 0,
        "how": how(table, unit),
        "state": state(table),
    }


Piece = tuple[str, str]


def lead(
    table: StudyTable, methods: dict[str, list[Comparison]], columns: Columns, unit: Unit
) -> list[Piece]:  # fmt: skip
    """Return the first sentence, as `(text, verdict, anchor or "")`."""
    comparisons = table.comparisons
    if not comparisons:
        return nothing(table, columns, unit)
    bases = {columns.method(comparison.baseline.names) for comparison in comparisons}
    base = bases.pop() if len(bases) == 1 else "its baseline"
    if all(comparison.p is None for comparison in comparisons):
        text = f"Every arm has one {table.repeat}, so methods are "
        return [(text, ""), ("not compared", "not compared"), (".", "")]
    if len(comparisons) == 1:
        [comparison] = comparisons
        anchor = anchors(table, columns)[columns.arm(comparison.arm.names)]
        return single(columns.method(comparison.arm.names), base, comparison, unit, anchor, table.repeat)
    return by_method(methods, base, table.repeat) if len(methods) <= SHOWN else by_count(comparisons, base)


def by_method(methods: dict[str, list[Comparison]], base: str, repeat: str) -> list[Piece]:
    """Join methods with the same verdict in all of their settings; list each other method separately."""
    alike: dict[str, list[str]] = {verdict: [] for verdict in VERDICTS}
    mixed = []
    for name, comparisons in methods.items():
        verdicts = {comparison.verdict for comparison in comparisons}
        if len(verdicts) == 1:
            alike[verdicts.pop()].append(name)
        else:
            mixed.append(name)
    sizes = {len(comparisons) for comparisons in methods.values()}
    several = sizes != {1}
    together = several and len(sizes) == 1 and not mixed
    throughout = " in all settings" if several and not together else ""
    anywhere = " in any setting" if throughout else ""
    clauses: list[list[Piece]] = []
    for verdict, names in alike.items():
        listed = joined(names)
        if names and verdict == "no difference shown":
            clauses.append([("no difference", verdict), (f" was shown for {listed}{anywhere}", "")])
        elif names and verdict == "not compared":
            are = "is" if len(names) == 1 else "are"
            clauses.append([(f"{listed} {are} ", ""), (verdict, verdict), (f" (one {repeat})", "")])
        elif names:
            are = "is" if len(names) == 1 else "are"
            clauses.append([(f"{listed} {are} ", ""), (verdict, verdict), (throughout, "")])
    clauses += [counted_verdicts(methods[name], f"{name} is ", "settings") for name in mixed]
    where = f" in all {max(sizes)} settings," if together else ""
    pieces: list[Piece] = [(f"Against {base},{where} ", "")]
    for n, clause in enumerate(clauses):
        pieces += [("; " if n else "", ""), *clause]
    return [*pieces, (".", "")]


def by_count(comparisons: Sequence[Comparison], base: str) -> list[Piece]:
    return [*counted_verdicts(comparisons, f"Against {base}, ", "comparisons"), (".", "")]


def counted_verdicts(comparisons: Sequence[Comparison], start: str, of: str) -> list[Piece]:
    """Return `start` and the number of comparisons with each verdict."""
    pieces: list[Piece] = []
    for verdict in VERDICTS:
        number = sum(comparison.verdict == verdict for comparison in comparisons)
        if number:
            pieces += [(", " if pieces else start, ""), (verdict, verdict), (f" in {number}", "")]
    return [*pieces, (f" of {len(comparisons)} {of}", "")]


def joined(names: Sequence[str]) -> str:
    """Join names with commas and "and".

    >>> joined(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def single(name: str, base: str, comparison: Comparison, unit: Unit, anchor: str, repeat: str) -> list[Piece]:
    """Return the sentence about a single comparison."""
    difference = comparison.difference
    gap = f"{unit.gain(difference.mean)}{unit.points} {unit.gains(difference.low, difference.high)}"
    if comparison.verdict != "no difference shown":
        return [
            (f"{name} is ", ""),
            (comparison.verdict, comparison.verdict),
            (f" than {base}: ", ""),
            (gap, anchor),
            (".", ""),
        ]
    text = f" between {name} and {base} was shown: "
    return [
        ("No difference", comparison.verdict),
        (text, ""),
        (gap, anchor),
        (f"; {detectable_text(comparison, unit, repeat)}.", ""),
    ]


def nothing(table: StudyTable, columns: Columns, unit: Unit) -> list[Piece]:
    """Return the sentence for a study without comparisons: the best arm, with the reason why nothing is compared."""
    pick = max if table.higher else min
    best = pick(table.summaries, key=lambda summary: summary.mean)
    why = (
        "No arm can be compared with its baseline yet"
        if table.study.baseline
        else "The study has no baseline, so there is no comparison"
    )
    which = "highest" if table.higher else "lowest"
    label = columns.arm(best.arm.names)
    text = f"{why}. {label} has the {which} mean {metric(table.metric)}, "
    return [(text, ""), (unit.value(best.mean), anchors(table, columns)[label]), (".", "")]


def grouped(comparisons: Sequence[Comparison], columns: Columns, unit: Unit, table: StudyTable) -> list[Json]:
    """Group comparisons by verdict: `told` in words, the settings with their numbers in brackets, and the anchors of
    their runs."""
    anchor, repeat = anchors(table, columns), table.repeat
    return [
        {
            "verdict": verdict,
            "told": f"{verdict} (one {repeat})" if verdict == "not compared" else verdict,
            "items": [
                {"setting": columns.setting(comparison.arm.names), "known": difference_text(comparison, unit, repeat)}
                | {"anchor": anchor[columns.arm(comparison.arm.names)]}
                for comparison in group
            ],
        }
        for verdict in VERDICTS
        if (group := [comparison for comparison in comparisons if comparison.verdict == verdict])
    ]  # fmt: skip


def difference_text(comparison: Comparison, unit: Unit, repeat: str) -> str:
    """Return the difference with its interval as text.

    If no difference was shown, the text says why, and which difference was detectable; for one pair, it adds McNemar's
    test of the two models.
    """
    low, high = comparison.difference.low, comparison.difference.high
    text = unit.gain(comparison.difference.mean) + unit.points
    if comparison.p is None:
        return text + (
            f"; McNemar of these two models: p {p_text(comparison.mcnemar)}" if comparison.mcnemar is not None else ""
        )
    text = f"{text} {unit.gains(low, high)}"
    if comparison.verdict != "no difference shown":
        return text
    if comparison.p < 1 - LEVEL:
        text += f", p {p_text(comparison.holm)} after Holm's correction"
    return f"{text}; {detectable_text(comparison, unit, repeat)}"


def detectable_text(comparison: Comparison, unit: Unit, repeat: str) -> str:
    """Return which difference was detectable, or why none can be named."""
    if comparison.detectable is not None:
        return f"minimum detectable difference {unit.size(comparison.detectable)}{unit.points}"
    if comparison.difference.pairs < FEW:
        return f"{comparison.difference.pairs} {repeat}s are too few for a conclusion"
    return f"the {repeat}s vary too much to show any difference"


def how(table: StudyTable, unit: Unit) -> str:
    """Return the metric, the rule that chose the checkpoints, and the requirements of a verdict."""
    rules = list(dict.fromkeys(selections(table)))
    chosen = " and ".join(f"{words.rule(rule)} (selection: {rule})" for rule in rules)
    text = f"{metric(table.metric).capitalize()} at {chosen}."
    tested = [comparison for comparison in table.comparisons if comparison.p is not None]
    if not tested:
        return text
    pairs = sorted({comparison.difference.pairs for comparison in tested})
    repeats = f"{pairs[0]} to {pairs[-1]} {table.repeat}s" if len(pairs) > 1 else counted(pairs[0], table.repeat)
    if table.repeat == "fold":
        repeats += " and corrected for their common training examples (Nadeau and Bengio, 2003)"
    smallest = f" and a difference beyond {unit.size(table.smallest)}{unit.points}" if table.smallest else ""
    family = f" after Holm's correction over {len(tested)} comparisons" if len(tested) > 1 else ""
    return (
        f"{text} Brackets: 95 % t-interval of the difference, paired over {repeats}. Better or worse requires "
        f"p < 0.05{family}{smallest}."
    )


def selections(table: StudyTable) -> list[str]:
    """Return the selection rule of every cell that counts."""
    scores = [score for summary in table.summaries for score in summary.scores.values()]
    return [score.cell.result["selection"] for score in scores if score.cell.result]


def state(table: StudyTable) -> str:
    """Return the number of unfinished cells in words; empty if all are done."""
    counts = table.study.counts
    unfinished = [f"{number} {name}" for name, number in counts.items() if number and name != "done"]
    total = len(table.study.cells)
    if not unfinished:
        return ""
    since = ""
    if changed := ", ".join(table.study.changed):
        since = f" Stale cells are left out, because {changed} changed after they ran; run the study again."
    return (
        f"{counts['done']} of {total} cells are done ({', '.join(unfinished)}), so the result may still change.{since}"
    )
