"""Two classifiers that agree on the target."""

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
    """Maximum classifier discrepancy (Saito et al., 2018, section 3.3), beside `Supervised(on="source")` and with
    `update=Alternating()`.

    A second head, inserted below `mcd` and drawn at random, learns the source as the model's own does. With d the mean
    over the target of |p1 - p2|, of the softmaxes of both, a step takes these turns: (A) all leaves minimise both
    risks; (B) the heads minimise both risks - `trade_off` x d; (C) the stages below them minimise `trade_off` x d,
    `repeats` times. The loss is `weight` times that.

    The paper takes 1 for `trade_off`, its followers up to 10. The heads are compared without noise of their own. The
    model answers by its own head alone; the paper's code reports each of the two and the sum of their logits.
    """

    trade_off: Weight = 1.0
    repeats: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight(self, "trade_off")
        if self.repeats < 1:
            raise ValueError(f"Mcd: repeats is {self.repeats}; it is 1 or more")

    def needs(self, streams: Collection[str]) -> Needs:
        needs = super().needs(streams)
        return needs._replace(labels=(self.source,), exclusive=True, taps=("head",))

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        head = model.stages[-1].name
        fresh = initialise(Model((), {head: subtree(model.params, head)}, {}), key).params
        return added(params, {f"mcd/{path}": leaf for path, leaf in flatten(fresh).items()}, "Mcd")

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
        each = disagreement(answers(first, self.target), answers(second, self.target))
        discrepancy = mean_over(view, self.target, each)
        now = current(self.trade_off, view.tick)
        ramp = {"trade_off": now} if isinstance(self.trade_off, Ramp) else {}
        apart = now * discrepancy
        value = (risk, risk - apart, *[apart] * self.repeats)[view.turn]
        return weighed(self.weight, value, view, risk=risk, discrepancy=discrepancy, **ramp)
