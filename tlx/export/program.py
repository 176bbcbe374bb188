"""Write the inference function of a model as a program that opens without tlx (`jax.export`), and verify it.

| file | content |
| --- | --- |
| `program.jax` | the function as StableHLO for several platforms, with symbolic sizes where that is possible |
| `model.safetensors` | its weights, by path |
| `program.json` | inputs, outputs, class names, the temperature of calibrated probabilities, platforms, versions |
| `load.py` | opens these files with jax alone |

The weights are arguments of the program and not constants in it. So the program has some kilobytes, the compiler does
not read the weights, and their size has no limit (a serialised program is smaller than 2 GB).
"""

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from shutil import copyfile
from typing import Any, NamedTuple

import jax
import jax.export
import numpy as np

from tlx import models
from tlx.export import load as loader
from tlx.export.inputs import Preparation, prepare
from tlx.export.temperature import temperature_of
from tlx.records.run_directory import environment
from tlx.trees import Json, flatten, nest
from tlx.types import Array, Field, Model, Variables
from tlx.weights import Pretrained
from tlx.weights.export import TOLERANCE
from tlx.weights.files import write_tensors
from tlx.weights.form import STATS

PROGRAM, ABOUT, LOADER = "program.jax", "program.json", "load.py"
PLATFORMS = ("cpu", "cuda", "tpu")
# The names of symbolic sizes.
BATCH, LENGTH = "batch", "length"

Leaves = dict[str, Array]
# Weights by path, inputs by name -> outputs by name.
Inference = Callable[[Leaves, Leaves], Leaves]


class Sizes(NamedTuple):
    """The sizes of a batch that a program takes.

    Attributes:
        batch: The number of examples; None for any number.
        length: The length of ragged inputs; None for any length, and if no input is ragged.
    """

    batch: int | None = None
    length: int | None = None


class Lowered(NamedTuple):
    """A program for several platforms.

    Attributes:
        exported: The `jax.export.Exported`.
        sizes: The sizes of a batch that it takes.
        notes: What it cannot do, with the reason.
    """

    exported: Any
    sizes: Sizes
    notes: tuple[str, ...]


class Written(NamedTuple):
    """A written program: the content of program.json, how its inputs are made, its sizes and its notes."""

    about: Json
    preparation: Preparation
    sizes: Sizes
    notes: tuple[str, ...]


