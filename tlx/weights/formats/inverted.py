"""Names of the layers that EfficientNet and the MobileNets share."""

from collections.abc import Iterator

from tlx.models.names import Name, statistics_names


def normed_names(ours: str, kernel: str, norm: str) -> Iterator[Name]:
    """Yield the names of a convolution with batch norm; the middle one of a block has groups of channels."""
    yield Name(f"{ours}/kernel", f"{kernel}.weight", "grouped" if ours.endswith("/middle") else "convolution")
    yield from statistics_names(f"{ours}/norm", norm)


def biased_names(ours: str, foreign: str) -> Iterator[Name]:
    """Yield the names of a convolution with a bias."""
    yield Name(f"{ours}/kernel", f"{foreign}.weight", "convolution")
    yield Name(f"{ours}/bias", f"{foreign}.bias")
