"""The share of each batch that a process reads, where several processes train together."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from tlx import sharding


def shared(mesh: Mesh | None, batch: int) -> dict[str, Any]:
    """Return the arguments of `train_batches` and `evaluation_batches` by which this process reads its rows of each
    batch; none where one process reads all."""
    if mesh is None or jax.process_count() == 1:
        return {}
    rows = sharding.share(mesh, batch)
    return {
        "process_index": jax.process_index(), "process_count": jax.process_count(), "rows": rows, "gather": gathered
    }  # fmt: skip


def gathered(array: np.ndarray) -> Any:
    """Return the arrays of all processes, [P, ...]."""
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(array)
