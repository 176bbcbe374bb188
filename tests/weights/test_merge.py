"""Merged weights compute the same; parameters that cannot be merged are named."""

import jax
import numpy as np
import pytest

from tlx import models, tasks, tuning
from tlx.trees import flatten, nest
from tlx.weights import Manifest, Pretrained, merge

CLASSES = 3
VIT = models.Vit(size=4, patch=2, channels=1, width=6, depth=1, heads=2, mlp=5)
MLP = models.Mlp(inputs=(4, 4, 1), widths=(5, 4))
MERGED = {
    "Lora": tuning.Lora(rank=2, on=r"stem|blocks/\d+", dropout=0.5),
    "Dora": tuning.Dora(rank=2, on=r"stem|blocks/\d+"),
    "Vera": tuning.Vera(rank=3, on=r"stem|blocks/\d+"),
    "Ia3": tuning.Ia3(on=r"stem|blocks/\d+", inputs="stem"),
}
APART = {
    "Adapter": ("blocks/00/adapter/down/bias", "an adapter"),
    "Prefix": ("blocks/00/attention/prefix/key", "a prefix"),
    "Prompt": ("stem/prompt/tokens", "a prompt"),
    "Bottleneck": ("head/neck/down/bias", "a bottleneck"),
    "SideHead": ("head/side/maps/blocks/00/kernel", "a side head"),
}
IMAGE = np.random.default_rng(0).normal(size=(3, 4, 4, 1)).astype(np.float32)


def random(config, how, seed=0, base=0) -> Pretrained:
    """The model of `config` with parameters of the tuning: the base from the seed `base`, the inserted ones from
    `seed`.
    """
    model, rng = models.build(config, CLASSES), np.random.default_rng(base)
    params = models.initialise(model, jax.random.key(0)).params
    params = jax.tree.map(lambda leaf: np.asarray(leaf) + rng.normal(size=leaf.shape).astype(np.float32), params)
    leaves, rng = flatten(how.insert(model, params, jax.random.key(seed))), np.random.default_rng(seed)
    for path in sorted(leaves.keys() - flatten(params).keys()):
        if not path.endswith(("scale", "dropout")):
            leaves[path] = leaves[path] + rng.normal(size=leaves[path].shape).astype(np.float32)
    variables = models.initialise(model, jax.random.key(0))._replace(params=nest(dict(sorted(leaves.items()))))
    return Pretrained(model, variables, None, Manifest("random", {}, ()), tasks.Classification(classes=CLASSES))


def logits(model, variables):
    return models.forward(model, variables, {"image": IMAGE})[0]["logits"]


@pytest.mark.parametrize("how", MERGED)
def test_plain_kernels_compute_the_same_as_with_inserted_parameters(how):
    inputs = random(MLP, MERGED[how])
    plain = merge.merge(inputs.variables)
    assert flatten(plain.params).keys() == flatten(inputs.model.params).keys()
    np.testing.assert_allclose(
        logits(inputs.model, plain), logits(inputs.model, inputs.variables), rtol=1e-5, atol=1e-5
    )
    before, after = flatten(inputs.variables.params), flatten(plain.params)
    assert not any(after[f"{layer}/kernel"] is before[f"{layer}/kernel"] for layer in ("stem", "blocks/00"))
    # A kernel without inserted parameters is unchanged.
    assert after["head/kernel"] is before["head/kernel"]


@pytest.mark.slow
def test_merging_holds_without_biases_and_in_attention():
    inputs = random(models.Vit(**{**VIT.__dict__, "qkv_bias": False}), tuning.Ia3())
    plain = merge.merge(inputs.variables)
    np.testing.assert_allclose(
        logits(inputs.model, plain), logits(inputs.model, inputs.variables), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("how", APART)
def test_parameters_that_no_kernel_can_absorb_are_refused_by_name(how):
    inputs = random(VIT, getattr(tuning, how)())
    with pytest.raises(ValueError) as error:
        merge.merge(inputs.variables)
    path, kind = APART[how]
    assert str(error.value).startswith(f"{path!r} belongs to {kind}")


def test_a_sum_of_deltas_is_the_delta_of_the_sum():
    one, two = (random(MLP, tuning.Lora(rank=2, on="stem", alpha=alpha), seed) for seed, alpha in ((1, 2.0), (2, 6.0)))
    kernels = [flatten(merge.merge(value.variables).params)["stem/kernel"] for value in (one, two)]
    base = flatten(one.variables.params)["stem/kernel"]
    both = merge.sum_adapters([one, two], [0.5, -2.0])
    wanted = base + 0.5 * (kernels[0] - base) - 2.0 * (kernels[1] - base)
    got = flatten(merge.merge(both.variables).params)["stem/kernel"]
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    assert flatten(both.variables.params)["stem/lora/a"].shape == (16, 4)
    np.testing.assert_allclose(
        logits(both.model, both.variables), logits(both.model, merge.merge(both.variables)), rtol=1e-5, atol=1e-5
    )


LORA = tuning.Lora(rank=2, on="stem")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ([random(MLP, LORA)], [1.0, 2.0]), "1 models and 2 weights ... one weight for each"),
        (lambda: ([], []), "0 models and 0 weights ... one weight for each"),
        (lambda: ([random(MLP, LORA), random(MLP, tuning.Lora(rank=1, on="stem"))], [1, 1]),
         "models have different adapters: 'stem/lora/a' is (16, 2) in model 0, (16, 1) in model 1"),
        (lambda: ([random(MLP, LORA), random(MLP, tuning.Lora(rank=2, on="blocks/00"))], [1, 1]),
         "models have different adapters: 'blocks/00/lora/a' is missing in model 0, (5, 2) in model 1"),
        (lambda: ([random(MLP, LORA), random(MLP, LORA, base=1)], [1, 1]), "different base models: "),
        (lambda: ([random(MLP, tuning.Dora(rank=2, on="stem"))], [1]),
         "'stem/lora/magnitude' ... plain LoRA"),
        (lambda: ([random(MLP, tuning.Full())], [1]), "the models have no adapter"),
    ],
)  # fmt: skip
def test_adapters_that_cannot_be_summed_are_refused(make, message):
    with pytest.raises(ValueError) as error:
        merge.sum_adapters(*make())
    for part in message.split(" ... "):
        assert part in str(error.value)
