"""Invalid numbers in parameters are refused with the name of the tensor; unread tensors may hold anything."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tlx
from tlx import models, tasks
from tlx.weights import Manifest, Pretrained

MODEL = models.build(models.Bert(vocabulary=9, positions=12, width=6, depth=1, heads=2, mlp=5), 3)
KEY = "bert.encoder.layer.0.intermediate.dense.weight"
FIT = "blocks/00/mlp/up/kernel"


@pytest.fixture
def saved(tmp_path):
    variables = models.initialise(MODEL, jax.random.key(0))
    pretrained = Pretrained(MODEL, variables, None, Manifest("random", {}, ()), tasks.Classification(classes=3))
    return tlx.save_pretrained(pretrained, tmp_path)


def replace(directory, **changes):
    """Put tensors into the file, or replace others, as another library would."""
    tensors = load_file(directory / "model.safetensors")
    save_file(tensors | changes, directory / "model.safetensors", metadata={"format": "pt"})


def wrong(size, *values):
    array = np.ones(size, np.float64)
    array.flat[1 : 1 + len(values)] = values
    return array


CASES = {
    "NaN": (wrong((5, 6), np.nan).astype("f4"), "(F32 [5, 6]) has 1 NaN among its 30 numbers, the first at [0, 1]"),
    "infinite": (wrong((5, 6), np.inf, -np.inf).astype("f4"), "(F32 [5, 6]) has 2 infinite among its 30 numbers"),
    "both": (wrong((5, 6), np.inf, np.nan).astype("f2"), "(F16 [5, 6]) has 1 NaN and 1 infinite among its 30 numbers"),
    "too large": (wrong((5, 6), 1e300, -1e39), "(F64 [5, 6]) has 2 ... (3.4e+38) among"),
    "whole": (
        np.ones((5, 6), np.int32),
        "is I32 [5, 6]; blocks/00/mlp/up/kernel expects floating point numbers (F16, ",
    ),
    "bytes": (np.ones((5, 6), np.uint8), "is U8 [5, 6]; blocks/00/mlp/up/kernel expects floating point numbers"),
    "truth": (np.ones((5, 6), bool), "is BOOL [5, 6]; blocks/00/mlp/up/kernel expects floating point numbers"),
}


@pytest.mark.parametrize("kind", CASES)
def test_a_parameter_takes_finite_floating_point_numbers_only(kind, saved):
    tensor, message = CASES[kind]
    replace(saved, **{KEY: tensor})
    with pytest.raises(ValueError) as error:
        tlx.load_pretrained(saved)
    assert str(error.value).startswith(f"{saved / 'model.safetensors'}: tensor {KEY!r} ") and all(
        part in str(error.value) for part in message.split(" ... ")
    )
    assert FIT in str(error.value) and "\n" not in str(error.value)
    # A reset parameter is not read, so its tensor may hold anything.
    tlx.load_pretrained(saved, reset=(FIT,))


def test_every_float_type_stored_as_an_integer_type_is_refused(saved):
    path = saved / "model.safetensors"
    full = path.read_bytes()
    count = int.from_bytes(full[:8], "little")
    header = json.loads(full[8 : 8 + count])
    header.pop("__metadata__")
    for name in header:
        for dtype in ("I32", "U32"):
            text = json.dumps(header | {name: header[name] | {"dtype": dtype}}).encode()
            path.write_bytes(len(text).to_bytes(8, "little") + text + full[8 + count :])
            with pytest.raises(ValueError, match=f"tensor '{name}' is {dtype} "):
                tlx.load_pretrained(saved)


def test_a_tensor_that_the_model_does_not_read_may_hold_anything(saved):
    before = tlx.load_pretrained(saved).variables
    mask = np.full((1, 4), -np.inf, np.float32)
    replace(saved, **{"bert.embeddings.position_ids": np.arange(12), "cls.predictions.bias": mask})
    after = tlx.load_pretrained(saved)
    assert {line.foreign for line in after.manifest.entries if line.action == "unused"} == {
        "bert.embeddings.position_ids",
        "cls.predictions.bias",
    }
    jax.tree.map(np.testing.assert_array_equal, before, after.variables)


def test_the_shard_is_named(saved):
    tensors = load_file(saved / "model.safetensors")
    (saved / "model.safetensors").unlink()
    bad = {KEY: np.full((5, 6), np.nan, np.float32)}
    save_file({name: tensor for name, tensor in tensors.items() if name != KEY}, saved / "one.safetensors")
    save_file(bad, saved / "two.safetensors")
    names = {name: "two.safetensors" if name == KEY else "one.safetensors" for name in tensors}
    (saved / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(ValueError, match=rf"^{saved / 'two.safetensors'}: tensor '{KEY}' "):
        tlx.load_pretrained(saved)
