"""The old head goes on answering as it did."""

from dataclasses import dataclass

import jax

from tlx.functional.losses import soft_cross_entropy
from tlx.models import forward
from tlx.objectives.base import Term, check_classes, check_weight, declared, drawn_head, head_of, mean_over, weighed
from tlx.objectives.brought import apply_head, bring, check_inputs, remember, remembered, structure, with_head
from tlx.objectives.cotuning import check_head
from tlx.objectives.ramp import Weight
from tlx.trees import Tree, added, subtree
from tlx.types import Array, Key, Model, Setting, Variables, View


@dataclass(frozen=True, kw_only=True)
class Lwf(Term):
    """Learning without forgetting (Li and Hoiem, 2016): `weight` times the mean of -sum_c q_c log p_c.

    q = softmax(old / T) are the answers of the old model, as it came, to the new data, and p = softmax(logits / T)
    those of a copy of its head, inserted below `lwf`, that learns on the current features. The old model is the one
    that was brought, with its own head; where the new task takes another head, `source` names the checkpoint again.
    """

    source: str | None = None
    temperature: float = 2.0
    on: str = "labelled"
    weight: Weight = 4.0

    def __post_init__(self) -> None:
        check_weight(self, "weight")
        if self.temperature <= 0:
            raise ValueError(f"Lwf: temperature is {self.temperature}; it is positive")

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        """Raises ValueError for a model or source without a head, or a head that does not fit the features."""
        own, numbers, head = model, params, head_of(model, "Lwf").name
        if self.source is not None:
            pretrained = bring(self.source)
            own, numbers = with_head(pretrained, self.source, "Lwf"), pretrained.variables.params
            head = head_of(own, "Lwf").name
            check_inputs(model, own, self.source, "Lwf")
            check_head(model, own, self.source, "Lwf")
        leaves = declared(own, numbers, head)
        return added(params, {f"lwf/{head}/{path}": leaf for path, leaf in leaves.items()}, "Lwf")

    def memory(self, setting: Setting) -> Tree:
        """The numbers of the old model. Raises ValueError where its head was drawn afresh."""
        check_classes(setting.task, "Lwf")
        if self.source is not None:
            return bring(self.source).variables._asdict()
        if drawn_head(setting):
            raise ValueError(
                "Lwf keeps the answers of the head that was brought, and this one was drawn afresh; name the "
                "checkpoint of the old head: Lwf(source=...)"
            )
        return remember(setting)

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        if self.source is None:
            model, variables = view.model, remembered(view)
        else:
            model, variables = structure(self.source), Variables(**view.memory)
        old = forward(model, variables, view.batch[self.on], dtype=view.dtype)[0]["logits"]
        head = model.stages[-1]
        own = subtree(view.params, f"lwf/{head.name}")
        logits = apply_head(head, own, view.taps[self.on]["carry"], view.dtype)
        targets = jax.nn.softmax(old / self.temperature, -1)
        risk = mean_over(view, self.on, soft_cross_entropy(logits / self.temperature, targets))
        return weighed(self.weight, risk, view, risk=risk)
