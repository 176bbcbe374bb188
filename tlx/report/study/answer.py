"""The answer in plain sentences, made of the verdicts."""

from collections.abc import Sequence
from typing import Any

from tlx.functional.significance import FEW, LEVEL, p_text
from tlx.records.studies import Comparison, Table
from tlx.report.study.links import anchors
from tlx.report.study.names import Columns, Unit, counted, metric
from tlx.report.words import RULES

VERDICTS = ("better", "worse", "no difference shown", "not compared")
SHOWN = 8


def answer(table: Table, columns: Columns, unit: Unit) -> dict[str, Any]:
    """`lead`, pieces of the first sentence with the verdict that each of them states, or the anchor of the arm whose
    numbers they are; `methods`, what is shown of each of them where there are several comparisons, the `rest` of them
    left to the table; `how` and `state` sentences."""
    found = table.comparisons
    methods: dict[str, list[Comparison]] = {}
    for one in found:
        methods.setdefault(columns.method(one.arm.names), []).append(one)
    listed = list(methods.items())[:SHOWN] if len(found) > 1 or any(one.p is None for one in found) else []
    told = [{"name": name, "verdicts": grouped(of, columns, unit, anchors(table, columns))} for name, of in listed]
    return {
        "lead": lead(table, methods, columns, unit),
        "methods": told,
        "rest": max(0, len(methods) - SHOWN) if told else 0,
        "how": how(table, unit),
        "state": state(table),
    }


Piece = tuple[str, str]


def lead(
    table: Table, methods: dict[str, list[Comparison]], columns: Columns, unit: Unit
) -> list[Piece]:  # fmt: skip
    """The first sentence, as `(text, verdict, anchor or "")`."""
    found = table.comparisons
    if not found:
        return nothing(table, columns, unit)
    bases = {columns.method(one.baseline.names) for one in found}
    base = bases.pop() if len(bases) == 1 else "its baseline"
    if all(one.p is None for one in found):
        return [("Every arm has one seed, so methods are ", ""), ("not compared", "not compared"), (".", "")]
    if len(found) == 1:
        [one] = found
        anchor = anchors(table, columns)[columns.arm(one.arm.names)]
        return single(columns.method(one.arm.names), base, one, unit, anchor)
    return by_method(methods, base) if len(methods) <= SHOWN else by_count(found, base)


def by_method(methods: dict[str, list[Comparison]], base: str) -> list[Piece]:
    """Methods that show the same in all of their settings stand together, the others each by itself."""
    alike: dict[str, list[str]] = {verdict: [] for verdict in VERDICTS}
    mixed = []
    for name, found in methods.items():
        verdicts = {one.verdict for one in found}
        if len(verdicts) == 1:
            alike[verdicts.pop()].append(name)
        else:
            mixed.append(name)
    sizes = {len(found) for found in methods.values()}
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
            clauses.append([(f"{listed} {are} ", ""), (verdict, verdict), (" (one seed)", "")])
        elif names:
            are = "is" if len(names) == 1 else "are"
            clauses.append([(f"{listed} {are} ", ""), (verdict, verdict), (throughout, "")])
    clauses += [counted_verdicts(methods[name], f"{name} is ", "settings") for name in mixed]
    where = f" in all {max(sizes)} settings," if together else ""
    pieces: list[Piece] = [(f"Against {base},{where} ", "")]
    for n, clause in enumerate(clauses):
        pieces += [("; " if n else "", ""), *clause]
    return [*pieces, (".", "")]


def by_count(found: Sequence[Comparison], base: str) -> list[Piece]:
    return [*counted_verdicts(found, f"Against {base}, ", "comparisons"), (".", "")]


def counted_verdicts(found: Sequence[Comparison], start: str, of: str) -> list[Piece]:
    """`start` and in how many of `found` each verdict stands; the start does for all but "no difference shown"."""
    pieces: list[Piece] = []
    for verdict in VERDICTS:
        number = sum(one.verdict == verdict for one in found)
        if number:
            pieces += [(", " if pieces else start, ""), (verdict, verdict), (f" in {number}", "")]
    return [*pieces, (f" of {len(found)} {of}", "")]


