"""The bytes that the devices of a compiled program send each other, read from its text (XLA's HLO)."""

import math
import re
from collections import Counter
from collections.abc import Mapping

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")
# Bits of a number of each type; the digits of other types are their bits, such as s32 or bf16.
BITS = {"pred": 8}
SHAPE = re.compile(r"\b([a-z]+[0-9]*[a-z0-9]*)\[([0-9,]*)\]")
HEADER = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
OPERATION = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
LOOP = re.compile(r" while\(.*body=%?([\w.-]+)")
ROUNDS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
CALLED = re.compile(r"(?:to_apply|calls|body|branch_computations|called_computations)=\{?%?([\w.-]+)")


def collective_bytes(text: str) -> dict[str, int]:
    """Return the bytes of the arrays that each kind of collective produces on one device in one run of a program.

    A loop counts as often as the compiler knows that it runs, and once where it does not know. Of an operation that is
    started and finished separately the start counts.

    Args:
        text: `compiled.as_text()`.
    """
    blocks = computations(text)
    counted: dict[str, Counter[str]] = {}

    def count(name: str) -> Counter[str]:
        if name not in counted:
            counted[name] = Counter()
            for line in blocks.get(name, ()):
                counted[name].update(of_line(line))
                rounds = int(found[1]) if (found := ROUNDS.search(line)) else 1
                for inner in CALLED.findall(line):
                    counted[name].update({kind: rounds * size for kind, size in count(inner).items()})
        return counted[name]

    return dict(count("ENTRY"))


def computations(text: str) -> dict[str, list[str]]:
    """Return the lines of each computation of a program by its name; the one that is run is `ENTRY`."""
    blocks: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if header := HEADER.match(line):
            lines = blocks["ENTRY" if line.startswith("ENTRY") else header[1]] = []
        else:
            lines.append(line)
    return blocks


def of_line(line: str) -> Mapping[str, int]:
    """Return the bytes of a collective by its kind; nothing for another operation.

    >>> of_line("  %a = f32[4,3]{1,0} all-reduce(%b), channel_id=1")
    {'all-reduce': 48}
    >>> of_line("  %a = (f32[4], f32[8]) all-gather-start(%b), channel_id=1")
    {'all-gather': 32}
    """
    operation = OPERATION.search(line)
    if operation is None:
        return {}
    sizes = [bytes_of(kind, lengths) for kind, lengths in SHAPE.findall(operation[1])]
    kind, starts = operation[2], operation[3] is not None
    if starts and kind == "all-gather":
        # The result has the inputs and then the outputs.
        return {kind: sum(sizes[len(sizes) // 2 :])}
    return {kind: max(sizes) if starts and kind != "all-reduce" else sum(sizes)}


def bytes_of(kind: str, lengths: str) -> int:
    """Return the bytes of an array.

    >>> bytes_of("bf16", "2,3"), bytes_of("pred", ""), bytes_of("f8e4m3fn", "8")
    (12, 1, 8)
    """
    bits = BITS.get(kind) or int(re.search(r"\d+", kind)[0])  # type: ignore[index]
    return math.ceil(bits * math.prod(int(length) for length in lengths.split(",") if length) / 8)
