"""The answers of the old head stay as they were."""

from collections.abc import Collection
from dataclasses import dataclass

import jax

from tlx.functional.losses import soft_cross_entropy
from tlx.models import forward
from tlx.objectives.base import Needs, Preview, Term, check_weight, mean_over, weighed
from tlx.objectives.leaves import declared, drawn_head
from tlx.objectives.ramp import Weight
from tlx.objectives.reference import apply_head, check_source, remember, remembered
from tlx.trees import Tree, added, subtree
from tlx.types import Array, Key, Model, Setting, Variables, View
from tlx.weights import load_pretrained


@dataclass(frozen=True, kw_only=True)
class Lwf(Term):
    """Learning without forgetting (Li and Hoiem, 2016): `weight` times the mean of -sum_c q_c log p_c.

    q = softmax(old / T) are the answers of the old model, as it came, to the new data, and p = softmax(logits / T)
    those of a copy of its head, inserted below `lwf`, that learns on the current features. The old model is the
    pretrained one, with its own head; where the new task takes another head, `source` names the checkpoint again.
    """

    source: str | None = None
    temperature: float = 2.0
    on: str = "labelled"
    weight: Weight = 4.0

    def __post_init__(self) -> None:
        check_weight(self, "weight")
        if self.temperature <= 0:
            raise ValueError(f"Lwf: temperature is {self.temperature}; it is positive")

    def needs(self, streams: Collection[str]) -> Needs:
        models = () if self.source is None else (self.source,)
        return Needs(forward=(self.on,), exclusive=True, features=False, taps=("head",), models=models, pretrained=True)

    def check(self, preview: Preview) -> None:
        """Raise ValueError for a source without a trained head that fits, or, without a source, for a model whose head
        no checkpoint holds."""
        if self.source is not None:
            check_source(preview.model, preview.references[self.source], self.source, "Lwf")
        elif fresh := drawn_head(preview.model, preview.fresh):
            raise ValueError(
                f"Lwf keeps the answers of the pretrained head, and {fresh[0]!r} is drawn at random: name the "
                "checkpoint of the old head: Lwf(source=...)"
            )

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        old, numbers = model, params
        if self.source is not None:
            pretrained = load_pretrained(self.source)
            old, numbers = pretrained.model, pretrained.variables.params
        head = old.stages[-1].name
        leaves = declared(old, numbers, head)
        return added(params, {f"lwf/{head}/{path}": leaf for path, leaf in leaves.items()}, "Lwf")

    def memory(self, setting: Setting) -> Tree:
        """Return the numbers of the old model."""
        return remember(setting) if self.source is None else load_pretrained(self.source).variables._asdict()

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        if self.source is None:
            model, variables = view.model, remembered(view)
        else:
            model, variables = view.references[self.source], Variables(**view.memory)
        old = forward(model, variables, view.batch[self.on], dtype=view.dtype)[0]["logits"]
        head = model.stages[-1]
        params = subtree(view.params, f"lwf/{head.name}")
        logits = apply_head(head, params, view.taps[self.on]["carry"], view.dtype)
        targets = jax.nn.softmax(old / self.temperature, -1)
        risk = mean_over(view, self.on, soft_cross_entropy(logits / self.temperature, targets))
        return weighed(self.weight, risk, view, risk=risk)
