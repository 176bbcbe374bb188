"""What a term of the objective is: four pure hooks on a frozen dataclass."""

from collections.abc import Mapping

from tlx.trees import Tree
from tlx.types import Array, Key, Model, Setting, Tick, View

Streams = Mapping[str, Mapping[str, Array]]


class Term:
    """`insert` adds leaves to the parameters (none by default); `memory` is what the term carries (copies it owns);
    `streams` changes or adds streams before the one forward pass that each gets, inside the step; `loss` is a scalar
    with numbers to log."""

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        return params

    def memory(self, setting: Setting) -> Tree:
        return {}

    def streams(self, batch: Streams, tick: Tick) -> Streams:
        return batch

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        raise TypeError(f"{type(self).__name__} has no loss")
