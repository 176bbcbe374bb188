"""Mixup and CutMix: mix pairs of images and their labels. Shapes: B batch, I height, J width, C channels.

Neighbours in the batch are mixed with each other: the first with the second, and so on. Batches are drawn in random
order, so neighbours are random pairs. The result does not depend on the number of devices, as long as each device has
an even number of examples.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from tlx.objectives.base import Needs, Streams, Term, check_weight, mean_over, task_losses, weighed
from tlx.objectives.ramp import Weight
from tlx.types import Array, Key, Tick, View


def symmetric_beta(key: Key, alpha: float | Array) -> Array:
    """Return a draw of Beta(alpha, alpha), a scalar.

    (1 + t / sqrt(nu + t^2)) / 2, where t = sqrt(nu (U^(-2 / nu) - 1)) cos(2 pi V) follows Student's distribution with
    nu = 2 alpha degrees of freedom (Bailey, 1994), and U, V are uniform; written so that nothing overflows. JAX's
    generator supports any two parameters, but it rejects in two loops that take longer to compile than the rest of a
    small step.
    """
    u, v = jax.random.uniform(key, (2,), jnp.float32)
    power, cosine = u ** (1.0 / alpha), jnp.cos(2.0 * jnp.pi * v)
    square = (1.0 - power) * cosine * cosine
    return 0.5 * (1.0 + jnp.sign(cosine) * jnp.sqrt(square / jnp.maximum(power + square, 1e-30)))


def partnered(batch: Mapping[str, Array]) -> dict[str, Array]:
    """Return the batch with the labels of the partners."""
    return {**batch, "label": batch["partner"]}


def neighbours(x: Array) -> Array:
    """Return each example's partner in its place: rows 1, 0, 3, 2, ..."""
    return x.reshape(-1, 2, *x.shape[1:])[:, ::-1].reshape(x.shape)


class Mixing(Term):
    """The shared part of `Mixup` and `CutMix`: a stream of mixed images, and the loss on it.

    The loss is share CE(own label) + (1 - share) CE(partner's label).
    """

    on: str
    alpha: float
    weight: Weight
    # The only stream that the term creates.
    adds: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        check_weight(self, "weight")
        if self.alpha <= 0:
            raise ValueError(
                f"{type(self).__name__}: alpha is {self.alpha}; the Beta distribution needs a number above 0"
            )

    def needs(self, streams: Collection[str]) -> Needs:
        return Needs(
            forward=self.adds,
            batch=(self.on,),
            labels=(self.on,),
            creates=self.adds,
            exclusive=True,
            features=False,
            inputs=("image",),
        )

    def mix(self, image: Array, partner: Array, key: Key) -> tuple[Array, Array]:
        """Mix images with their partners.

        Args:
            image: the images, [B, I, J, C].
            partner: the partner of each image, [B, I, J, C].
            key: the random key of the step.

        Returns:
            The mixed images [B, I, J, C], and the share [] of each mixed image that comes from the image itself.
        """
        raise TypeError(f"{type(self).__name__} does not define mix; give the class a method mix(image, partner, key)")

    def streams(self, batch: Streams, tick: Tick) -> Streams:
        """Return the batch with the mixed stream; raise ValueError without images or for an odd number of examples."""
        name, stream = type(self).__name__, batch[self.on]
        if "image" not in stream:
            raise ValueError(
                f"{name} mixes images, but the stream {self.on!r} contains only {', '.join(sorted(stream))}"
            )
        image, label = jnp.asarray(stream["image"]), jnp.asarray(stream["label"])
        if len(image) % 2:
            raise ValueError(
                f"{name} mixes neighbouring examples, so it needs an even number of examples on each device, not "
                f"{len(image)}"
            )
        mixed, share = self.mix(image, neighbours(image), jax.random.fold_in(tick.key, 1))
        mixed_arrays = {"image": mixed, "partner": neighbours(label), "share": jnp.broadcast_to(share, len(image))}
        return {**batch, self.adds[0]: {**stream, **mixed_arrays}}

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        batch = view.batch[self.adds[0]]
        own_losses = task_losses(view, self.adds[0])
        partner_losses = task_losses(view, self.adds[0], relabel=partnered)
        risk = mean_over(view, self.adds[0], batch["share"] * own_losses + (1.0 - batch["share"]) * partner_losses)
        return weighed(self.weight, risk, view, risk=risk, share=batch["share"].mean())


@dataclass(frozen=True, kw_only=True)
class Mixup(Mixing):
    """`weight` times the loss on share x + (1 - share) x' (Zhang et al., 2018), in the place of `Supervised`.

    share ~ Beta(alpha, alpha), with one draw per batch.
    """

    on: str = "labelled"
    alpha: float = 0.2
    weight: Weight = 1.0

    adds: ClassVar[tuple[str, ...]] = ("mixup",)

    def mix(self, image: Array, partner: Array, key: Key) -> tuple[Array, Array]:
        share = symmetric_beta(key, self.alpha)
        factor = share.astype(image.dtype)
        return factor * image + (1 - factor) * partner, share


@dataclass(frozen=True, kw_only=True)
class CutMix(Mixing):
    """`weight` times the loss on images with a box from their partner (Yun et al., 2019), in the place of `Supervised`.

    The box has the share 1 - Beta(alpha, alpha) of the area and a random centre, with one draw per batch. The box is
    cut off at the border, and the share of the own label is the share of the pixels that remain.
    """

    on: str = "labelled"
    alpha: float = 1.0
    weight: Weight = 1.0

    adds: ClassVar[tuple[str, ...]] = ("cutmix",)

    def mix(self, image: Array, partner: Array, key: Key) -> tuple[Array, Array]:
        height, width = image.shape[1:3]
        share, row, column = jax.random.split(key, 3)
        side = jnp.sqrt(1.0 - symmetric_beta(share, self.alpha))
        inside = within(row, height, side)[:, None] & within(column, width, side)
        return jnp.where(inside[None, :, :, None], partner, image), 1.0 - inside.astype(jnp.float32).mean()


def within(key: Key, length: int, share: Array) -> Array:
    """Return which of `length` places lie in a stretch of `share` of them about a random centre: booleans [length]."""
    centre = jax.random.randint(key, (), 0, length)
    half = (length * share).astype(jnp.int32) // 2
    places = jnp.arange(length)
    return (places >= centre - half) & (places < centre + half)
