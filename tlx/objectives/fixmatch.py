"""Confident predictions as labels for strongly augmented inputs."""

from collections.abc import Collection
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from tlx.objectives.base import Needs, Streams, check_weight
from tlx.objectives.pseudo import PseudoLabel, check_share, self_taught
from tlx.objectives.strong import strong_image, strong_text
from tlx.types import Array, Tick, View

# The stream of the strong views.
STREAM = "fixmatch"


@dataclass(frozen=True, kw_only=True)
class FixMatch(PseudoLabel):
    """FixMatch (Sohn et al., 2020): `PseudoLabel` whose classes come from the stream `on` as it is, and are learned on
    a strong view of it.

    The weak view is the stream as the data give it, so `Data(augment=(...))` is what makes it one. The strong view of
    an image is two random changes and a box cut out, of at most `strength` times the paper's sizes (see
    `strong.strong_image`); that of a text has the share `masked` of its tokens hidden from attention. What is drawn
    depends on the step and the example alone.
    """

    strength: float = 1.0
    masked: float = 0.15

    def __post_init__(self) -> None:
        check_weight(self, "weight")
        check_share(self, "threshold", "strength", "masked")

    def needs(self, streams: Collection[str]) -> Needs:
        return Needs(
            forward=(self.on, STREAM),
            batch=(self.on,),
            creates=(STREAM,),
            exclusive=True,
            features=False,
            inputs=("image", "input_ids"),
        )

    def streams(self, batch: Streams, tick: Tick) -> Streams:
        """Raise ValueError for a stream with neither images nor text."""
        stream = batch[self.on]
        # By example, so that how devices share the batch changes nothing.
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(tick.key, 2), jnp.asarray(stream["index"]))
        if "image" in stream:
            strong = {"image": strong_image(jnp.asarray(stream["image"]), keys, self.strength)}
        elif "input_ids" in stream:
            strong = {"attention_mask": strong_text(stream, keys, self.masked)}
        else:
            raise ValueError(f"FixMatch finds neither images nor text in {self.on!r}: {', '.join(sorted(stream))}")
        return {**batch, STREAM: {**stream, **strong}}

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        weak, strong = (view.taps[stream]["logits"] for stream in (self.on, STREAM))
        return self_taught(self, view, weak, strong)
