"""The shapes of a recipe's step: its state and its batches, without weights where no checkpoint is read."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh as DeviceMesh

from tlx import config, sharding
from tlx.data import Splits
from tlx.recipe import Recipe
from tlx.training.active_run import setting, total_steps
from tlx.training.flops import Shapes, make_state, shapes_of
from tlx.training.placement import Placement, name_of
from tlx.training.prepare import Prepared, open_data, prepare, training_batches
from tlx.training.state import Parts, TrainState, memories
from tlx.trees import Tree, flatten, nest, size
from tlx.types import ArrayMap

# The number of examples of which the lengths are read where texts have several; the largest batch that is made to read
# its shapes; and the rows of the batch that is made in the place of a larger one, whose rows are only counted.
SAMPLE, MADE, ROWS = 2048, 1024, 16
# The parts of a state, in the words of a plan; the other fields are small.
WORDS = {
    "trainable": "parameters",
    "frozen": "frozen",
    "optimiser": "optimiser",
    "average": "average",
    "memory": "memory of terms",
}


class StepShapes(NamedTuple):
    """The shapes of the largest step of a recipe.

    `parts` is the static half of the step of the phase that trains the most, `form` the shapes of its state and
    `batch` those of the longest batch. `steps` is the number of steps of the run, and `share` the mean size of a batch
    as a share of the longest. `examples` are those of all streams in a step, `phases` the number of phases.
    """

    recipe: Recipe
    parts: Parts
    form: TrainState
    batch: Shapes
    steps: int
    share: float
    examples: int
    phases: int
    trainable: int
    total: int

    def placed(self, mesh: DeviceMesh) -> tuple[Any, ArrayMap]:
        """Return the shapes of a state and a batch with their shardings on a mesh."""
        state = jax.tree.map(sharding.shapes, self.form, Placement(self.parts, mesh).of_state(self.form))
        rows = sharding.by_example(mesh)
        return state, nest({path: jax.ShapeDtypeStruct(shape, kind, sharding=rows) for path, shape, kind in self.batch})


class OpenedRecipe(NamedTuple):
    """The open data of a recipe, and its prepared form with shapes in the place of its variables and of the `memory` of
    its terms."""

    recipe: Recipe
    splits: Splits
    ready: Prepared
    memory: Tree


def opened(recipe: Recipe, splits: Splits | None = None) -> OpenedRecipe:
    """Open and prepare a recipe. The test split is not read.

    Args:
        recipe: The recipe.
        splits: Its data, if they are open.

    Raises:
        ValueError, TypeError, FileNotFoundError: The parts of the recipe do not fit together.
    """
    splits = open_data(recipe, test=False) if splits is None else splits
    return OpenedRecipe(recipe, splits, *prepared_shapes(recipe, splits))


def step_shapes(source: OpenedRecipe, recipe: Recipe) -> StepShapes:
    """Return the shapes of the largest step of a recipe, which may differ from the opened one in its batches and in
    other fields of `train` that change the step alone."""
    splits, memory = source.splits, source.memory
    ready = source.ready._replace(recipe=recipe)
    steps = total_steps(recipe, len(splits.train), splits.first)
    phase = max(range(len(ready.phases)), key=lambda number: trained(ready, number))
    parts = ready.parts(phase)
    variables = ready.variables
    form = jax.eval_shape(
        lambda values, memory: make_state(parts, ready._replace(variables=values), steps, memory), variables, memory
    )
    batch, share = batch_shapes(ready, splits)
    examples = sum(recipe.batch_of(name) for name in splits.streams)
    total = sum(map(size, flatten(variables.params).values()))
    return StepShapes(
        recipe, parts, form, batch, steps, share, examples, len(ready.phases), trained(ready, phase), total
    )


def trained(ready: Prepared, phase: int) -> int:
    """Return the number of parameters that a phase trains."""
    params = flatten(ready.variables.params)
    return sum(size(params[path]) for path, learn in ready.partitions[phase].items() if learn is not None)


def prepared_shapes(recipe: Recipe, splits: Splits) -> tuple[Prepared, Tree]:
    """Return the prepared recipe with shapes in the place of its variables, and the shapes of the memories of its
    terms.

    A model from scratch is only traced. A checkpoint is read, because its tensors decide which of them are loaded.
    """
    ready: list[Prepared] = []

    def variables(prepared: Prepared | None = None) -> Any:
        ready[:] = [prepare(recipe, splits) if prepared is None else prepared]
        return ready[0].variables, memories(recipe.objective, setting(ready[0], splits))

    try:
        shapes = jax.eval_shape(partial(variables, prepare(recipe, splits) if recipe.weights is not None else None))
    except jax.errors.JAXTypeError:
        # A term reads the numbers of the weights on the host.
        # Of numbers of 64 bits JAX keeps 32.
        shapes = jax.eval_shape(lambda tree: tree, variables())
    values, memory = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), shapes)
    return ready[0]._replace(variables=values, pretrained=values), memory


def batch_shapes(ready: Prepared, splits: Splits) -> tuple[Shapes, float]:
    """Return the shapes of the longest batch, and the mean size of a batch as a share of it.

    Where texts have several lengths, the lengths of `SAMPLE` examples are read, and the longest batch has the longest
    length that the recipe allows.
    """
    recipe = ready.recipe
    sizes = {name: recipe.batch_of(name) for name in splits.streams}
    if max(sizes.values()) > MADE:
        small = config.assign_all(recipe, {"train.batch": ROWS, "train.accumulate": 1})
        streams = tuple(replace(stream, batch=stream.batch and ROWS) for stream in recipe.data.streams)
        small = config.assign(small, "data.streams", streams)
        shapes, share = batch_shapes(ready._replace(recipe=small), splits)
        return tuple(
            (path, (shape[0] * sizes[path.partition("/")[0]] // ROWS, *shape[1:]), kind) for path, shape, kind in shapes
        ), share
    stream = training_batches(ready, splits)
    first = shapes_of(next(stream))
    if not ready.processor.ragged:
        return first, 1.0
    seen = Counter({first: 1})
    for other in islice(stream, max(3, SAMPLE // max(sizes.values()))):
        seen[shapes_of(other)] += 1
    longest = max(seen, key=numbers)
    stretched = longer(longest, seen, max(recipe.data.lengths))
    mean = sum(count * numbers(shapes) for shapes, count in seen.items()) / sum(seen.values())
    return stretched, mean / numbers(stretched)


def longer(longest: Shapes, seen: Mapping[Shapes, int], length: int) -> Shapes:
    """Return the shapes with the axes that differ between batches, or have the length of the ragged ones, at a
    length."""
    ragged = {shape[1] for _, shape, _ in longest if len(shape) > 1 and shape[1] <= length}
    varied = {
        path
        for shapes in seen
        for (path, shape, _), (_, other, _) in zip(longest, shapes, strict=True)
        if shape != other
    }
    if not varied and len(ragged) != 1:
        return longest
    return tuple(
        (path, (shape[0], length, *shape[2:]), kind)
        if len(shape) > 1 and (path in varied or (not varied and shape[1] in ragged)) and shape[1] <= length
        else (path, shape, kind)
        for path, shape, kind in longest
    )


def numbers(shapes: Shapes) -> int:
    """Return the number of numbers in a batch."""
    return sum(int(np.prod(shape)) for _, shape, _ in shapes)


def state_bytes(shapes: StepShapes, mesh: DeviceMesh) -> dict[str, int]:
    """Return the bytes of each part of a step that one device holds before it: those of `WORDS`, the "batch", and
    "other"."""
    state, batch = shapes.placed(mesh)
    parts = dict.fromkeys((*WORDS.values(), "batch", "other"), 0)
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        field, _ = name_of(path)
        parts[WORDS.get(field, "other")] += shard_bytes(leaf)
    parts["batch"] = sum(map(shard_bytes, jax.tree.leaves(batch)))
    return parts


def shard_bytes(leaf: Any) -> int:
    """Return the bytes of an array that one device holds."""
    # A random key has no plain type; it is two numbers of four bytes.
    width = 8 if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.extended) else leaf.dtype.itemsize
    return int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * width
