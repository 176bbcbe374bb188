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


@dataclass(frozen=True, kw_only=True)
class Neck:
    """A hidden layer between the features of a model and its classifier: dense, batch norm, ReLU, dropout.

    It is the "bottleneck" of Transfer-Learning-Library. Its outputs are then the features that losses compare and
    `features` returns. Every tuning that trains the head trains the neck too.

    Attributes:
        width: The number of its outputs.
        norm: Whether it has batch norm.
        dropout: The rate of dropout after it.
    """

    width: int = 256
    norm: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.width, bool) or not isinstance(self.width, int) or self.width < 1:
            raise ValueError(f"Neck has width={self.width!r}; expected a whole number above 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"Neck has dropout={self.dropout!r}; expected a rate in [0, 1)")


@dataclass(frozen=True)
class Pooled(Head):
    """Logits of the whole example, [B, outputs]: classification, regression, several labels for each example.

    `neck` is a hidden layer below the classifier; None leaves the head of the architecture as it is.
    """

    neck: Neck | None = None


@dataclass(frozen=True)
class Vocabulary(Head):
    """Logits of every token over the words of the model, [B, T, outputs]: language modelling.

    `models.build` replaces `outputs=0` by the number of the model's words.
    """

    outputs: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.outputs, bool) or not isinstance(self.outputs, int) or self.outputs < 0:
            raise ValueError(f"Vocabulary has outputs={self.outputs!r}; expected a whole number, or 0 for all words")


@dataclass(frozen=True)
class PerToken(Head):
    """Logits of every token, [B, T, outputs]: one label for each token."""


@dataclass(frozen=True)
class Span(PerToken):
    """Two logits of every token, [B, T, 2]: whether an answer begins there, and whether it ends there.

    With `window` a text of more tokens is a row of windows of this length, which the model reads separately.
    """

    outputs: int = 2
    window: int | None = None

    def __post_init__(self) -> None:
        if self.outputs != 2:
            raise ValueError(f"Span has outputs={self.outputs!r}; expected 2, the beginning and the end of a span")
        if self.window is not None and self.window < 2:
            raise ValueError(f"Span has window={self.window!r}; expected a number of tokens above 1")
