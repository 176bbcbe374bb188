"""Parameters as whole numbers of 8 bits (see `tlx.training.precision`)."""

from typing import Any, NamedTuple

import numpy as np


class Quantised(NamedTuple):
    """A parameter as whole numbers of 8 bits and the `scale` of each channel, which broadcasts over them."""

    values: Any
    scale: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the parameter."""
        return self.values.shape


def dequantised(numbers: Quantised) -> Any:
    """Return the parameter that the numbers mean, in float32: values x scale, without rounding."""
    return numbers.values.astype(np.float32) * numbers.scale
