"""JAN: match the joint kernel means of features and predictions of two streams."""

from collections.abc import Collection
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from tlx.functional.discrepancy import SCALES, joint_mmd, linear_joint_mmd
from tlx.objectives.base import Needs, weighed
from tlx.objectives.between import Between, check_scales, gathered, rows
from tlx.types import Array, View


@dataclass(frozen=True, kw_only=True)
class Jmmd(Between):
    """`weight` times the joint maximum mean discrepancy between the two streams (JAN; Long et al., 2017).

    It equals `Mmd`, but the kernel of the inputs of the head is multiplied by a Gaussian kernel of width `sigma` on the
    softmax of the logits. Features and predictions are thus matched jointly.
    """

    scales: tuple[float, ...] = SCALES
    sigma: float = 0.92
    linear: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scales(self.scales, "Jmmd")
        if self.sigma <= 0:
            raise ValueError(f"Jmmd: sigma is {self.sigma}; expected a number above 0")

    def needs(self, streams: Collection[str]) -> Needs:
        return super().needs(streams)._replace(exclusive=True, features=True)

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        """Return the loss and its metrics; raise ValueError for a batch of one example."""

        def layers(stream: str) -> tuple[Array, Array]:
            logits = gathered(view, view.taps[stream]["logits"])
            return rows(view, stream), jax.nn.softmax(logits.astype(jnp.float32), -1)

        measure = linear_joint_mmd if self.linear else joint_mmd
        distance = measure(layers(self.source), layers(self.target), self.scales, self.sigma)
        return weighed(self.weight, distance, view, distance=distance)
