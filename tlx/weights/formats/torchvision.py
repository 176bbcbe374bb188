"""Base class of torchvision's layout: the names of a state dict, without a document beside it."""

from typing import Any, ClassVar, NamedTuple

import numpy as np

from tlx.models.heads import Head, Pooled
from tlx.trees import Json
from tlx.weights.formats.base import Format

COUNT = "num_batches_tracked"


class TorchFamilies(NamedTuple):
    """Our name of a family by its `model_type` in each layout; neither library has such a word."""

    torchvision: dict[str, str]
    timm: dict[str, str]


def families_of(name: str) -> TorchFamilies:
    """Return the `families` of the formats of both libraries for the family `name`."""
    return TorchFamilies({f"torchvision.{name}": name}, {f"timm.{name}": name})


class TorchvisionFormat(Format):
    """The names of torchvision's networks. A state dict does not describe its architecture, so the user names it."""

    layout: ClassVar[str] = "torchvision"

    def read(self, document: Json) -> Any:
        raise ValueError("a state dict of torchvision does not describe its architecture; pass it: model=...")

    def write(self, config: Any, head: Head | None, document: Json) -> Json:
        """Return `document`. Raises ValueError for settings that the network of torchvision does not have."""
        return document

    def kind(self, config: Any) -> str:
        return next(iter(self.families))

    def head_in(self, document: Json) -> type[Head] | None:
        return Pooled if document.get("num_labels") else None

    def constants(self, config: Any, head: Head | None) -> dict[str, np.ndarray]:
        """Return the number of batches seen by each norm, which torch counts and does not use."""
        names = [name.foreign for name in self.names(config, head)]
        norms = [name.removesuffix("running_mean") for name in names if name.endswith(".running_mean")]
        return {f"{norm}{COUNT}": np.zeros((), np.int64) for norm in norms}
