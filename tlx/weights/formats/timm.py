"""Base class of timm's layout: a directory with `architecture` and `pretrained_cfg` in config.json."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, ClassVar

from tlx import config as records
from tlx.models.heads import Head, Pooled
from tlx.processors.pictures import ImageProcessor
from tlx.processors.timm_settings import settings_of
from tlx.trees import Json
from tlx.weights.formats.base import Format

# Arguments of timm's constructors that change nothing in evaluation, or that pretrained_cfg and num_classes repeat.
HARMLESS = ("in_chans", "num_classes", "global_pool", "img_size", "drop_rate", "drop_path_rate")
# Fields of an architecture that no parameter depends on, and that differ between equal networks.
FREE = ("size", "channels", "dropout", "attention_dropout", "stochastic_depth", "momentum", "deviation")
POOLING = "avg"
# Entries of other layouts, which timm does not read.
OTHERS = ("model_type", "num_labels", "dtype")


class TimmFormat(Format):
    """The form of timm for a family of networks.

    Attributes:
        architectures: The architecture by its name in timm.
        ends: The names in timm of the first convolution and of the classifier.
    """

    layout: ClassVar[str] = "timm"
    architectures: ClassVar[Mapping[str, Any]] = {}
    ends: ClassVar[tuple[str, str]] = ("", "")

    def classes_in(self, document: Json) -> int:
        """Return the number of classes that config.json of timm states."""
        arguments, settings = document.get("model_args") or {}, document.get("pretrained_cfg") or {}
        stated = [source.get("num_classes") for source in (arguments, document, settings)]
        stated.append(document.get("num_labels"))
        return next((int(count) for count in stated if count is not None), 0)

    def read(self, document: Json) -> Any:
        """Return the architecture that config.json describes. Raises ValueError for settings that it does not cover."""
        arguments, settings = document.get("model_args") or {}, document.get("pretrained_cfg") or {}
        if other := sorted(arguments.keys() - set(HARMLESS)):
            raise ValueError(
                f"config.json has model_args.{other[0]}={arguments[other[0]]!r}; tlx supports only the usual "
                f"{document['architecture']}, without {', '.join(other)}"
            )
        pooling = arguments.get("global_pool") or document.get("global_pool") or POOLING
        if pooling not in self.poolings():
            raise ValueError(
                f"config.json has global_pool {pooling!r}; tlx supports {', '.join(map(repr, self.poolings()))} for "
                f"{document['architecture']}"
            )
        base = self.architectures[document["architecture"]]
        channels, height, width = settings.get("input_size") or (base.channels, *two(base.size))
        channels = arguments.get("in_chans") or channels
        height, width = two(arguments.get("img_size") or (height, width))
        return records.replace(base, channels=channels, size=height if height == width else (height, width))

    def poolings(self) -> tuple[str, ...]:
        """Return the values of `global_pool` that the network computes."""
        return (POOLING,)

    def write(self, config: Any, head: Head | None, document: Json) -> Json:
        """Return a config.json for `config`, with other fields from an earlier `document`.

        Raises ValueError for an architecture that timm has no name for.
        """
        matches = list(self.named(config))
        if not matches:
            raise ValueError(
                f"timm has no architecture with the sizes of this {type(config).__name__}; tlx knows those of "
                f"{', '.join(self.architectures)}. Save it in another layout"
            )
        stated = document.get("architecture")
        height, width = two(config.size)
        settings = document.get("pretrained_cfg") or {}
        first, last = self.ends_of(config)
        outputs = 0 if head is None else head.outputs
        settings = settings | {"num_classes": outputs, "first_conv": first, "classifier": last}
        settings |= {"input_size": [config.channels, height, width]}
        values = {"architecture": stated if stated in matches else matches[0], "num_classes": outputs}
        values |= {"global_pool": self.poolings()[0], "pretrained_cfg": settings}
        arguments: Json = {"in_chans": config.channels, "num_classes": outputs}
        arguments |= {} if config.any_size else {"img_size": [height, width]}
        return document | values | {"model_args": arguments}

    def ends_of(self, config: Any) -> tuple[str, str | list[str]]:
        """Return the names in timm of the first convolution and of the classifier, or of both classifiers."""
        return self.ends

    def named(self, config: Any) -> Iterator[str]:
        """Yield the names in timm of an architecture with the parameters of `config`; those of its size come first."""
        names = [field.name for field in fields(config) if field.name not in FREE]
        for name, base in sorted(self.architectures.items(), key=lambda item: item[1].size != config.size):
            if all(getattr(base, field) == getattr(config, field) for field in names):
                yield name

    def kind(self, config: Any) -> str:
        return next(iter(self.families))

    def head_in(self, document: Json) -> type[Head] | None:
        return Pooled if self.classes_in(document) else None

    def finished(self, document: Json, processor: Any) -> Json:
        labels = document.get("id2label") or {}
        kept = {name: value for name, value in document.items() if name not in OTHERS}
        names = [labels[str(n)] for n in range(len(labels))]
        kept |= {"label_names": names} if any(name != f"LABEL_{n}" for n, name in enumerate(names)) else {}
        if isinstance(processor, ImageProcessor):
            return kept | {"pretrained_cfg": kept["pretrained_cfg"] | settings_of(processor)}
        return kept


def two(size: Any) -> tuple[int, int]:
    """Return (height, width) of a size that is one side or both."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])
