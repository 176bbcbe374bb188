"""Load the pretrained model of a recipe, or share that of another recipe, and fit its processor to the data."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from tlx import models, processors, sharding, weights
from tlx.data import Splits
from tlx.models.chain import leaf_key
from tlx.processors.base import FILE, format_source, users_class
from tlx.recipe import Recipe
from tlx.tasks import Task
from tlx.trees import flatten, map_named, nest
from tlx.types import Key, Model, Param, Variables
from tlx.weights.source import locate

if TYPE_CHECKING:
    from tlx.training.prepare import Prepared

# The channels of a colour image.
COLOURS = 3


def drawn(model: Model, seed: int, mesh: Mesh | None) -> Variables:
    """Return new variables; where the mesh cuts parameters, each device draws only its part, one leaf after the other,
    with the same bits."""
    key = jax.random.key(seed)
    if mesh is None or sharding.is_plain(mesh):
        return whole_program(*(tuple(flatten(tree).items()) for tree in (model.params, model.stats)))(key)
    sharding.specs_of(mesh, model.params, model.params)

    def draw(where: Callable[[Param], NamedSharding]) -> Callable[[str, Param], jax.Array]:
        def leaf(path: str, param: Param) -> jax.Array:
            # The key of `models.initialise`. Processes can only share its numbers.
            numbers = np.asarray(jax.random.key_data(leaf_key(key, path)))
            # Devices that draw several leaves at once need memory for all of them.
            return jax.block_until_ready(program(param.init, param.shape, where(param))(numbers))

        return leaf

    params = draw(lambda param: NamedSharding(mesh, sharding.spec_of(mesh, param.shape, param.axes)))
    stats = draw(lambda param: sharding.replicated(mesh))
    return Variables(map_named(params, model.params), map_named(stats, model.stats))


# The cells of a study draw the same parameters with other keys.
@lru_cache(maxsize=16)
def whole_program(
    params: tuple[tuple[str, Param], ...], stats: tuple[tuple[str, Param], ...]
) -> Callable[[Key], Variables]:
    """Return the program that draws parameters and statistics, by path, from a key."""
    model = Model((), nest(dict(params)), nest(dict(stats)))
    return jax.jit(lambda key: models.initialise(model, key))


@lru_cache(maxsize=512)
def program(init: Callable[..., Any], shape: tuple[int, ...], where: NamedSharding) -> Callable[[Any], jax.Array]:
    """Return the program that draws a parameter in the places `where` from the numbers of its key."""
    return jax.jit(lambda numbers: init(jax.random.wrap_key_data(numbers), shape), out_shardings=where)


def pretrained_model(recipe: Recipe, task: Task, mesh: Mesh | None = None) -> weights.Pretrained:
    """Return the pretrained model of the recipe, with a new head drawn from its seed where the checkpoint has none.
    `mesh` is as in `load_pretrained`."""
    chosen, channels = recipe.weights, recipe.data.channels
    assert chosen is not None
    if channels is not None and (stated := getattr(recipe.model, "channels", channels)) != channels:
        raise ValueError(
            f"data.channels is {channels}, but model reads images with {stated} channels; set "
            f"model={type(recipe.model).__name__}(channels={channels}, ...)"
        )
    pretrained = weights.load_pretrained(
        chosen.source,
        task,
        reset=chosen.reset,
        resize=chosen.resize,
        pooling=chosen.pooling,
        channels=channels,
        first=chosen.first,
        stochastic_depth=chosen.stochastic_depth,
        model=recipe.model,
        processors=recipe.data.processors,
        seed=recipe.seed,
        mesh=mesh,
    )
    if recipe.model is not None and pretrained.model.config != recipe.model:
        raise ValueError(
            f"the weights {chosen.source!r} have another architecture, {pretrained.model.config}; leave model out"
        )
    return at_size(pretrained, recipe.data.size)


def at_size(pretrained: weights.Pretrained, size: int | None) -> weights.Pretrained:
    """Return the model for images of `size`, if none of its parameters depends on the size."""
    config = pretrained.model.config
    shape = models.image_shape(config) if config.any_size else None
    if size is None or shape is None or shape[:2] == (size, size):
        return pretrained
    return pretrained._replace(model=models.build(config.resized(size), pretrained.model.head))


def fitted(recipe: Recipe, splits: Splits, model: Model, processor: Any) -> Any:
    """Return the processor of the data, at the size that the model declares where the recipe names none.

    Raises:
        ValueError: The processor of the weights is of a user's class that the recipe does not name, or does not fit.
    """
    if recipe.weights is not None and processor is None and recipe.data.processor is None:
        directory = locate(recipe.weights.source)
        if name := users_class(directory):
            raise ValueError(
                f"{directory / FILE} is of the class {name!r} of your own; give it: Data(processor={name}(...))"
            )
    shape = models.image_shape(model.config)
    if recipe.weights is not None and recipe.data.channels is None and shape is not None:
        check_colours(recipe, shape[2], splits)
    return processors.fit(recipe.data, splits.columns, processor, shape, lambda: splits.validation[0])


def check_colours(recipe: Recipe, channels: int, splits: Splits) -> None:
    """Raise ValueError for grey arrays and weights of colour images, where the recipe does not say what a grey pixel
    becomes. Image files are decoded by the processor, as everywhere."""
    image = splits.validation[0].get("image")
    if channels != COLOURS or not isinstance(image, np.ndarray) or not (image.ndim == 2 or image.shape[2] == 1):
        return
    assert recipe.weights is not None
    raise ValueError(
        f"{format_source(recipe.data.target)} has grey images, but the weights {recipe.weights.source!r} read "
        f"{COLOURS} channels: set Data(channels={COLOURS}) to read a grey pixel as equal channels, or Data(channels=1) "
        'and Weights(first="sum") to add up the kernels of the first convolution'
    )


def notes_on(recipe: Recipe, processor: Any) -> tuple[str, ...]:
    """Return a note where the recipe names another processor of the same class than the one that its weights were
    trained with."""
    chosen = recipe.data.processor
    if chosen is None or type(chosen) is not type(processor) or chosen.identity == processor.identity:
        return ()
    assert recipe.weights is not None
    return (f"the weights {recipe.weights.source!r} were trained with {processor}; the recipe's {chosen} is used",)


def same_weights(recipe: Recipe, task: Task, like: Prepared) -> bool:
    """Return whether a recipe loads the same weights as another, except for what is drawn from its seed."""
    loads = [
        (other.weights, other.model, other.data.processors, other.data.channels) for other in (recipe, like.recipe)
    ]
    # What a task takes from the labels of its subset does not matter for the weights.
    heads = [(other.names, other.head()) for other in (task, like.task)]
    return loads[0] == loads[1] and recipe.task == like.recipe.task and heads[0] == heads[1]


def redrawn(like: Prepared, seed: int) -> Variables:
    """Return the variables of `like`, with the parameters and statistics that no checkpoint holds drawn from another
    seed."""
    new = {entry.path for entry in like.manifest.entries if entry.action == "reset"}
    leaves = {f"stats:{path}": leaf for path, leaf in flatten(like.model.stats).items()} | flatten(like.model.params)
    params = {path: leaf for path, leaf in leaves.items() if path in new and not path.startswith("stats:")}
    stats = {path.removeprefix("stats:"): leaves[path] for path in new & leaves.keys() if path.startswith("stats:")}
    variables = models.initialise(Model((), nest(params), nest(stats)), jax.random.key(seed))
    loaded = like.pretrained
    return Variables(
        nest(flatten(loaded.params) | flatten(variables.params)), nest(flatten(loaded.stats) | flatten(variables.stats))
    )
