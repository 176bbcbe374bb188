"""Notice when a compiled function meets a batch of a new shape: then it is compiled, which may take minutes."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import numpy as np

from tlx.training.vectorize import Engine

Shapes = tuple[tuple[int, ...], ...]
# Called with the words for a program and the shapes of its batch; the program is compiled within the block.
Announce = Callable[[str, Shapes], AbstractContextManager[None]]


def silent(program: str, shapes: Shapes) -> AbstractContextManager[None]:
    """Announce nothing."""
    return nullcontext()


class Programs:
    """The programs of a phase. `announce` is called before one of them is compiled."""

    def __init__(self) -> None:
        self.announce: Announce = silent

    def watched(self, engine: Engine) -> Engine:
        """Return the engine with programs that announce their compilation."""
        return engine._replace(
            train=Watched(engine.train, "training step", self),
            sweep=None if engine.sweep is None else Watched(engine.sweep, "training steps", self),
            evaluate=Watched(engine.evaluate, "evaluation", self),
        )


class Watched:
    """A compiled function of a state and a batch, with all attributes of the function."""

    def __init__(self, function: Any, words: str, programs: Programs):
        self.function, self.words, self.programs, self.known = function, words, programs, set[Shapes]()

    def __call__(self, state: Any, *batch: Any) -> Any:
        shapes = tuple(np.shape(leaf) for leaf in jax.tree.leaves(batch))
        if shapes in self.known:
            return self.function(state, *batch)
        with self.programs.announce(self.words, shapes):
            outputs = self.function(state, *batch)
        self.known.add(shapes)
        return outputs

    def __getattr__(self, name: str) -> Any:
        return getattr(self.function, name)
