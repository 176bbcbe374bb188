"""What a term of the objective is: three pure hooks on a frozen dataclass."""

from tlx.trees import Tree
from tlx.types import Array, Key, Model, Variables, View


class Term:
    """`insert` adds leaves to the parameters (none by default); `memory` is what the term carries (copies it owns);
    `loss` is a scalar with numbers to log."""

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        return params

    def memory(self, model: Model, variables: Variables) -> Tree:
        return {}

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        raise TypeError(f"{type(self).__name__} has no loss")
