"""Learning without forgetting: keep the predictions of the old head."""

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

    q = softmax(old / T) are the predictions of the old model on the new data, with its initial parameters. p =
    softmax(logits / T) are the predictions of a copy of its head on the current features; the copy is inserted below
    `lwf` and learns. The old model is the pretrained one, with its own head. Where the new task uses another head,
    `source` names the checkpoint of the old model.
    """

    source: str | None = None
    temperature: float = 2.0
    on: str = "labelled"
    weight: Weight = 4.0

    def __post_init__(self) -> None:
        check_weight(self, "weight")
        if self.temperature <= 0:
            raise ValueError(f"Lwf: temperature is {self.temperature}; expected a number above 0")

    def needs(self, streams: Collection[str]) -> Needs:
        models = () if self.source is None else (self.source,)
        return Needs(forward=(self.on,), exclusive=True, features=False, taps=("head",), models=models, pretrained=True)

    def check(self, preview: Preview) -> None:
        """Check that the old head is trained and fits.

        Raises:
            ValueError: `source` has no trained head that fits; or, without `source`, the model's head is in no
                checkpoint.
        """
        if self.source is not None:
            check_source(preview.model, preview.references[self.source], self.source, "Lwf")
        elif paths := drawn_head(preview.model, preview.new):
            raise ValueError(
                f"Lwf keeps the predictions of the pretrained head, but {paths[0]!r} is not in the checkpoint and "
                "is drawn at random: name the checkpoint of the old head: Lwf(source=...)"
            )

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        old_model, old_params = model, params
        if self.source is not None:
            pretrained = load_pretrained(self.source)
            old_model, old_params = pretrained.model, pretrained.variables.params
        head = old_model.stages[-1].name
        leaves = declared(old_model, old_params, head)
        return added(params, {f"lwf/{head}/{path}": leaf for path, leaf in leaves.items()}, "Lwf")

    def memory(self, setting: Setting) -> Tree:
        """Return the variables of the old model."""
        return remember(setting) if self.source is None else load_pretrained(self.source).variables._asdict()

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        if self.source is None:
            model, variables = view.model, remembered(view)
        else:
            model, variables = view.references[self.source], Variables(**view.memory)
        old_logits = forward(model, variables, view.batch[self.on], dtype=view.dtype)[0]["logits"]
        head = model.stages[-1]
        params = subtree(view.params, f"lwf/{head.name}")
        logits = apply_head(head, params, view.taps[self.on]["carry"], view.dtype)
        targets = jax.nn.softmax(old_logits / self.temperature, -1)
        risk = mean_over(view, self.on, soft_cross_entropy(logits / self.temperature, targets))
        return weighed(self.weight, risk, view, risk=risk)
