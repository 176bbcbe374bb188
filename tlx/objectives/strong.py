"""Strong views of inputs, made inside the step. Shapes: B batch, I height, J width, C channels, T tokens.

`keys` [B] are one an example.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from tlx.types import Array, Key

# The kinds of change, with the most of each (as in the appendix of Sohn et al., 2020): an angle of 30 degrees, shears,
# shifts as shares of a side, and, of pixels that were scaled to about [-1, 1], how much lighter and how much flatter.
MOST = (jnp.pi / 6, 0.3, 0.3, 0.3, 0.3, 0.95, 0.95)
CHANGES = 2
CUT = 0.5


def strong_image(image: Array, keys: Array, strength: float | Array = 1.0) -> Array:
    """[B, I, J, C] -> the same shape: two kinds of change drawn from rotation, two shears, two shifts, brightness and
    contrast, each to a uniform extent, and then a square cut out (after RandAugment and Cutout as FixMatch has them;
    Cubuk et al., 2020; DeVries and Taylor, 2017).

    The square has a uniform side of up to half of the image's and is 0, as is the middle of normalised pixels; beyond
    its edge the image goes on as at the edge. `strength` 0 changes nothing.
    """
    return jax.vmap(lambda own, key: changed(own, key, strength))(image, keys)


def changed(image: Array, key: Key, strength: float | Array) -> Array:
    """One image [I, J, C]."""
    kind, extent, box = jax.random.split(key, 3)
    drawn = jax.random.randint(kind, (CHANGES,), 0, len(MOST))
    asked = (drawn[:, None] == jnp.arange(len(MOST))).any(0)
    most = jnp.asarray(MOST, jnp.float32) * strength
    amounts = jnp.where(asked, most * jax.random.uniform(extent, (len(MOST),), jnp.float32, -1.0, 1.0), 0.0)
    angle, shear_rows, shear_columns, down, right, lighter, flatter = amounts
    wide = moved(image.astype(jnp.float32), angle, (shear_rows, shear_columns), (down, right))
    # Less contrast, never more, as most of the paper's range; both leave the mean of the other alone.
    mean = wide.mean((0, 1))
    wide = mean + (1.0 - jnp.abs(flatter)) * (wide - mean) + lighter
    return jnp.where(inside(box, (image.shape[0], image.shape[1]), CUT * strength)[..., None], 0.0, wide).astype(
        image.dtype
    )


def moved(image: Array, angle: Array, shears: tuple[Array, Array], shifts: tuple[Array, Array]) -> Array:
    """[I, J, C] turned by `angle`, sheared and shifted (by shares of its sides) about its centre; between pixels by
    bilinear interpolation."""
    height, width = image.shape[:2]
    centre = (height - 1) / 2, (width - 1) / 2
    sides = [jnp.arange(length, dtype=jnp.float32) for length in (height, width)]
    rows, columns = jnp.meshgrid(sides[0] - centre[0], sides[1] - centre[1], indexing="ij")
    rows, columns = rows + shears[0] * columns, columns + shears[1] * rows
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    down = cosine * rows - sine * columns + shifts[0] * height + centre[0]
    right = sine * rows + cosine * columns + shifts[1] * width + centre[1]
    return bilinear(image, down, right)


def bilinear(image: Array, rows: Array, columns: Array) -> Array:
    """`image` [I, J, C] at the places `rows`, `columns` [...], those beyond its edge moved to it: [..., C]."""

    def either_side(places: Array, count: int) -> tuple[Array, Array, Array]:
        held = jnp.clip(places, 0.0, count - 1.0)
        low = jnp.floor(held).astype(jnp.int32)
        return low, jnp.minimum(low + 1, count - 1), (held - low.astype(held.dtype))[..., None]

    top, bottom, down = either_side(rows, image.shape[0])
    left, right, along = either_side(columns, image.shape[1])
    upper = (1.0 - along) * image[top, left] + along * image[top, right]
    lower = (1.0 - along) * image[bottom, left] + along * image[bottom, right]
    return (1.0 - down) * upper + down * lower


def inside(key: Key, sides: tuple[int, int], most: float | Array) -> Array:
    """Which pixels lie in a square of a uniform side up to `most` of the smaller side, about a uniform centre: booleans
    [I, J]."""
    side, row, column = jax.random.uniform(key, (3,), jnp.float32)
    half = 0.5 * side * most * min(sides)
    near = [
        jnp.abs(jnp.arange(length, dtype=jnp.float32) + 0.5 - centre * length) < half
        for length, centre in zip(sides, (row, column), strict=True)
    ]
    return near[0][:, None] & near[1]


def strong_text(stream: Mapping[str, Array], keys: Array, masked: float | Array) -> Array:
    """The attention mask [B, T] of a text without a share `masked` of its tokens; the first, which a head may read,
    stays."""
    ids = jnp.asarray(stream["input_ids"])
    mask = jnp.asarray(stream["attention_mask"]) if "attention_mask" in stream else jnp.ones_like(ids)
    drawn = jax.vmap(lambda key: jax.random.uniform(key, ids.shape[1:], jnp.float32))(keys)
    kept = (drawn >= masked) | (jnp.arange(ids.shape[1]) == 0)
    return jnp.where(kept, mask, jnp.zeros_like(mask))
