"""Where a prefix may be cut, and what is said where it may not."""

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
    ("own", "stage", "reads"),
    [
        (tuning.Probe(), "head", {("pooled",)}),
        (tuning.Bottleneck(width=3), "head", {("pooled",)}),
        (tuning.Freeze(through="blocks/00"), "blocks/01", {("hidden",), ("mask",)}),
        (tuning.Lora(rank=2, on=r"blocks/02/attention/query"), "blocks/02", {("hidden",), ("mask",)}),
        (tuning.SideHead(), "head", {("pooled",), *(("side", name) for name in SIDE)}),
    ],
)
def test_the_cut_is_below_the_first_stage_that_learns_and_holds_what_is_read(text, changed, own, stage, reads):
    found = cut(changed(text, tuning=own))
    assert (found.stage, {path for path, _ in found.reads}) == (stage, reads)
    assert found.why == f"everything below {stage!r} is frozen"


def test_phases_that_unfreeze_from_the_top_have_a_cut_each(text, changed):
    recipe = changed(text, tuning=tuning.Gradual(factor=1.0))
    phases = prepare(recipe, open_data(recipe)).phases
    found = [cut(recipe, phase).stage for phase in range(len(phases))]
    assert found == ["head", "blocks/02", "blocks/01", "blocks/00", None][: len(found)] or found[-1] is None
    assert [stage for stage in found if stage] == sorted((stage for stage in found if stage), reverse=True)


def test_what_an_earlier_phase_has_moved_is_not_cut_off(text, changed):
    recipe = changed(text, tuning=tuning.InTurn((0.5, tuning.Freeze(through="blocks/00")), (0.5, tuning.Probe())))
    found = cut(recipe, 1)
    assert found.stage == "blocks/01"
    assert found.why == (
        "everything below 'blocks/01' is frozen; all below 'head' is by now, but an earlier phase has moved it"
    )


def test_where_all_learns_nothing_is_cut(image, changed):
    assert cut(changed(image, tuning=tuning.Full())).why == "'stem', the first stage, learns"


def test_images_that_change_at_every_step_have_no_prefix(image, changed):
    data = {"augment": (Crop(padding=1),)}
    told = "the images are augmented afresh at every step; Data(views=k) takes k fixed ways"
    assert cut(changed(image, data=data)).why == told
    assert cut(changed(image, data=data | {"views": 3})).stage == "blocks/00"


def with_stage(apply):
    """A model with one more stage, without parameters, behind its first."""

    def change(ready):
        first, *rest = ready.model.stages
        return ready._replace(model=ready.model._replace(stages=(first, Stage("extra", apply), *rest)))

    return change


def test_noise_below_the_cut_is_seen_in_the_program_itself(image):
    noisy = with_stage(
        lambda params, stats, carry, context: ({**carry, "hidden": dropout(carry["hidden"], 0.5, context, 7)}, stats)
    )
    assert cut(image, change=noisy).why == "there is dropout or other noise below 'blocks/00'"
    calm = with_stage(lambda params, stats, carry, context: ({**carry, "hidden": 2 * carry["hidden"]}, stats))
    assert cut(image, change=calm).stage == "blocks/00"


def test_an_objective_that_reads_below_the_cut_is_named(image, changed, tmp_path):
    told = cut(changed(image, objective=(terms.Mixup(),))).why
    assert told.startswith("the objective reads what lies below 'blocks/00' (ValueError: Mixup mixes images")
    told = cut(changed(image, objective=(terms.Supervised(), terms.Delta()))).why
    assert told.startswith("the objective reads what lies below 'blocks/00'")


def test_statistics_that_move_below_the_cut_are_seen(image, changed):
    model = models.Cnn(size=8, widths=(3, 4), dense=None)
    frozen = changed(image, model=model, tuning=tuning.Freeze(through="stem"))
    assert cut(frozen).stage is not None


def test_statistics_that_move_below_the_cut_are_refused(image):
    """Of a stage that counts its steps although nothing of it learns."""

    def counted(params, stats, carry, context):
        return carry, {"count": stats["count"] + float(context.train)}

    def change(ready):
        stats = {**ready.variables.stats, "extra": {"count": np.zeros((), np.float32)}}
        return with_stage(counted)(ready)._replace(variables=ready.variables._replace(stats=stats))

    assert cut(image, change=change).why == "running statistics move below 'blocks/00'"


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
