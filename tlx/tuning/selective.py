"""Tunings that add nothing and let a few of the model's own numbers move: its biases, its norms, its statistics."""

from dataclasses import dataclass

from tlx.trees import flatten
from tlx.tuning.base import REST_STILL, Tuning, either, groups, parametric, with_head
from tlx.types import Learn, Model, Phase


@dataclass(frozen=True, kw_only=True)
class BitFit(Tuning):
    """Every bias and the head learn (Ben Zaken et al., 2022)."""

    chooses = True

    def phases(self, model: Model) -> tuple[Phase, ...]:
        return with_head(model, "BitFit", (r".*/bias", Learn(weight_decay=0.0)))


@dataclass(frozen=True, kw_only=True)
class NormTuning(Tuning):
    """The scales and shifts of every norm, and the head, learn (for batch norm, Frankle et al., 2021).

    Without `head` the last stage stays as it came. With `objective=(Entropy(on="unlabelled", weight=1.0),)` on a model
    that was brought, that is Tent (Wang et al., 2021): batch norm normalises by the moments of the target's batch, its
    scales and shifts go down the entropy, and nothing else moves. Tent answers while it adapts, each batch by its own
    moments; here it is the running ones that answer, after the run.
    """

    chooses = True

    head: bool = True

    def phases(self, model: Model) -> tuple[Phase, ...]:
        """Raises ValueError for a model without norms, or, without `head`, without any below the head."""
        norms = [path for path, group in groups(model.params) if group.keys() == {"scale", "bias"}]
        if not self.head:
            last = parametric(model)[-1]
            norms = [path for path in norms if not f"{path}/".startswith(f"{last}/")]
        if not norms:
            raise ValueError(f"NormTuning() finds no norm (a scale and a bias) in {type(model.config).__name__}")
        found = either([f"{path}/{name}" for path in norms for name in ("scale", "bias")], Learn(weight_decay=0.0))
        return with_head(model, "NormTuning", found) if self.head else (Phase(1.0, (found, REST_STILL)),)


@dataclass(frozen=True, kw_only=True)
class AdaBN(Tuning):
    """No parameter moves; running statistics do, towards those of the batches that the objective reads (Li et al.,
    2016).

    The scales and shifts beside the statistics are given to the optimiser at the rate 0, so that their stages run as in
    training. The objective is measured and moves nothing: `Entropy(on="unlabelled")` says which stream is read. There,
    the moments are those of all the target's examples at once; here they are an exponential average over the batches
    (`Cnn.momentum`), in which what was brought counts momentum ** steps after so many steps.
    """

    def phases(self, model: Model) -> tuple[Phase, ...]:
        """Raises ValueError for a model without running statistics."""
        beside = {path.rpartition("/")[0] for path in flatten(model.stats)}
        found = [path for path in flatten(model.params) if path.rpartition("/")[0] in beside]
        if not found:
            raise ValueError(f"AdaBN() finds no batch norm (running statistics) in {type(model.config).__name__}")
        return (Phase(1.0, (either(found, Learn(lr=0.0, weight_decay=0.0)), REST_STILL)),)
