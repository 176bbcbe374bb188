"""The forms of EfficientNet and the MobileNets in timm and in torchvision.

Both have torch's padding and epsilon, except the networks of timm that came from TensorFlow (`tf_...`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from tlx.models import efficientnet, mobilenet
from tlx.models.efficientnet import EfficientNet
from tlx.models.heads import Head
from tlx.models.mobilenet import MobileNetV2, MobileNetV3
from tlx.models.names import Name
from tlx.trees import Json
from tlx.weights.formats.efficientnet import timm_names, torchvision_names
from tlx.weights.formats.mobilenet import timm_names_2, timm_names_3, torchvision_names_2, torchvision_names_3
from tlx.weights.formats.timm import TimmFormat
from tlx.weights.formats.torchvision import COUNT, TorchvisionFormat, families_of

TORCH: dict[str, Any] = {"padding": "both", "epsilon": 1e-5, "momentum": 0.9}
UNUSED = (rf".*\.{COUNT}", r"classifier\..*")
ENDS = ("conv_stem", "classifier")
NETS, TWOS, THREES = (families_of(name) for name in ("efficientnet", "mobilenet_v2", "mobilenet_v3"))
PLAIN_NETS = {
    f"efficientnet_{name}": replace(efficientnet.VARIANTS[name], **TORCH) for name in ("b0", "b1", "b2", "b3", "b4")
}
WIDTHS = {"050": 0.5, "100": 1.0, "140": 1.4}


class TorchvisionPadded(TorchvisionFormat):
    """The base class of the forms in torchvision, whose networks have equal zeros on both sides."""

    unused = UNUSED
    epsilons: ClassVar[tuple[float, ...]] = (1e-5,)

    def write(self, config: Any, head: Head | None, document: Json) -> Json:
        """Return `document`. Raises ValueError for settings that the network of torchvision does not have."""
        for name, allowed in (("padding", ("both",)), ("epsilon", self.epsilons)):
            if (value := getattr(config, name)) not in allowed:
                raise ValueError(
                    f"torchvision has no {type(config).__name__} with {name}={value!r}, expected "
                    f"{' or '.join(map(repr, allowed))}; save it in another layout"
                )
        return document


class EfficientNetTorchvision(TorchvisionPadded):
    """The names of torchvision's `EfficientNet`."""

    families = NETS.torchvision
    # B5 to B7 have the epsilon of TensorFlow.
    epsilons = (1e-5, 1e-3)

    def names(self, config: EfficientNet, head: Head | None) -> Iterator[Name]:
        return torchvision_names(config, head)


class EfficientNetTimm(TimmFormat, EfficientNetTorchvision):
    """The form of timm's `EfficientNet`, EfficientNet-Lite too."""

    families = NETS.timm
    ends = ENDS
    architectures = {f"tf_efficientnet_{name}": config for name, config in efficientnet.VARIANTS.items()} | PLAIN_NETS

    def names(self, config: EfficientNet, head: Head | None) -> Iterator[Name]:
        return timm_names(config, head)


class MobileNetV2Torchvision(TorchvisionPadded):
    """The names of torchvision's `MobileNetV2`."""

    families = TWOS.torchvision

    def names(self, config: MobileNetV2, head: Head | None) -> Iterator[Name]:
        return torchvision_names_2(config, head)


class MobileNetV2Timm(TimmFormat, MobileNetV2Torchvision):
    """The form of timm's MobileNetV2."""

    families = TWOS.timm
    ends = ENDS
    architectures: ClassVar[Mapping[str, Any]] = {
        f"mobilenetv2_{name}": MobileNetV2(width_multiplier=width, **TORCH) for name, width in WIDTHS.items()
    }

    def names(self, config: MobileNetV2, head: Head | None) -> Iterator[Name]:
        return timm_names_2(config, head)


class MobileNetV3Torchvision(TorchvisionPadded):
    """The names of torchvision's `MobileNetV3`."""

    families = THREES.torchvision
    epsilons = (1e-3,)

    def names(self, config: MobileNetV3, head: Head | None) -> Iterator[Name]:
        return torchvision_names_3(config, head)


class MobileNetV3Timm(TimmFormat, MobileNetV3Torchvision):
    """The form of timm's MobileNetV3."""

    families = THREES.timm
    ends = ENDS
    architectures: ClassVar[Mapping[str, Any]] = {
        f"{library}mobilenetv3_{name}_100": replace(config, **settings)
        for library, settings in (("", TORCH), ("tf_", {"padding": "same"}))
        for name, config in mobilenet.VARIANTS.items()
    }

    def names(self, config: MobileNetV3, head: Head | None) -> Iterator[Name]:
        return timm_names_3(config, head)
