"""The heads of models. A task needs one of them; an architecture lists those that it can build."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Head:
    """The end of a model: `outputs` numbers for each example, or for each part of an example that a subclass names.

    A user's head is a subclass, listed in the `supported_heads` of a user's architecture.
    """

    outputs: int

    def __post_init__(self) -> None:
        if isinstance(self.outputs, bool) or not isinstance(self.outputs, int) or self.outputs < 1:
            raise ValueError(f"{type(self).__name__} has outputs={self.outputs!r}; expected a whole number above 0")


@dataclass(frozen=True)
class Pooled(Head):
    """Logits of the whole example, [B, outputs]: classification, regression, several labels for each example."""


@dataclass(frozen=True)
class PerToken(Head):
    """Logits of every token, [B, T, outputs]: one label for each token."""
