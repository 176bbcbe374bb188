"""Open the exported model without tlx: `load()` returns its function. Needs jax, numpy and flatbuffers."""

import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.export
import numpy as np


def load(directory: str | Path = Path(__file__).parent) -> Callable[..., dict[str, jax.Array]]:
    """Return the function of the model: its inputs by the names in program.json -> its outputs by name."""
    program = jax.export.deserialize(bytearray(Path(directory, "program.jax").read_bytes()))
    content = memoryview(Path(directory, "model.safetensors").read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    entries = json.loads(bytes(content[8:start]))
    arrays = {
        name: np.frombuffer(content[start:][slice(*entry["data_offsets"])], "<f4").reshape(entry["shape"])
        for name, entry in entries.items()
        if name != "__metadata__"
    }
    call, weights = jax.jit(program.call), jax.device_put(arrays)
    return lambda **inputs: call(weights, inputs)
