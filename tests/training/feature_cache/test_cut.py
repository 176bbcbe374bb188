"""The stage below which features are cached, and the message if they cannot be cached."""

import jax
import numpy as np
import pytest

from tlx import models, terms, tuning
from tlx.data import Crop
from tlx.layers import dropout
from tlx.training.active_run import setting
from tlx.training.feature_cache import find
from tlx.training.prepare import open_data, prepare
from tlx.training.state import memories
from tlx.types import Stage


def cut(recipe, phase=0, change=lambda ready: ready):
    splits = open_data(recipe)
    ready = change(prepare(recipe, splits))
    if ready.processor is not None and hasattr(ready.processor, "tokenizer"):
        ids = jax.ShapeDtypeStruct((2, 16), "int32")
        inputs = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), ids)
    else:
        inputs = models.example_inputs(ready.model.config)
    return find(ready, phase, inputs, memories(recipe.objective, setting(ready, splits)))


SIDE = ("stem", "blocks/00", "blocks/01", "blocks/02", "pool")


@pytest.mark.parametrize(
    ("value", "stage", "reads"),
    [
        (tuning.Probe(), "head", {("pooled",)}),
        (tuning.Bottleneck(width=3), "head", {("pooled",)}),
        (tuning.Freeze(through="blocks/00"), "blocks/01", {("hidden",), ("mask",)}),
        (tuning.Lora(rank=2, on=r"blocks/02/attention/query"), "blocks/02", {("hidden",), ("mask",)}),
        (tuning.SideHead(), "head", {("pooled",), *(("side", name) for name in SIDE)}),
    ],
)
def test_the_cut_is_below_the_first_trainable_stage_and_caches_what_is_read(text, changed, value, stage, reads):
    actual = cut(changed(text, tuning=value))
    assert (actual.stage, {path for path, _ in actual.reads}) == (stage, reads)
    assert actual.why == f"everything below {stage!r} is frozen"


@pytest.mark.slow
def test_each_phase_of_gradual_unfreezing_has_a_cut(text, changed):
    recipe = changed(text, tuning=tuning.Gradual(factor=1.0))
    phases = prepare(recipe, open_data(recipe)).phases
    actual = [cut(recipe, phase).stage for phase in range(len(phases))]
    assert actual == ["head", "blocks/02", "blocks/01", "blocks/00", None][: len(actual)] or actual[-1] is None
    assert [stage for stage in actual if stage] == sorted((stage for stage in actual if stage), reverse=True)


def test_parameters_trained_in_an_earlier_phase_are_not_cached(text, changed):
    recipe = changed(text, tuning=tuning.InTurn((0.5, tuning.Freeze(through="blocks/00")), (0.5, tuning.Probe())))
    actual = cut(recipe, 1)
    assert actual.stage == "blocks/01"
    assert actual.why.startswith(
        "everything below 'blocks/01' is frozen; everything below 'head' is frozen in this phase"
    )


def test_nothing_is_cached_if_everything_is_trainable(image, changed):
    assert cut(changed(image, tuning=tuning.Full())).why == "'stem', the first stage, is trainable"


def test_images_that_change_at_every_step_are_not_cached(image, changed):
    data = {"augment": (Crop(padding=1),)}
    assert "Data(views=k)" in cut(changed(image, data=data)).why
    assert cut(changed(image, data=data | {"views": 3})).stage == "blocks/00"


def with_stage(apply):
    """Return a model with one more stage, without parameters, after its first stage."""

    def change(ready):
        first, *rest = ready.model.stages
        return ready._replace(model=ready.model._replace(stages=(first, Stage("extra", apply), *rest)))

    return change


def test_noise_below_the_cut_is_detected_in_the_program(image):
    noisy = with_stage(
        lambda params, stats, carry, context: ({**carry, "hidden": dropout(carry["hidden"], 0.5, context, 7)}, stats)
    )
    assert cut(image, change=noisy).why == "there is dropout or other noise below 'blocks/00'"
    calm = with_stage(lambda params, stats, carry, context: ({**carry, "hidden": 2 * carry["hidden"]}, stats))
    assert cut(image, change=calm).stage == "blocks/00"


def test_an_objective_that_reads_below_the_cut_is_named(image, changed, tmp_path):
    recorded = cut(changed(image, objective=(terms.Mixup(),))).why
    assert "stages below 'blocks/00' (ValueError: Mixup mixes images" in recorded
    recorded = cut(changed(image, objective=(terms.Supervised(), terms.Delta()))).why
    assert "stages below 'blocks/00'" in recorded


def test_statistics_that_move_below_the_cut_are_detected(image, changed):
    model = models.Cnn(size=8, widths=(3, 4), dense=None)
    frozen = changed(image, model=model, tuning=tuning.Freeze(through="stem"))
    assert cut(frozen).stage is not None
    for fixed_statistics, stage in (("stages", "blocks/00"), ("layers", "blocks/00"), ("none", None)):
        recorded = cut(changed(frozen, train={"fixed_statistics": fixed_statistics}))
        assert recorded.stage == stage
        assert (recorded.why == "running statistics change below 'blocks/00'") == (stage is None)


def test_statistics_that_move_below_the_cut_are_refused(image):
    """Use a frozen stage that counts its steps."""

    def counted(params, stats, carry, context):
        return carry, {"count": stats["count"] + float(context.train)}

    def change(ready):
        stats = {**ready.variables.stats, "extra": {"count": np.zeros((), np.float32)}}
        return with_stage(counted)(ready)._replace(variables=ready.variables._replace(stats=stats))

    assert cut(image, change=change).why == "running statistics change below 'blocks/00'"


def halved(params, stats, carry, context):
    """Keep every second token."""
    return carry | {name: carry[name][:, ::2] for name in ("hidden", "mask")}, stats


def paired(params, stats, carry, context):
    """Sum each two tokens; an odd number of tokens cannot be reshaped."""
    rows, tokens, width = carry["hidden"].shape
    hidden = carry["hidden"].reshape(rows, tokens // 2, 2, width).sum(2)
    return carry | {"hidden": hidden, "mask": carry["mask"].reshape(rows, tokens // 2, 2).max(2)}, stats


def shortened(params, stats, carry, context):
    """Keep all but the first two tokens."""
    return carry | {name: carry[name][:, 2:] for name in ("hidden", "mask")}, stats


@pytest.mark.parametrize(
    ("apply", "parts"),
    [
        (halved, ("'hidden'", "[2, 12, 16] for 24 tokens", "[2, 12, 16] for 23")),
        (paired, ("'blocks/00'", "do not read 21 tokens", "TypeError")),
        (shortened, ("'hidden'", "[2, 22, 16] for 24 tokens")),
    ],
)
def test_a_stem_with_fewer_tokens_than_the_text_is_not_cached(text, changed, apply, parts):
    refused = cut(changed(text, tuning=tuning.Freeze(through="stem")), change=with_stage(apply))
    assert refused.stage is None
    assert all(part in refused.why for part in parts), refused.why


def test_a_stem_with_further_tokens_is_cached(text, changed):
    def longer(params, stats, carry, context):
        first = {name: carry[name][:, :1] for name in ("hidden", "mask")}
        return carry | {name: jax.numpy.concatenate([first[name], carry[name]], 1) for name in first}, stats

    longer_cut = cut(changed(text, tuning=tuning.Freeze(through="stem")), change=with_stage(longer))
    assert (longer_cut.stage, [(leaf.tokens, leaf.extra) for leaf in longer_cut.leaves]) == (
        "blocks/00",
        [(True, 1), (True, 1)],
    )
