"""Strong augmentation of inputs, inside the step. Shapes: B batch, I height, J width, C channels, T tokens.

`keys` [B] has one random key per example.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from tlx.types import Array, Key

# The largest extent of each kind of change (appendix of Sohn et al., 2020): an angle of 30 degrees, two shears, two
# shifts as shares of a side, and brightness and loss of contrast, for pixels scaled to about [-1, 1].
MOST = (jnp.pi / 6, 0.3, 0.3, 0.3, 0.3, 0.95, 0.95)
CHANGES = 2
CUT = 0.5


def strong_image(image: Array, keys: Array, strength: float | Array = 1.0) -> Array:
    """Change images strongly (RandAugment and Cutout as in FixMatch; Cubuk et al., 2020; DeVries and Taylor, 2017).

    Two kinds of change are drawn from rotation, two shears, two shifts, brightness and contrast, each with a uniform
    extent. Then a square is cut out. The square has a uniform side of up to half of the image's side and the value 0,
    which is the middle of normalised pixels. Beyond its edge, the image repeats its edge pixels.

    Args:
        image: the images, [B, I, J, C].
        keys: one key per example, [B].
        strength: a factor of all extents; 0 changes nothing.

    Returns:
        The changed images, [B, I, J, C].
    """
    return jax.vmap(lambda one_image, key: changed(one_image, key, strength))(image, keys)


def changed(image: Array, key: Key, strength: float | Array) -> Array:
    """Return one image [I, J, C] with random changes and a square cut out."""
    kind, extent, box = jax.random.split(key, 3)
    kinds = jax.random.randint(kind, (CHANGES,), 0, len(MOST))
    chosen = (kinds[:, None] == jnp.arange(len(MOST))).any(0)
    most = jnp.asarray(MOST, jnp.float32) * strength
    amounts = jnp.where(chosen, most * jax.random.uniform(extent, (len(MOST),), jnp.float32, -1.0, 1.0), 0.0)
    angle, shear_rows, shear_columns, down, right, lighter, flatter = amounts
    pixels = moved(image.astype(jnp.float32), angle, (shear_rows, shear_columns), (down, right))
    # Contrast only decreases, as in most of the paper's range. The two changes do not affect each other.
    mean = pixels.mean((0, 1))
    pixels = mean + (1.0 - jnp.abs(flatter)) * (pixels - mean) + lighter
    return jnp.where(inside(box, (image.shape[0], image.shape[1]), CUT * strength)[..., None], 0.0, pixels).astype(
        image.dtype
    )


def moved(image: Array, angle: Array, shears: tuple[Array, Array], shifts: tuple[Array, Array]) -> Array:
    """Return an image [I, J, C] that is rotated, sheared and shifted about its centre, with bilinear interpolation.

    Args:
        image: the image, [I, J, C].
        angle: the rotation in radians.
        shears: the shear of the rows and of the columns.
        shifts: the shift of the rows and of the columns, as shares of the sides.
    """
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
    """Return `image` [I, J, C] at the places `rows`, `columns` [...], moved to the edge where outside: [..., C]."""

    def either_side(places: Array, count: int) -> tuple[Array, Array, Array]:
        inner = jnp.clip(places, 0.0, count - 1.0)
        low = jnp.floor(inner).astype(jnp.int32)
        return low, jnp.minimum(low + 1, count - 1), (inner - low.astype(inner.dtype))[..., None]

    top, bottom, down = either_side(rows, image.shape[0])
    left, right, along = either_side(columns, image.shape[1])
    upper = (1.0 - along) * image[top, left] + along * image[top, right]
    lower = (1.0 - along) * image[bottom, left] + along * image[bottom, right]
    return (1.0 - down) * upper + down * lower


def inside(key: Key, sides: tuple[int, int], most: float | Array) -> Array:
    """Return which pixels lie in a random square: booleans [I, J].

    Its side is uniform up to `most` of the smaller side, and its centre is uniform.
    """
    side, row, column = jax.random.uniform(key, (3,), jnp.float32)
    half = 0.5 * side * most * min(sides)
    near = [
        jnp.abs(jnp.arange(length, dtype=jnp.float32) + 0.5 - centre * length) < half
        for length, centre in zip(sides, (row, column), strict=True)
    ]
    return near[0][:, None] & near[1]


def strong_text(stream: Mapping[str, Array], keys: Array, masked: float | Array) -> Array:
    """Return the attention mask [B, T] with a share `masked` of the tokens hidden.

    The first token is never hidden, because a head may read it.
    """
    ids = jnp.asarray(stream["input_ids"])
    mask = jnp.asarray(stream["attention_mask"]) if "attention_mask" in stream else jnp.ones_like(ids)
    uniform = jax.vmap(lambda key: jax.random.uniform(key, ids.shape[1:], jnp.float32))(keys)
    visible = (uniform >= masked) | (jnp.arange(ids.shape[1]) == 0)
    return jnp.where(visible, mask, jnp.zeros_like(mask))
