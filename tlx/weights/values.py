"""Check the numbers that a model reads from a file."""

from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from tlx.types import Param
from tlx.weights.files import read_stored
from tlx.weights.header import FLOATS, read_header
from tlx.weights.mapped import release

LARGEST = float(np.finfo(np.float32).max)


def check_values(
    arrays: Mapping[str, np.ndarray],
    keys: Mapping[str, str],
    declared: Mapping[str, Param],
    file_of: Callable[[str], Path],
) -> None:
    """Raise ValueError for numbers that no parameter may have. Tensors that the model does not read are not checked.

    Args:
        arrays: The arrays that the model takes, by the path of the parameter.
        keys: The name of the tensor of each array in its file, by path; arrays without a name are not checked.
        declared: The declared parameters by path; all others (those of an adapter) are floating point.
        file_of: Returns the file of a tensor by its name.

    Raises:
        ValueError: The parameter is floating point and the numbers are integers or booleans, or there are NaN or
            infinite numbers. The message has the file, the tensor, their number, and the first of them.
    """
    for path, array in arrays.items():
        if path not in keys:
            continue
        if not jnp.issubdtype(array.dtype, jnp.floating):
            if path not in declared or floating(declared[path]):
                file = file_of(keys[path])
                stored = read_header(file).tensors[keys[path]]
                raise ValueError(
                    f"{file}: tensor {keys[path]!r} is {stored}; {path} expects floating point numbers "
                    f"({', '.join(FLOATS)}). The file is damaged, or its weights are quantised: fetch it again, or "
                    "save the model in float32"
                )
        elif not np.isfinite(array).all():
            raise not_finite(path, keys[path], file_of(keys[path]))
        release(array)


def floating(param: Param) -> bool:
    """Return whether a parameter is floating point. Nearly all are; a user's module may have integers."""
    leaf = jax.eval_shape(lambda key: param.init(key, param.shape), jax.random.key(0))
    return bool(np.issubdtype(leaf.dtype, np.floating))


def not_finite(path: str, key: str, file: Path) -> ValueError:
    """Return the error for a tensor with numbers that are not finite in float32."""
    extent = read_header(file).tensors[key]
    with file.open("rb") as stream:
        stored = read_stored(stream, extent)
    if extent.dtype == "BF16":
        stored = (stored.astype(np.uint32) << 16).view(np.float32)
    stored = stored.astype(np.float64)
    nan, infinite = np.isnan(stored), np.isinf(stored)
    large = np.isfinite(stored) & (np.abs(stored) > LARGEST)
    counts = [
        f"{count} {kind}"
        for count, kind in (
            (int(nan.sum()), "NaN"),
            (int(infinite.sum()), "infinite"),
            (int(large.sum()), f"above the largest float32 number ({LARGEST:.2g})"),
        )
        if count
    ]
    first = [int(place) for place in np.argwhere(nan | infinite | large)[0]]
    return ValueError(
        f"{file}: tensor {key!r} ({extent}) has {' and '.join(counts)} among its {stored.size} numbers, the first "
        f"at {first}; {path} expects finite numbers. The training run diverged or the file is damaged: use another "
        "checkpoint"
    )