def write_program(pretrained: Pretrained, directory: Path) -> Written:
    """Write the program of a model, its weights, its loader and the files of its processor, and verify them.

    Adapters need not be merged: the program computes with them.

    Args:
        pretrained: The model.
        directory: The directory, which exists and is empty.

    Raises:
        ValueError: The model cannot be lowered, or the written program computes other outputs than the model.
    """
    weights, model = leaves_of(pretrained), pretrained.model
    if isinstance(model.head, models.Vocabulary) and "decoder_input_ids" in model.config.embedding_rows():
        raise ValueError(
            f"{type(model.config).__name__} writes its answers token by token, and a program computes one pass; export "
            "it in the layout of Hugging Face: --to huggingface"
        )
    preparation = prepared(pretrained, directory)
    room = models.text_room(model, pretrained.variables.params)
    lowered = lower(inference(model), weights, preparation, room)
    if lowered.sizes.length is not None:
        preparation = prepared(pretrained, directory, lowered.sizes.length)
    (directory / PROGRAM).write_bytes(lowered.exported.serialize())
    write_tensors(directory, weights)
    copyfile(loader.__file__, directory / LOADER)
    difference = check_program(pretrained, preparation.fields, lowered.sizes, directory)
    about = describe(pretrained, preparation.fields, lowered) | {"largest_difference": difference}
    (directory / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return Written(about, preparation, lowered.sizes, lowered.notes)


def prepared(pretrained: Pretrained, directory: Path, length: int | None = None) -> Preparation:
    """Return how the inputs of a model are made, as `prepare`; without a processor only their shapes are known."""
    if pretrained.processor is not None:
        return prepare(pretrained.processor, directory, length)
    config = pretrained.model.config
    fields, rows = dict(config.input_fields()), config.embedding_rows()
    if "input_ids" in fields:
        optional = ("attention_mask", *(["token_type_ids"] if rows.get("token_type_ids") else []))
        fields |= {name: Field((None,), "int32") for name in optional}
    return Preparation(fields, None, (), "The model has no processor.")


def leaves_of(pretrained: Pretrained) -> dict[str, np.ndarray]:
    """Return the weights by path, the running statistics under `stats:`, as float32."""
    leaves = flatten(pretrained.variables.params)
    leaves |= {STATS + path: leaf for path, leaf in flatten(pretrained.variables.stats).items()}
    return {path: np.asarray(leaf, np.float32) for path, leaf in leaves.items()}


def inference(model: Model) -> Inference:
    """Return the function of a model in evaluation: the logits, or, without a head, the features."""

    def run(weights: Leaves, inputs: Leaves) -> Leaves:
        params = nest({path: leaf for path, leaf in weights.items() if not path.startswith(STATS)})
        stats = {path.removeprefix(STATS): leaf for path, leaf in weights.items() if path.startswith(STATS)}
        taps, _ = models.forward(model, Variables(params, nest(stats)), inputs)
        names = ("logits",) if "logits" in taps else ("hidden", "pooled")
        return {name: taps[name] for name in names if name in taps}

    return run


def lower(
    function: Inference, weights: Mapping[str, np.ndarray], preparation: Preparation, room: int | None
) -> Lowered:
    """Lower a function with symbolic sizes; a size that the model must know is fixed, with a note.

    Args:
        function: The function.
        weights: Its weights.
        preparation: Its inputs.
        room: The number of text tokens that the model has positions for; None if it has no limit.

    Raises:
        ValueError: The function cannot be lowered for this machine.
    """
    weight_shapes = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in weights.items()}
    reason = ""
    for sizes in candidates(preparation, room):
        notes = []
        if sizes.length is not None:
            notes.append(f"every input has the length {sizes.length}, because the model must know it: {reason}")
        if sizes.batch is not None:
            notes.append(
                f"the program takes {sizes.batch} example at a time, because the model must know the number of "
                f"examples: {reason}"
            )
        try:
            exported, left_out = for_platforms(function, weight_shapes, shapes(preparation.fields, sizes, room))
            return Lowered(exported, sizes, (*notes, *left_out))
        except Exception as error:  # a model may compute with a symbolic size in any way
            reason = first_line(error)
    raise ValueError(f"jax.export cannot lower the model: {reason}. Export it to another form, --to huggingface")


def candidates(preparation: Preparation, room: int | None) -> Iterator[Sizes]:
    """Yield the sizes to try, the most general first."""
    yield Sizes()
    ragged = any(None in field.shape for field in preparation.fields.values())
    length = (preparation.longest or room) if ragged else None
    if length is not None:
        yield Sizes(length=length)
    yield Sizes(1)
    if length is not None:
        yield Sizes(1, length)


