"""The figures of chips: peak operations, memory, bandwidths, watts and prices, from `chips.toml` or a user's file."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tlx.trees import near_miss

TABLE = Path(__file__).parent / "chips.toml"
Range = tuple[float, float]


class Chip(NamedTuple):
    """One kind of chip; `chips.toml` explains the fields and their units."""

    name: str
    platform: str
    flops: Mapping[str, float]
    memory: float
    bandwidth: float
    link: float
    watts: Range
    dollars: Range
    source: str

    def peak(self, dtype: str) -> float:
        """Return the peak operations per second with activations of a type."""
        return self.flops.get(dtype, self.flops["float32"])


def read_chips(file: str | Path | None = None) -> dict[str, Chip]:
    """Return the known chips by name, with those of a user's file added or replaced.

    Raises:
        ValueError: The file is not TOML, or an entry lacks a field, has an unknown one, or a value of another kind.
    """
    chips: dict[str, Chip] = {}
    for path in (TABLE, *([Path(file)] if file is not None else [])):
        try:
            entries = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not a TOML file: {error}") from None
        chips |= {name: chip_of(path, name, entry) for name, entry in entries.items()}
    return chips


def chip_of(path: Path, name: str, entry: Any) -> Chip:
    """Return the chip of one entry of a file."""
    fields = [field for field in Chip._fields if field != "name"]
    if not isinstance(entry, dict):
        raise ValueError(f"{path}: {name} is {entry!r}; expected a table [{name}] with {', '.join(fields)}")
    for field in entry.keys() - set(fields):
        raise ValueError(f"{path}: {name} has the unknown field {field!r}{near_miss(field, fields)}")
    for field in fields:
        if field not in entry:
            raise ValueError(f"{path}: {name} has no {field}")
        value = entry[field]
        if field in ("watts", "dollars"):
            good = isinstance(value, list) and len(value) == 2 and all(map(is_amount, value)) and value[0] <= value[1]
            if not good:
                raise ValueError(f"{path}: {name}.{field} is {value!r}; expected two numbers [from, to]")
        elif field == "flops":
            if not (isinstance(value, dict) and "float32" in value and all(map(is_amount, value.values()))):
                raise ValueError(f"{path}: {name}.flops is {value!r}; expected numbers by type, with float32")
        elif field in ("platform", "source"):
            if not isinstance(value, str) or (field == "platform" and value not in ("tpu", "gpu")):
                expected = "'tpu' or 'gpu'" if field == "platform" else "a text"
                raise ValueError(f"{path}: {name}.{field} is {value!r}; expected {expected}")
        elif not is_amount(value):
            raise ValueError(f"{path}: {name}.{field} is {value!r}; expected a positive number")
    ranges = {field: (float(entry[field][0]), float(entry[field][1])) for field in ("watts", "dollars")}
    return Chip(name, **{**entry, **ranges})


def is_amount(value: Any) -> bool:
    """Return whether a value is a positive number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
