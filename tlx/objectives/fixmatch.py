"""FixMatch: use confident predictions as labels for strongly augmented inputs."""

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
    """FixMatch (Sohn et al., 2020): `PseudoLabel` with classes from a weak view, learned on a strong view.

    The weak view is the stream `on` as the data provide it, so `Data(augment=(...))` sets the weak augmentation. The
    strong view of an image has two random changes and a square cut out, each at most `strength` times the paper's sizes
    (see `strong.strong_image`). The strong view of a text hides the share `masked` of its tokens from attention. The
    random draws depend on the step and the example alone.
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
        """Return the batch with the strong views; raise ValueError for a stream with neither images nor text."""
        stream = batch[self.on]
        # One key per example, so that the result does not depend on the number of devices.
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(tick.key, 2), jnp.asarray(stream["index"]))
        if "image" in stream:
            strong = {"image": strong_image(jnp.asarray(stream["image"]), keys, self.strength)}
        elif "input_ids" in stream:
            strong = {"attention_mask": strong_text(stream, keys, self.masked)}
        else:
            raise ValueError(
                f"FixMatch needs images or text, but the stream {self.on!r} contains only {', '.join(sorted(stream))}"
            )
        return {**batch, STREAM: {**stream, **strong}}

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        weak, strong = (view.taps[stream]["logits"] for stream in (self.on, STREAM))
        return self_taught(self, view, weak, strong)