def shapes(fields: Mapping[str, Field], sizes: Sizes, room: int | None) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of the inputs for these sizes; all ragged axes of a batch have one length, at most `room`."""
    limits = [] if room is None else [f"{LENGTH} <= {room}"]
    batch, length = jax.export.symbolic_shape(f"{BATCH}, {LENGTH}", constraints=limits)
    batch, length = (symbol if size is None else size for symbol, size in zip((batch, length), sizes, strict=True))
    return {
        name: jax.ShapeDtypeStruct((batch, *(length if side is None else side for side in field.shape)), field.dtype)
        for name, field in fields.items()
    }


def for_platforms(function: Inference, weights: Any, inputs: Any) -> tuple[Any, tuple[str, ...]]:
    """Lower a function for every platform that it can be lowered for.

    Returns:
        The `jax.export.Exported`, and a note for each platform that is left out.

    Raises:
        Exception: The function cannot be lowered for the platform of this machine.
    """
    here = jax.export.default_export_platform()
    names = tuple(dict.fromkeys((*PLATFORMS, here)))

    def lowered(*platforms: str) -> Any:
        return jax.export.export(jax.jit(function), platforms=platforms)(weights, inputs)

    try:
        return lowered(*names), ()
    except Exception:  # each platform has its own kinds of errors
        lowered(here)
    reasons: dict[str, str] = {}
    for name in names:
        try:
            lowered(name)
        except Exception as error:
            reasons[name] = first_line(error)
    rest = [name for name in names if name not in reasons]
    return lowered(*rest), tuple(f"the program does not run on {name}: {why}" for name, why in reasons.items())


def first_line(error: Exception) -> str:
    """Return the first line of an error, shortened."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def check_program(pretrained: Pretrained, fields: Mapping[str, Field], sizes: Sizes, directory: Path) -> float:
    """Open a written program as a user does, and return the largest difference of its outputs from the model's.

    Raises ValueError if the difference is not within the tolerance.
    """
    inputs = example_inputs(pretrained, fields, sizes)
    outputs = jax.device_get(loader.load(directory)(**inputs))
    expected = jax.device_get(jax.jit(inference(pretrained.model))(leaves_of(pretrained), inputs))
    scale = max(1.0, *(float(np.abs(array).max()) for array in expected.values()))
    difference = max(float(np.abs(outputs[name] - array).max()) for name, array in expected.items())
    if not difference <= TOLERANCE * scale:
        raise ValueError(
            f"{directory}: the written program computes other outputs than the model: the largest difference is "
            f"{difference}, expected at most {TOLERANCE * scale:g}; please report this"
        )
    return difference


def example_inputs(pretrained: Pretrained, fields: Mapping[str, Field], sizes: Sizes) -> dict[str, np.ndarray]:
    """Return inputs of three examples (of one if the program takes one), equal for every call.

    All but the first example end in padding.
    """
    rng, config = np.random.default_rng(0), pretrained.model.config
    batch = sizes.batch or 3
    length = sizes.length or min(7, config.longest_text() or 7)
    rows, arrays = config.embedding_rows(), {}
    for name, field in fields.items():
        shape = (batch, *(length if side is None else side for side in field.shape))
        if np.issubdtype(field.dtype, np.floating):
            arrays[name] = rng.normal(size=shape).astype(field.dtype)
        else:
            arrays[name] = rng.integers(0, rows.get(name, 2), shape).astype(field.dtype)
    if "attention_mask" in arrays:
        arrays["attention_mask"][...] = 1
        arrays["attention_mask"][1:, -1:] = 0
    return arrays


def describe(pretrained: Pretrained, fields: Mapping[str, Field], lowered: Lowered) -> Json:
    """Return the content of program.json."""
    batch, length = (name if size is None else size for name, size in zip((BATCH, LENGTH), lowered.sizes, strict=True))
    temperature = temperature_of(pretrained.task)
    outputs = jax.tree.unflatten(lowered.exported.out_tree, lowered.exported.out_avals)
    return {
        "inputs": {
            name: {
                "shape": [batch, *(length if side is None else side for side in field.shape)],
                "dtype": field.dtype,
                **({"pad": field.pad} if None in field.shape else {}),
            }
            for name, field in fields.items()
        },
        "outputs": {
            name: {
                "shape": [side if isinstance(side, int) else str(side) for side in output.shape],
                "dtype": str(output.dtype),
            }
            for name, output in outputs.items()
        },
        "classes": list(getattr(pretrained.task, "names", ())),
        **({} if temperature is None else {"temperature": temperature}),
        "platforms": list(lowered.exported.platforms),
        **{name: environment()["packages"][name] for name in ("tlx", "jax")},
        "calling_convention": lowered.exported.calling_convention_version,
        "written": datetime.now(UTC).date().isoformat(),
    }
