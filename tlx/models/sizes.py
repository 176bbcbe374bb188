"""Check the sizes and rates of an architecture before it is built."""

from collections.abc import Callable
from typing import Any

from tlx import config as records
from tlx.trees import Tree, flatten, size

# Far more parameters than a new head or resized positions add to a checkpoint.
ROOM = 2_000_000
TIMES = 2


def check_ranges(config: Any, positive: tuple[str, ...] = (), shares: tuple[str, ...] = ()) -> None:
    """Check the fields of an architecture's record.

    Args:
        config: The record.
        positive: Names of fields that are numbers above 0, or tuples of such numbers.
        shares: Names of fields from 0 to 1.

    Raises:
        TypeError: A field has another type than it declares.
        ValueError: A field is out of its range.
    """
    records.check(config)
    for name in positive:
        value = getattr(config, name)
        numbers = value if isinstance(value, tuple) else (value,)
        if any(number is not None and not number > 0 for number in numbers):
            raise ValueError(f"{type(config).__name__} has {name}={value!r}; expected a number above 0")
    for name in shares:
        value = getattr(config, name)
        if not 0 <= value <= 1:
            raise ValueError(f"{type(config).__name__} has {name}={value!r}; expected a number from 0 to 1")


def counted(declare: Callable[[Any, Any], Any], config: Any, head: Any) -> int:
    """Count the parameters that `declare(config, head)` declares, without a tree of all layers.

    The `depth` layers are equal, so the counts for one and for two layers determine the total.
    """
    if config.depth <= 2:
        return total(declare(config, head))
    first, second = (total(declare(records.replace(config, depth=n), head)) for n in (1, 2))
    return first + (config.depth - 1) * (second - first)


def total(tree: Tree) -> int:
    return sum(size(leaf) for leaf in flatten(tree).values())


def check_count(described: int, file_bytes: int, config: Any, where: object) -> None:
    """Raise ValueError if config.json describes a model far larger than the files of tensors beside it.

    Args:
        described: The number of parameters that config.json describes.
        file_bytes: The size of the files of tensors in bytes.
        config: The architecture's record.
        where: The config.json.
    """
    if described <= TIMES * file_bytes + ROOM:
        return
    names = ("depth", "width", "mlp", "vocabulary", "positions", "size", "channels", "inputs", "widths")
    sizes = ", ".join(f"{name} {getattr(config, name)}" for name in names if hasattr(config, name))
    raise ValueError(
        f"{where} describes {described:,} parameters ({sizes}), but the tensor files in the same directory have only "
        f"{file_bytes:,} bytes; expected the config.json of these tensors: copy it from the model's source again"
    )
