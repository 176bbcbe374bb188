"""Read the text of a compiled program (XLA's HLO): its computations, shapes, and the bytes that it moves in memory."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

# Bits of a number of each type; the digits of other types are their bits, such as s32 or bf16.
BITS = {"pred": 8, "token": 0, "opaque": 0}
# An array in the fast memory beside the units of a TPU (space 1 and above) does not cross the bus of its main memory.
SHAPE = re.compile(r"\b([a-z]+[0-9]*[a-z0-9]*)\[([0-9,]*)\](\{[^}]*S\([1-9]\d*\)[^}]*\})?")
HEADER = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
LINE = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*)$")
NAME = re.compile(r"%([\w.-]+)")
ROUNDS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
FUSED = re.compile(r"calls=%?([\w.-]+)")
INNER = re.compile(r"(?:body|to_apply|branch_computations|true_computation|false_computation)=\{?%?([\w.-]+)")
PARAMETER = re.compile(r"^(\d+)\)")
# Operations that name arrays and move none, and those that hold their computations.
NAMING = ("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id", "replica-id")
HOLDING = ("while", "conditional", "call")
SLICES = ("dynamic-slice", "slice", "gather")
UPDATE = "dynamic-update-slice"


class Instruction(NamedTuple):
    """One line of a computation; `size` is the bytes of its result in the main memory, `rest` the text after the
    operands' names."""

    name: str
    size: int
    operation: str
    operands: tuple[str, ...]
    rest: str
    root: bool


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


def shapes_in(text: str) -> list[tuple[str, str]]:
    """Return the type and the lengths of each array that a text names.

    >>> shapes_in("(f32[4,3]{1,0}, bf16[])")
    [('f32', '4,3'), ('bf16', '')]
    """
    return [(kind, lengths) for kind, lengths, _ in SHAPE.findall(text)]


def bytes_of(kind: str, lengths: str) -> int:
    """Return the bytes of an array.

    >>> bytes_of("bf16", "2,3"), bytes_of("pred", ""), bytes_of("f8e4m3fn", "8"), bytes_of("s4", "3")
    (12, 1, 8, 2)
    """
    bits = BITS[kind] if kind in BITS else int(re.search(r"\d+", kind)[0])  # type: ignore[index]
    return math.ceil(bits * math.prod(int(length) for length in lengths.split(",") if length) / 8)


def moved_bytes(text: str) -> int:
    """Return the bytes that one run of a program reads from and writes to the main memory of one device.

    Each operation outside of a fusion reads its operands and writes its result. A slice reads only its part, an update
    writes only its part. A loop counts as often as the compiler knows that it runs, and once where it does not know.

    Args:
        text: `compiled.as_text()`.
    """
    blocks = {name: [*map(instruction, lines)] for name, lines in computations(text).items()}
    program = {name: [item for item in lines if item is not None] for name, lines in blocks.items()}
    counted: dict[str, int] = {}

    def count(name: str) -> int:
        if name not in counted:
            sizes = {item.name: item.size for item in program.get(name, ())}
            counted[name] = sum(bytes_moved_by(item, sizes, program, count) for item in program.get(name, ()))
        return counted[name]

    return count("ENTRY")


def instruction(line: str) -> Instruction | None:
    """Return the instruction of a line; None where it has none.

    >>> instruction("  ROOT %a = f32[4]{0} add(%b, %c), metadata={}")[:4]
    ('a', 16, 'add', ('b', 'c'))
    """
    match = LINE.match(line)
    if match is None:
        return None
    name, shapes, operation, rest = match.groups()
    # The 8-bit results of a call into a library are its scratch memory.
    scratch = ("s8", "u8") if operation == "custom-call" else ()
    arrays = [(kind, lengths) for kind, lengths, fast in SHAPE.findall(shapes) if not fast and kind not in scratch]
    size = sum(bytes_of(kind, lengths) for kind, lengths in arrays)
    operands = tuple(NAME.findall(rest.partition(")")[0]))
    return Instruction(name, size, operation, operands, rest, line.lstrip().startswith("ROOT "))


def bytes_moved_by(
    item: Instruction,
    sizes: Mapping[str, int],
    program: Mapping[str, Sequence[Instruction]],
    count: Callable[[str], int],
) -> int:
    """Return the bytes that an instruction moves; `sizes` are those of the results in its computation, and `count`
    returns the bytes that another computation moves."""
    if item.operation in NAMING or item.operation.endswith("-done"):
        return 0
    if item.operation in HOLDING:
        rounds = int(match[1]) if (match := ROUNDS.search(item.rest)) else 1
        return rounds * sum(count(inner) for inner in INNER.findall(item.rest))
    reads = [sizes.get(operand, 0) for operand in item.operands]
    if item.operation == "fusion" and (match := FUSED.search(item.rest)):
        return bytes_of_fusion(program.get(match[1], ()), reads, item.size)
    if item.operation in SLICES:
        return 2 * item.size
    if item.operation == UPDATE:
        return 2 * (reads[1] if len(reads) > 1 else 0)
    if item.operation.endswith("-start") and item.operation != "all-reduce-start":
        # Its result has its operands, too.
        return item.size
    return sum(reads) + item.size


def bytes_of_fusion(body: Sequence[Instruction], reads: Sequence[int], written: int) -> int:
    """Return the bytes that a fusion reads and writes.

    Args:
        body: The instructions of its computation.
        reads: The bytes of its operands.
        written: The bytes of its result.
    """
    sizes = {item.name: item.size for item in body}
    users: dict[str, list[Instruction]] = {}
    for item in body:
        for operand in item.operands:
            users.setdefault(operand, []).append(item)
    total = 0
    for item in body:
        if item.operation == "parameter" and (match := PARAMETER.match(item.rest)) and int(match[1]) < len(reads):
            total += part_read(item.name, users, sizes, reads[int(match[1])])
    updates = [sizes.get(item.operands[1], 0) for item in body if item.operation == UPDATE and len(item.operands) > 1]
    return total + (min(written, sum(updates)) if updates else written)


def part_read(name: str, users: Mapping[str, Sequence[Instruction]], sizes: Mapping[str, int], whole: int) -> int:
    """Return the bytes of an operand of a fusion that are read: all, or the parts that slices take of it."""
    parts = 0
    for user in users.get(name, ()):
        first = user.operands[:1] == (name,)
        if user.operation in SLICES and first:
            parts += user.size
        elif user.operation == UPDATE and first:
            continue
        elif user.operation == "bitcast":
            parts += part_read(user.name, users, sizes, whole)
        else:
            return whole
    return min(parts, whole)
