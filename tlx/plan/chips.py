"""Read the table of chips: their rates, memory, power and price."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from tlx.trees import near_miss

TABLE = Path(__file__).with_name("chips.toml")
COMPILERS = ("tpu", "cuda")
DTYPES = ("bfloat16", "float32")
# The numbers of a GPU that XLA's compiler reads, by their names in the table.
TARGET = (
    "capability",
    "cores",
    "units_per_core",
    "clock_ghz",
    "cache",
    "shared_memory_per_core",
    "shared_memory_per_block",
)
# Those of them that need not be whole.
FRACTIONS = ("clock_ghz",)
NUMBERS = ("usable_memory", "memory_bandwidth", "interconnect", "network", "watts", "dollars_per_hour")


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One row of the table; `tlx/plan/chips.toml` explains each field and its unit. `key` is its name on the command
    line."""

    key: str
    name: str
    compiler: Literal["tpu", "cuda"]
    flops: Mapping[str, float]
    memory: int
    memory_bandwidth: float
    interconnect: float
    group: int
    usable_memory: float = 1.0
    network: float | None = None
    watts: float | None = None
    dollars_per_hour: float | None = None
    topologies: tuple[str, ...] = ()
    target: Mapping[str, Any] | None = None

    @property
    def usable(self) -> int:
        """Return the bytes that a program may use."""
        return int(self.memory * self.usable_memory)


def read_chips(path: str | Path | None = None) -> dict[str, Chip]:
    """Return the chips of a table by their keys.

    Args:
        path: The file; by default the table of tlx.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not TOML, or a row has a wrong field; the message names the row and the field.
    """
    file = TABLE if path is None else Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"there is no table of chips {file}; expected a TOML file such as {TABLE}")
    try:
        rows = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: {error}; expected a TOML file such as {TABLE}") from error
    if not rows:
        raise ValueError(f"{file} has no chip; expected at least one row such as those of {TABLE}")
    return {key: chip_of(key, row, f"{file}: chip {key!r}") for key, row in rows.items()}


def chip_of(key: str, row: Any, where: str) -> Chip:
    """Return the chip of a row; `where` names the row in error messages."""
    names = [field.name for field in fields(Chip) if field.name != "key"]
    if not isinstance(row, dict):
        raise ValueError(f"{where} is {row!r}; expected a table with the fields {', '.join(names)}")
    for name in row:
        if name not in names:
            raise ValueError(f"{where} has the field {name!r}{near_miss(name, names)}")
    needed = [name for name in names if name not in ("network", "watts", "dollars_per_hour", "topologies", "target")]
    for name in needed:
        if name not in row and name != "usable_memory":
            raise ValueError(f"{where} lacks the field {name!r}; see the comments of {TABLE}")
    if row["compiler"] not in COMPILERS:
        raise ValueError(f"{where}: compiler is {row['compiler']!r}; expected {' or '.join(map(repr, COMPILERS))}")
    if not isinstance(row["name"], str):
        raise ValueError(f"{where}: name is {row['name']!r}; expected a text such as 'TPU v5e'")
    check_whole(row["memory"], f"{where}: memory", "bytes")
    for name in NUMBERS:
        if name in row:
            check_number(row[name], f"{where}: {name}")
    if row.get("usable_memory", 1.0) > 1:
        raise ValueError(f"{where}: usable_memory is {row['usable_memory']}; expected a share of the memory, at most 1")
    check_flops(row["flops"], where)
    check_whole(row["group"], f"{where}: group", "chips")
    check_forms(row, where)
    return Chip(key=key, **{**row, "topologies": tuple(row.get("topologies", ()))})


def check_number(value: Any, what: str) -> None:
    """Raise ValueError for a value that is not a number above 0."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf:
        raise ValueError(f"{what} is {value!r}; expected a number above 0")


def check_whole(value: Any, what: str, unit: str = "") -> None:
    """Raise ValueError for a value that is not a whole number above 0, of some unit."""
    if type(value) is not int or value < 1:
        raise ValueError(f"{what} is {value!r}; expected a whole number{unit and f' of {unit}'}, 1 or more")


def check_flops(flops: Any, where: str) -> None:
    """Raise ValueError for rates that are not numbers by the type of the activations."""
    if not isinstance(flops, dict) or flops.keys() != set(DTYPES):
        raise ValueError(f"{where}: flops is {flops!r}; expected the operations per second {{ bfloat16, float32 }}")
    for dtype, value in flops.items():
        check_number(value, f"{where}: flops.{dtype}")


def check_forms(row: Mapping[str, Any], where: str) -> None:
    """Raise ValueError where a TPU lacks the forms of its slices, or a GPU the numbers for its compiler."""
    if row["compiler"] == "tpu":
        forms = row.get("topologies")
        wrong = not isinstance(forms, list) or not forms
        if wrong or not all(isinstance(form, str) and lengths_of(form) for form in forms or ()):
            raise ValueError(f"{where}: topologies is {forms!r}; expected a list such as ['2x2', '4x4']")
        return
    target = row.get("target")
    if not isinstance(target, dict) or target.keys() != set(TARGET):
        raise ValueError(f"{where}: target is {target!r}; expected a table with {', '.join(TARGET)}")
    for name, value in target.items():
        if name == "capability":
            if not (isinstance(value, list) and len(value) == 2 and all(type(part) is int for part in value)):
                raise ValueError(f"{where}: target.capability is {value!r}; expected two whole numbers such as [9, 0]")
        elif name in FRACTIONS:
            check_number(value, f"{where}: target.{name}")
        else:
            check_whole(value, f"{where}: target.{name}")


def lengths_of(form: str) -> tuple[int, ...]:
    """Return the lengths of a form such as 4x4; nothing for a text that is none.

    >>> lengths_of("2x2x4"), lengths_of("4x"), lengths_of("8")
    ((2, 2, 4), (), (8,))
    """
    parts = form.split("x")
    lengths = tuple(int(part) for part in parts if part.isascii() and part.isdecimal())
    return lengths if len(lengths) == len(parts) and all(lengths) else ()
