"""Base class of foreign forms of checkpoints, for the architectures of tlx and of users."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from tlx.models.heads import Head, PerToken, Pooled, Span, Vocabulary
from tlx.models.names import Name
from tlx.trees import Json

# The ends of the names of the classes of `transformers` with a head over the vocabulary.
LANGUAGE = ("LMHeadModel", "ForCausalLM", "ForMaskedLM", "ForConditionalGeneration")


class Format:
    """The names, layouts and config.json of the models of an architecture in another library.

    Attributes:
        layout: The library that has this layout, one of `tlx.weights.layouts.LAYOUTS`.
        families: Our name of the family for each `model_type` of config.json that is read.
        unused: Patterns of foreign tensors that may stay unread.
        generation: Fields of config.json that a generation_config.json in the same directory replaces.
    """

    layout: ClassVar[str] = "transformers"
    families: ClassVar[Mapping[str, str]] = {}
    unused: ClassVar[tuple[str, ...]] = ()
    generation: ClassVar[tuple[str, ...]] = ()

    def read(self, document: Json) -> Any:
        """Return the architecture that config.json describes. Raises ValueError for settings that it does not cover."""
        raise TypeError(f"{type(self).__name__} does not define read(document), which reads config.json; define it")

    def write(self, config: Any, head: Head | None, document: Json) -> Json:
        """Return a config.json for an architecture and its head, with other fields from an earlier `document`.

        Raises ValueError for an architecture or a head without a foreign form.
        """
        raise TypeError(f"{type(self).__name__} does not define write(...), which writes config.json; define it")

    def names(self, config: Any, head: Head | None) -> Iterator[Name]:
        """Yield the foreign name of every declared parameter."""
        raise TypeError(
            f"{type(self).__name__} does not define names(config, head), which names the tensors; define it"
        )

    def prefix(self, config: Any) -> str:
        """Return the prefix of the backbone's tensor names in a checkpoint with a head."""
        return ""

    def kind(self, config: Any) -> str:
        """Return the `model_type` to write if none was read: the family of the architecture, or the only one."""
        return str(getattr(config, "family", next(iter(self.families), "")))

    def head_in(self, document: Json) -> type[Head] | None:
        """Return the kind of head that config.json states; None if it states none."""
        return head_of_class((document.get("architectures") or [""])[0])

    def finished(self, document: Json, processor: Any) -> Json:
        """Return a complete config.json in the form of the library, with what it states about the processor.

        Raises ValueError for a processor that the library has no form for.
        """
        return document

    def bare(self, config: Any, head: Head | None) -> bool:
        """Return whether the tensors are named as in a class without a head."""
        return head is None

    def ignored(self, config: Any, head: Head | None) -> tuple[str, ...]:
        """Return patterns of the foreign tensors that may stay unread for a model with this head."""
        return self.unused

    def unanswered(self, config: Any, head: Head | None) -> str | None:
        """Return why no class of the other library computes the same outputs, and what to do; None if one does."""
        return None

    def constants(self, config: Any, head: Head | None) -> dict[str, np.ndarray]:
        """Return tensors that the other library's class reads and the model does not have."""
        return {}

    def in_memory(self, config: Any, module: str) -> str | None:
        """Return the name in memory of a `module` of a file, as in peft; None if it is split in memory."""
        return module

    def peft_task(self, config: Any, head: Head | None) -> str | None:
        """Return peft's `task_type` of the model."""
        return None

    def reads_prompt(self, config: Any) -> bool:
        """Return whether the model of the other library reads embeddings that peft puts before the tokens."""
        return False

    def reads_prefix(self, config: Any) -> bool:
        """Return whether the model of the other library reads keys and values that peft puts before the tokens."""
        return False


def head_of_class(name: str) -> type[Head] | None:
    """Return the kind of head of a class of `transformers`, by its name."""
    if name.endswith("ForTokenClassification"):
        return PerToken
    if name.endswith("ForQuestionAnswering"):
        return Span
    if name.endswith(LANGUAGE):
        return Vocabulary
    return Pooled if name.endswith(("Classification", "WithTeacher")) else None
