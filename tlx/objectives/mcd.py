"""MCD: train two classifiers and features on which they agree for the target."""

from collections.abc import Collection
from dataclasses import dataclass

from tlx.functional.losses import disagreement
from tlx.models import initialise
from tlx.objectives.base import Needs, check_weight, mean_over, task_losses, weighed
from tlx.objectives.between import Between
from tlx.objectives.leaves import below, stage_names
from tlx.objectives.ramp import Ramp, Weight, current
from tlx.objectives.reference import apply_head
from tlx.trees import Tree, added, flatten, subtree
from tlx.types import Array, Key, Model, Turn, View


@dataclass(frozen=True, kw_only=True)
class Mcd(Between):
    """Maximum classifier discrepancy (Saito et al., 2018, section 3.3).

    Use it beside `Supervised(on="source")` and with `update=Alternating()`.

    A second head, inserted below `mcd` and drawn at random, learns the source as the model's own head does. d is the
    mean over the target of |p1 - p2|, where p1 and p2 are the softmaxes of the two heads. A step takes these turns: (A)
    all leaves minimise both risks; (B) the heads minimise both risks - `trade_off` x d; (C) the stages below the heads
    minimise `trade_off` x d, `repeats` times. The loss is `weight` times these objectives.

    The paper uses 1 for `trade_off`, later work up to 10. The heads are compared without noise. The model predicts with
    its own head alone; the paper's code reports each of the two heads and the sum of their logits.
    """

    trade_off: Weight = 1.0
    repeats: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight(self, "trade_off")
        if self.repeats < 1:
            raise ValueError(f"Mcd: repeats is {self.repeats}; expected 1 or more")

    def needs(self, streams: Collection[str]) -> Needs:
        needs = super().needs(streams)
        return needs._replace(labels=(self.source,), exclusive=True, taps=("head",))

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        head = model.stages[-1].name
        new_params = initialise(Model((), {head: subtree(model.params, head)}, {}), key).params
        return added(params, {f"mcd/{path}": leaf for path, leaf in flatten(new_params).items()}, "Mcd")

    def turns(self, model: Model) -> tuple[Turn, ...]:
        *features, head = stage_names(model)
        heads = below([head, "mcd"])
        return Turn(("",)), Turn(heads), *[Turn(below(features), others=False)] * self.repeats

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        head = view.model.stages[-1]
        first, second = (subtree(view.params, path) for path in (head.name, f"mcd/{head.name}"))

        def answers(params: Tree, stream: str) -> Array:
            return apply_head(head, params, view.taps[stream]["carry"], view.dtype)

        risk = mean_over(view, self.source, task_losses(view, self.source, {"logits": answers(second, self.source)}))
        disagreements = disagreement(answers(first, self.target), answers(second, self.target))
        discrepancy = mean_over(view, self.target, disagreements)
        trade_off = current(self.trade_off, view.tick)
        ramp = {"trade_off": trade_off} if isinstance(self.trade_off, Ramp) else {}
        scaled = trade_off * discrepancy
        value = (risk, risk - scaled, *[scaled] * self.repeats)[view.turn]
        return weighed(self.weight, value, view, risk=risk, discrepancy=discrepancy, **ramp)