def joined(names: Sequence[str]) -> str:
    """
    >>> joined(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def single(name: str, base: str, one: Comparison, unit: Unit, anchor: str) -> list[Piece]:
    gap = f"{unit.gain(one.difference.mean)}{unit.points} {unit.gains(one.difference.low, one.difference.high)}"
    if one.verdict != "no difference shown":
        return [(f"{name} is ", ""), (one.verdict, one.verdict), (f" than {base}: ", ""), (gap, anchor), (".", "")]
    told = f" between {name} and {base} was shown: "
    return [("No difference", one.verdict), (told, ""), (gap, anchor), (f"; {seen(one, unit)}.", "")]


def nothing(table: Table, columns: Columns, unit: Unit) -> list[Piece]:
    """Of a study in which nothing is compared: the best arm, with the warning that it is only that."""
    pick = max if table.higher else min
    best = pick(table.summaries, key=lambda summary: summary.mean)
    why = "No arm can be compared with its baseline yet" if table.study.baseline else "No baseline, so no comparison"
    which = "highest" if table.higher else "lowest"
    called = columns.arm(best.arm.names)
    told = f"{why}. {called} has the {which} mean {metric(table.metric)}, "
    return [(told, ""), (unit.value(best.mean), anchors(table, columns)[called]), (".", "")]


def grouped(found: Sequence[Comparison], columns: Columns, unit: Unit, anchor: dict[str, str]) -> list[dict[str, Any]]:
    """By verdict, `told` in words: the settings with what is known of each, in brackets, and where its runs are."""
    return [
        {
            "verdict": verdict,
            "told": f"{verdict} (one seed)" if verdict == "not compared" else verdict,
            "items": [
                {"setting": columns.setting(one.arm.names), "known": known(one, unit)}
                | {"anchor": anchor[columns.arm(one.arm.names)]}
                for one in held
            ],
        }
        for verdict in VERDICTS
        if (held := [one for one in found if one.verdict == verdict])
    ]  # fmt: skip


def known(one: Comparison, unit: Unit) -> str:
    """Write the difference with its interval; where nothing was shown, why, and what was detectable; for one pair,
    McNemar's test of the two models."""
    low, high = one.difference.low, one.difference.high
    told = unit.gain(one.difference.mean) + unit.points
    if one.p is None:
        return told + (f"; McNemar of these two models: p {p_text(one.mcnemar)}" if one.mcnemar is not None else "")
    told = f"{told} {unit.gains(low, high)}"
    if one.verdict != "no difference shown":
        return told
    if one.p < 1 - LEVEL:
        told += f", p {p_text(one.holm)} after Holm's correction"
    return f"{told}; {seen(one, unit)}"


def seen(one: Comparison, unit: Unit) -> str:
    """Say which difference was detectable, or why none can be named."""
    if one.detectable is not None:
        return f"minimum detectable difference {unit.size(one.detectable)}{unit.points}"
    if one.difference.pairs < FEW:
        return f"{one.difference.pairs} seeds are too few for a conclusion"
    return "the seeds vary too much to show any difference"


def how(table: Table, unit: Unit) -> str:
    """The metric, the rule that chose the checkpoints, and what a verdict asks for."""
    rules = list(dict.fromkeys(selections(table)))
    chosen = " and ".join(f"{RULES.get(rule, rule)} (selection: {rule})" for rule in rules)
    told = f"{metric(table.metric).capitalize()} at {chosen}."
    tested = [one for one in table.comparisons if one.p is not None]
    if not tested:
        return told
    pairs = sorted({len(one.seeds) for one in tested})
    seeds = f"{pairs[0]} to {pairs[-1]} seeds" if len(pairs) > 1 else counted(pairs[0], "seed")
    smallest = f" and a difference beyond {unit.size(table.smallest)}{unit.points}" if table.smallest else ""
    family = f" after Holm's correction over {len(tested)} comparisons" if len(tested) > 1 else ""
    return (
        f"{told} Brackets: 95 % t-interval of the difference, paired over {seeds}. Better or worse requires "
        f"p < 0.05{family}{smallest}."
    )


def selections(table: Table) -> list[str]:
    """The rule of every cell that counts."""
    scores = [score for summary in table.summaries for score in summary.scores.values()]
    return [score.cell.result["selection"] for score in scores if score.cell.result]


def state(table: Table) -> str:
    """What is not done yet; empty where all of it is."""
    counts = table.study.counts
    left = [f"{number} {name}" for name, number in counts.items() if number and name != "done"]
    total = len(table.study.cells)
    if not left:
        return ""
    since = ""
    if changed := ", ".join(table.study.changed):
        since = f" Stale cells are left out, because {changed} changed after they ran; run the study again."
    return f"{counts['done']} of {total} cells are done ({', '.join(left)}), so the result may still change.{since}"
