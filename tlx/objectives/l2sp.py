"""L2-SP: keep the parameters near their starting point."""

from collections.abc import Collection
from dataclasses import dataclass

import jax.numpy as jnp

from tlx.functional.losses import squared_distance
from tlx.objectives.base import Needs, Term, check_weight, weighed
from tlx.objectives.leaves import below, stage_names
from tlx.objectives.ramp import Ramp, Weight, current
from tlx.trees import Tree, flatten, nest
from tlx.types import Array, Setting, View


@dataclass(frozen=True, kw_only=True)
class L2SP(Term):
    """weight / 2 |w_S - w0_S|^2 + head / 2 |w_head|^2 (Li et al., 2018), over the leaves that learn.

    w_S are the pretrained leaves and those that a tuning adds; their anchor w0_S is their value at the start of the
    run. w_head are the leaves of the last stage and all leaves that were drawn at random; their anchor is 0. Leaves
    that other terms add belong to neither group. Keep the optimiser's own `weight_decay` at 0, because it would
    penalise the same leaves a second time.
    """

    head: Weight = 0.01
    weight: Weight = 0.01

    def __post_init__(self) -> None:
        check_weight(self, "weight", "head")

    def needs(self, streams: Collection[str]) -> Needs:
        return Needs(features=False, pretrained=True)

    def memory(self, setting: Setting) -> Tree:
        """Return `start`, w0_S by path, and `head`, a zero for each leaf of w_head."""
        stages = stage_names(setting.model)
        params = flatten(setting.variables.params)
        trainable = params.keys() if setting.trainable is None else setting.trainable
        leaves = {path: leaf for path, leaf in params.items() if path in trainable and path.startswith(below(stages))}
        head_prefixes = below(stages[-1:]) if len(stages) > 1 else ()
        head = {path for path in leaves if path in setting.new or path.startswith(head_prefixes)}
        return {
            "start": nest({path: leaf for path, leaf in leaves.items() if path not in head}),
            "head": nest({path: jnp.zeros(()) for path in leaves if path in head}),
        }

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        params = flatten(view.params)
        anchors = {name: flatten(view.memory.get(name, {})) for name in ("start", "head")}
        start, head = (squared_distance({path: params[path] for path in anchor}, anchor) for anchor in anchors.values())
        head_weight = current(self.head, view.tick)
        ramp = {"head_weight": head_weight} if isinstance(self.head, Ramp) else {}
        value, logged = weighed(self.weight, 0.5 * start, view, distance=start, head=head, **ramp)
        return value + 0.5 * head_weight * head, logged
