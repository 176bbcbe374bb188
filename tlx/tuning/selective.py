"""Tunings that add nothing and train few of the model's parameters or statistics: biases, norms, running statistics."""

from dataclasses import dataclass

from tlx.trees import flatten
from tlx.tuning.base import REST_STILL, Tuning, either, norm_leaves, parametric, with_head
from tlx.types import Learn, Model, Phase


@dataclass(frozen=True, kw_only=True)
class BitFit(Tuning):
    """Train every bias and the head (Ben Zaken et al., 2022)."""

    chooses = True

    def phases(self, model: Model) -> tuple[Phase, ...]:
        if not any(path.endswith("/bias") for path in flatten(model.params)):
            raise ValueError(
                f"BitFit() requires biases; {type(model.config).__name__} has none: use Lora(), for example"
            )
        return with_head(model, "BitFit", (r".*/bias", Learn(weight_decay=0.0)))


@dataclass(frozen=True, kw_only=True)
class NormTuning(Tuning):
    """Train the scales and shifts of every norm, and the head (for batch norm, Frankle et al., 2021).

    Without `head` the last stage is frozen. With `objective=(Entropy(on="unlabelled", weight=1.0),)` on a trained
    model, this is Tent (Wang et al., 2021): batch norm normalises by the moments of the target's batch, and its scales
    and shifts minimise the entropy. Tent predicts while it adapts, each batch with its own moments; here the model
    predicts after the run, with the running moments.
    """

    chooses = True

    head: bool = True

    def phases(self, model: Model) -> tuple[Phase, ...]:
        """Return the only phase; raise ValueError for a model without norms (without `head`: none below the head)."""
        norms = norm_leaves(model)
        if not self.head:
            head = parametric(model)[-1]
            norms = {path: leaves for path, leaves in norms.items() if not f"{path}/".startswith(f"{head}/")}
        if not norms:
            raise ValueError(
                f"NormTuning() requires norm layers (a scale, perhaps a bias); {type(model.config).__name__} has none"
            )
        norm_rule = either([leaf for leaves in norms.values() for leaf in leaves], Learn(weight_decay=0.0))
        return with_head(model, "NormTuning", norm_rule) if self.head else (Phase(1.0, (norm_rule, REST_STILL)),)


@dataclass(frozen=True, kw_only=True)
class AdaBN(Tuning):
    """Adapt the running statistics to the batches that the objective reads, and freeze all parameters.

    This is AdaBN (Li et al., 2016). The scales and shifts beside the statistics get the learning rate 0 in the
    optimiser, so that their stages run in training mode. The objective is measured and changes nothing:
    `Entropy(on="unlabelled")` selects the stream. The paper computes the moments over all examples of the target at
    once. Here they are an exponential average over the batches (`Cnn.momentum`), in which the initial moments have the
    weight momentum ** steps.
    """

    def phases(self, model: Model) -> tuple[Phase, ...]:
        """Return the only phase; raise ValueError for a model without running statistics."""
        layers = {path.rpartition("/")[0] for path in flatten(model.stats)}
        paths = [path for path in flatten(model.params) if path.rpartition("/")[0] in layers]
        if not paths:
            raise ValueError(
                f"AdaBN() requires batch norm (running statistics); {type(model.config).__name__} has none"
            )
        return (Phase(1.0, (either(paths, Learn(lr=0.0, weight_decay=0.0)), REST_STILL)),)
