"""Weights for images with another number of channels: the kernel of the first convolution is changed as the user asks.

Shapes: I height, J width of a kernel, C channels of the checkpoint's images, N channels of the new images, O outputs.
"""

from typing import Any, Literal, get_args

import numpy as np

from tlx import config as records
from tlx.processors import ImageProcessor, Processor
from tlx.weights.form import Pretrained
from tlx.weights.mapped import widened

First = Literal["sum", "repeat"]
# The stage that reads the image.
STEM = "stem/"
ADVICE = {
    True: 'Weights(first="sum") adds the kernels of the channels; without Data(channels=...) a grey image is read as '
    "equal channels",
    False: 'Weights(first="repeat") repeats the kernels of the channels and keeps their sum',
}


def with_channels(settings: Any, channels: int | None, first: First | None) -> Any:
    """Return the architecture of a checkpoint for images with `channels` channels; None for those of the checkpoint.

    Raises ValueError if the numbers of channels differ and `first` does not say how to change the kernel.
    """
    if first is not None:
        records.check_choice("first", first, get_args(First))
    stored = getattr(settings, "channels", None)
    if channels is None or stored is None or stored == channels:
        return settings
    check(stored, channels, first)
    return records.replace(settings, channels=channels)


def check(stored: int, channels: int, first: First | None) -> None:
    """Raise ValueError unless `first` says how a kernel over `stored` channels becomes one over `channels`."""
    fits = channels == 1 if first == "sum" else channels > stored
    if first is None or not fits:
        stated = "" if first is None else f', which first="{first}" does not make of {stored}'
        raise ValueError(
            f"the weights read images with {stored} channels, but images with {channels} are asked for{stated}: "
            f"{ADVICE[channels < stored]}"
        )


def adapted(path: str, kernel: np.ndarray, shape: tuple[int, ...], first: First | None) -> np.ndarray | None:
    """Return the kernel [I, J, C, O] of the first convolution in the `shape` [I, J, N, O]; None for another parameter.

    "sum" makes one channel: the network computes what it computed for an image of C equal channels. "repeat" repeats
    the kernels in turn and multiplies them by C / N, so an image of N equal channels gives what one of C gave.

    Raises ValueError if the numbers of channels differ and `first` does not say how to change the kernel.
    """
    sizes = kernel.shape
    if not path.startswith(STEM) or len(sizes) != 4 or len(shape) != 4 or sizes[2] == shape[2]:
        return None
    if (*sizes[:2], sizes[3]) != (*shape[:2], shape[3]):
        return None
    check(sizes[2], shape[2], first)
    wide = widened(kernel)
    if first == "sum":
        return wide.sum(2, keepdims=True)
    return np.take(wide, np.arange(shape[2]) % sizes[2], axis=2) * np.float32(sizes[2] / shape[2])


def recoloured(pretrained: Pretrained) -> Pretrained:
    """Return the model with a processor for the channels that it reads; without one for other images than grey and
    colour images."""
    processor: Processor | None = pretrained.processor
    channels = getattr(pretrained.model.config, "channels", None)
    if not isinstance(processor, ImageProcessor) or channels is None or processor.channels == channels:
        return pretrained
    return pretrained._replace(processor=processor.with_channels(channels) if channels in (1, 3) else None)
