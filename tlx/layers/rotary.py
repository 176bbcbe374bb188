"""Rotary positions (Su et al., 2021) and their scalings for texts that are longer than those of the pretraining.

Shapes: B batch, T tokens, H heads, D head size, F rotated part of a head, an even number.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from tlx.types import Array


class Angles(NamedTuple):
    """Cosine and sine of the rotary angle of each token, [T, F] or [B, T, F]."""

    cos: Array
    sin: Array


def rotary_angles(positions: Array, size: int, *, base: float = 10000.0, frequencies: Array | None = None) -> Angles:
    """Return the rotary angles of tokens (Su et al., 2021).

    Args:
        positions: The places of the tokens in their text, [T] or [B, T].
        size: F, the number of rotated dimensions of a head, an even number.
        base: The base of the frequencies base ** (-2 n / F).
        frequencies: [F / 2], used instead of the frequencies of `base`, for example for a longer context.

    Returns:
        Cosine and sine, [T, F] or [B, T, F].
    """
    if frequencies is None:
        frequencies = 1.0 / base ** (jnp.arange(0, size, 2, dtype=jnp.float32) / size)
    angles = jnp.asarray(positions, jnp.float32)[..., None] * frequencies
    angles = jnp.concatenate([angles, angles], axis=-1)
    return Angles(jnp.cos(angles), jnp.sin(angles))


def rotate(x: Array, angles: Angles) -> Array:
    """Rotate the first F dimensions of every head of `x` [B, H, T, D].

    The pairs are the first and the second half of the F dimensions, as in Llama and GPT-NeoX.
    """
    cos, sin = (array[:, None] if array.ndim == 3 else array for array in angles)
    size = cos.shape[-1]
    wide = x[..., :size].astype(jnp.float32)
    first, second = jnp.split(wide, 2, axis=-1)
    rotated = (wide * cos + jnp.concatenate([-second, first], axis=-1) * sin).astype(x.dtype)
    return rotated if size == x.shape[-1] else jnp.concatenate([rotated, x[..., size:]], axis=-1)


def rotary_frequencies(size: int, base: float) -> np.ndarray:
    """Return the frequencies base ** (-2 n / F) of the F / 2 pairs of a head, in float32: [F / 2]."""
    return np.float32(1.0) / np.float32(base) ** (np.arange(0, size, 2, dtype=np.float32) / np.float32(size))


def dynamic_frequencies(size: int, base: float, factor: float, room: int, tokens: Array) -> Array:
    """Return the frequencies of dynamic scaling, [F / 2]: the base grows with the length of the text.

    Up to `room` tokens they are those of `base` (`transformers`: "dynamic", after "NTK-aware" scaling).

    Args:
        size: F, above 2.
        base: The base of the frequencies.
        factor: The factor by which a text may be longer than `room`.
        room: The number of tokens of the pretraining.
        tokens: The length of the text, a scalar.
    """
    ratio = factor * jnp.maximum(jnp.asarray(tokens, jnp.float32), room) / room - (factor - 1.0)
    longer_base = base * ratio ** (size / (size - 2))
    return 1.0 / longer_base ** (jnp.arange(0, size, 2, dtype=jnp.float32) / size)


def llama3_frequencies(frequencies: np.ndarray, factor: float, low: float, high: float, room: int) -> np.ndarray:
    """Return the frequencies of Llama 3.1, [F / 2]: long waves are stretched by `factor`, short ones are unchanged.

    Args:
        frequencies: The frequencies of the base, [F / 2].
        factor: The factor of waves longer than room / low.
        low: See `factor`.
        high: Waves shorter than room / high are unchanged; those between are blended.
        room: The number of tokens of the pretraining.
    """
    waves = 2 * math.pi / frequencies
    share = (room / waves - low) / (high - low)
    blended = (1 - share) * frequencies / factor + share * frequencies
    stretched = np.where(waves > room / low, frequencies / factor, frequencies)
    between = (waves >= room / high) & (waves <= room / low)
    return np.where(between, blended, stretched).astype(np.float32)


def yarn_frequencies(
    size: int, base: float, factor: float, fast: float, slow: float, room: int, whole: bool = True
) -> np.ndarray:
    """Return the frequencies of YaRN (Peng et al., 2024), [F / 2].

    Args:
        size: F.
        base: The base of the frequencies.
        factor: The factor by which the slowest waves are stretched.
        fast: Pairs that turn more often than this in `room` tokens are unchanged.
        slow: Pairs that turn less often than this are stretched in full.
        room: The number of tokens of the pretraining.
        whole: Whether the ends of the range between are rounded to whole pairs.
    """

    def pair(turns: float) -> float:
        return size * math.log(room / (turns * 2 * math.pi)) / (2 * math.log(base))

    first, last = pair(fast), pair(slow)
    if whole:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, size - 1)
    # A range of no width would divide by 0.
    last = last + 0.001 if first == last else last
    stretched = np.clip((np.arange(size // 2, dtype=np.float32) - first) / (last - first), 0, 1).astype(np.float32)
    plain = rotary_frequencies(size, base)
    return (plain / np.float32(factor) * stretched + plain * (1 - stretched)).astype(np.float32)


def yarn_factor(factor: float, weight: float = 1.0) -> float:
    """Return the factor of cosine and sine in YaRN for texts longer by `factor` (Peng et al., 2024, eq. 22)."""
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0
