"""Reconciliation: every tensor is explained, and saving then loading is the identity."""

import dataclasses

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tlx
from tlx import models, tasks
from tlx.trees import flatten
from tlx.types import Variables
from tlx.weights import Manifest, Pretrained, load_pretrained, save_pretrained

TINY = {"width": 12, "depth": 2, "heads": 3, "mlp": 20}
CONFIGS = {
    "bert": models.Bert(vocabulary=50, positions=16, **TINY),
    "roberta": models.Bert(family="roberta", vocabulary=50, positions=18, types=1, pad=1, **TINY),
    "distilbert": models.Bert(family="distilbert", vocabulary=50, positions=16, types=0, **TINY),
    "mean": models.Bert(vocabulary=50, positions=16, pooling="mean", **TINY),
    "electra": models.Bert(family="electra", vocabulary=50, positions=16, embedding=8, **TINY),
    "mpnet": models.MPNet(vocabulary=50, positions=18, **TINY),
    "albert": models.Albert(vocabulary=50, positions=16, embedding=8, **TINY),
    "modernbert": models.ModernBert(vocabulary=50, positions=16, pad=0, **TINY),
    "deberta": models.DebertaV2(
        vocabulary=50, positions=16, relative=True, terms=("c2p", "p2c"), buckets=4, kernel=3, **TINY
    ),
    "t5": models.T5(vocabulary=50, buckets=6, **TINY),
    "bart": models.Bart(vocabulary=50, positions=16, decoder_heads=2, decoder_mlp=9, **TINY),
    "gpt2": models.Gpt2(vocabulary=50, positions=16, pad=0, **TINY),
    "llama": models.Llama(vocabulary=50, positions=16, key_heads=1, head_size=6, pad=0, **TINY),
    "vit": models.Vit(size=8, patch=4, channels=1, **TINY),
    "deit": models.Vit(family="deit", size=8, patch=4, distilled=True, **TINY),
    "dinov2": models.Vit(family="dinov2", size=8, patch=4, layer_scale=1.0, **(TINY | {"mlp": 24})),
    "cnn": models.Cnn(size=8, widths=(4, 6), dense=None),
    "mlp": models.Mlp(inputs=(8, 8, 1), widths=(7, 5)),
}
# Text encoders of other forms than BERT.
FURTHER = ("deberta", "mpnet", "albert", "modernbert")
TASK = tasks.Classification(classes=3, names=("low", "middle", "high"))


def random(config, task=TASK, seed=0) -> Pretrained:
    """Return a model in which every number is random, statistics included."""
    model = models.build(config, None if task is None else task.outputs)
    rng = np.random.default_rng(seed)
    shaken = [
        jax.tree.map(lambda leaf: rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32), tree)
        for tree in models.initialise(model, jax.random.key(0))
    ]
    return Pretrained(model, Variables(*shaken), None, Manifest("random", {}, ()), task)


@pytest.fixture
def saved(tmp_path):
    directory = tmp_path / "model"
    save_pretrained(random(CONFIGS["bert"]), directory)
    return directory


def rewrite(directory, change):
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


@pytest.mark.parametrize("task", [TASK, None], ids=["head", "backbone"])
@pytest.mark.parametrize("name", CONFIGS)
def test_saving_then_loading_is_the_identity(tmp_path, name, task):
    before = random(CONFIGS[name], task)
    after = load_pretrained(save_pretrained(before, tmp_path))
    assert [stage.name for stage in after.model.stages] == [stage.name for stage in before.model.stages]
    assert after.task == task
    assert jax.tree.structure(after.variables) == jax.tree.structure(before.variables)
    jax.tree.map(np.testing.assert_array_equal, after.variables, before.variables)
    assert "reset" not in after.manifest.counts()


def test_a_model_without_a_foreign_form_is_saved_in_the_form_of_tlx(tmp_path):
    before = random(models.Vit(size=8, patch=4, layer_scale=0.1, **TINY))
    after = load_pretrained(save_pretrained(before, tmp_path))
    assert after.model.config == before.model.config
    jax.tree.map(np.testing.assert_array_equal, after.variables, before.variables)


def test_every_parameter_and_every_tensor_has_its_line(saved):
    read = load_pretrained(saved, tasks.Classification(classes=5), reset=(r"blocks/01/.*",))
    lines = read.manifest.entries
    assert sorted(line.path for line in lines if line.path) == sorted(flatten(read.model.params))
    assert {line.foreign for line in lines if line.foreign} == set(load_file(saved / "model.safetensors"))
    by_path = {line.path: line for line in lines}
    assert by_path["stem/words/embedding"].action == "renamed"
    assert by_path["blocks/00/mlp/up/kernel"].action == "transposed"
    assert by_path["blocks/01/mlp/up/bias"] == (
        "reset",
        "blocks/01/mlp/up/bias",
        "bert.encoder.layer.1.intermediate.dense.bias",
        "matches Weights(reset=...)",
    )
    assert by_path["head/output/kernel"].note == "the checkpoint has the shape (3, 12), the model has (12, 5)"
    assert sum(read.manifest.counts().values()) == len(lines)


def test_reset_parameters_are_initialised_by_the_seed_and_others_are_unchanged(saved):
    one, two = (load_pretrained(saved, TASK, reset=(r"blocks/01/.*",), seed=seed).variables.params for seed in (1, 2))
    for path, leaf in flatten(one).items():
        same = np.array_equal(leaf, flatten(two)[path])
        assert same != (path.startswith("blocks/01/") and path.endswith("kernel")), path


def test_a_reset_that_matches_nothing_names_the_nearest_path(saved):
    with pytest.raises(
        ValueError, match=r"reset pattern 'block/01/\.\*' matches no parameter; close: 'blocks/01/\.\*'"
    ):
        load_pretrained(saved, reset=(r"block/01/.*",))


def test_missing_extra_and_misshapen_tensors_stop_the_load_with_both_sides_listed(saved):
    def change(tensors):
        del tensors["bert.encoder.layer.0.output.dense.bias"]
        tensors["bert.encoder.layer.0.output.dense.gate"] = np.ones(2, np.float32)
        tensors["bert.embeddings.LayerNorm.weight"] = np.ones(13, np.float32)

    rewrite(saved, change)
    with pytest.raises(ValueError) as error:
        load_pretrained(saved)
    assert str(error.value) == (
        f"{saved} does not fit the model:\n"
        "  missing from the checkpoint (1):\n"
        "    blocks/00/mlp/down/bias (12,) (as 'bert.encoder.layer.0.output.dense.bias')\n"
        "  misshapen (1):\n"
        "    stem/norm/scale expects (12,), but 'bert.embeddings.LayerNorm.weight' is (13,)\n"
        "  extra in the checkpoint (1):\n"
        "    'bert.encoder.layer.0.output.dense.gate' (2,)"
    )


def test_positions_are_resized_only_on_request(saved):
    read = load_pretrained(saved, resize=24)
    assert read.variables.params["stem"]["positions"]["embedding"].shape == (24, 12)
    assert [line.note for line in read.manifest.entries if line.note] == ["resized from (16, 12)"]
    rewrite(
        saved,
        lambda tensors: tensors.update({"bert.embeddings.position_embeddings.weight": np.ones((20, 12), np.float32)}),
    )
    with pytest.raises(ValueError, match=r"stem/positions/embedding expects \(16, 12\)"):
        load_pretrained(saved)


@pytest.mark.parametrize(("pad", "size"), [(1, 34), (1, 10), (3, 52), (1, 18)])
def test_rows_that_no_token_reads_are_left_out_of_a_resize(tmp_path, pad, size):
    """The positions of RoBERTa begin at pad + 1: lower rows are neither read nor mixed into the others."""
    config = dataclasses.replace(CONFIGS["roberta"], positions=18, pad=pad)
    before = random(config)
    embedding = before.variables.params["stem"]["positions"]["embedding"]
    ramp = np.arange(18 - pad - 1, dtype=np.float32)[:, None] * np.ones(12, np.float32)
    embedding[pad + 1 :], embedding[: pad + 1] = ramp, 1e6
    save_pretrained(before, tmp_path)
    actual = load_pretrained(tmp_path, resize=size).variables.params["stem"]["positions"]["embedding"]
    np.testing.assert_array_equal(actual[: pad + 1], embedding[: pad + 1])
    read = actual[pad + 1 :]
    assert read.shape == (size - pad - 1, 12)
    assert read.min() >= 0 and read.max() <= ramp.max()
    # As a separate table is resized.
    expected = jax.image.resize(ramp, read.shape, "linear")
    np.testing.assert_allclose(read, expected, rtol=1e-6)


def test_a_resize_that_leaves_no_position_is_refused(tmp_path):
    save_pretrained(random(CONFIGS["roberta"]), tmp_path)
    with pytest.raises(ValueError, match="resize is 2; expected 3 or more"):
        load_pretrained(tmp_path, resize=2)


@pytest.mark.parametrize("seed", [2**32, -1])
def test_a_seed_beyond_32_bits_is_refused(saved, seed):
    with pytest.raises(ValueError, match=f"seed is {seed}; expected a whole number from 0 to 4294967295"):
        load_pretrained(saved, TASK, seed=seed)


@pytest.mark.slow
def test_a_vit_resizes_its_grid_on_request(tmp_path):
    save_pretrained(random(CONFIGS["vit"]), tmp_path)
    read = load_pretrained(tmp_path, resize=12)
    image = np.zeros((1, 12, 12, 1), np.float32)
    assert tlx.forward(read.model, read.variables, {"image": image})[0]["hidden"].shape == (1, 10, 12)


def test_a_hub_id_is_found_in_the_cache_and_never_fetched_offline(saved, tmp_path, monkeypatch):
    cache = tmp_path / "hub"
    snapshot = cache / "models--someone--tiny" / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    saved.rename(snapshot)
    refs = cache / "models--someone--tiny" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("TLX_OFFLINE", "1")
    assert load_pretrained("someone/tiny").model.config == CONFIGS["bert"]
    with pytest.raises(FileNotFoundError) as error:
        load_pretrained("someone/else")
    for part in ("'someone/else'", "cache of the hub", "TLX_OFFLINE"):
        assert part in str(error.value)


def test_an_unknown_name_suggests_the_nearest_asset():
    with pytest.raises(FileNotFoundError, match=r"no directory, run or asset 'minilm-l5'; close: 'minilm-l6'"):
        load_pretrained("minilm-l5")


def test_an_unknown_model_type_names_the_nearest_ones(saved):
    text = (saved / "config.json").read_text()
    (saved / "config.json").write_text(text.replace('"model_type": "bert"', '"model_type": "robert"'))
    with pytest.raises(ValueError, match=r"no architecture for model_type 'robert'; close: 'roberta'"):
        load_pretrained(saved)


def test_a_task_without_classes_cannot_make_a_head(saved):
    with pytest.raises(ValueError, match=r"the task does not state its number of classes"):
        load_pretrained(saved, tasks.Classification())


@pytest.mark.slow
def test_the_mean_over_tokens_leaves_padding_out():
    pretrained = random(CONFIGS["mean"])
    ids = np.array([[5, 6, 7, 0, 0]])
    mask = np.array([[1, 1, 1, 0, 0]])
    taps, _ = tlx.forward(pretrained.model, pretrained.variables, {"input_ids": ids, "attention_mask": mask})
    np.testing.assert_allclose(taps["pooled"][0], np.asarray(taps["hidden"])[0, :3].mean(0), rtol=1e-6)


def test_pooling_is_chosen_at_loading_and_refused_if_it_has_no_meaning(saved, tmp_path):
    read = load_pretrained(saved, TASK, pooling="mean")
    assert read.model.config.pooling == "mean" and "pool" not in read.variables.params
    save_pretrained(random(CONFIGS["vit"]), tmp_path / "vit")
    with pytest.raises(ValueError, match="pooling='mean' is for text models; Vit has no such setting"):
        load_pretrained(tmp_path / "vit", pooling="mean")
    assert load_pretrained(tmp_path / "vit", stochastic_depth=0.3).model.config.stochastic_depth == 0.3
    with pytest.raises(ValueError, match=r"stochastic_depth=0\.3 is for image networks .* Bert has no such setting"):
        load_pretrained(saved, stochastic_depth=0.3)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "electra", *FURTHER])
def test_an_encoder_with_the_mean_over_tokens_opens_in_transformers_without_random_weights(tmp_path, name):
    import torch
    import transformers

    pretrained = random(tlx.config.replace(CONFIGS[name], pooling="mean"), None)
    shifted = jax.tree.map(lambda leaf: leaf - 1.0, pretrained.variables.params)
    pretrained = pretrained._replace(variables=Variables(shifted, {}))
    folder = save_pretrained(pretrained, tmp_path)
    expected, recorded = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not recorded["missing_keys"] and not recorded["unexpected_keys"]
    mask = np.array([[1] * 6, [1] * 4 + [0] * 2])
    ids = np.where(mask == 1, np.random.default_rng(0).integers(2, 50, mask.shape), pretrained.model.config.pad)
    with torch.no_grad():
        outputs = expected.eval()(torch.tensor(ids), attention_mask=torch.tensor(mask))
    hidden = outputs.last_hidden_state.numpy()
    taps, _ = tlx.forward(pretrained.model, pretrained.variables, {"input_ids": ids, "attention_mask": mask})
    np.testing.assert_allclose(np.asarray(taps["hidden"])[mask > 0], hidden[mask > 0], atol=1e-5, rtol=0)
    means = [row[:count].mean(0) for row, count in zip(hidden, mask.sum(1), strict=True)]
    np.testing.assert_allclose(taps["pooled"], means, atol=1e-5, rtol=0)
    assert load_pretrained(folder).model.config == pretrained.model.config


@pytest.mark.parity
@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "electra", "vit", "deit", "dinov2"])
@pytest.mark.parametrize("task", [TASK, None], ids=["head", "backbone"])
def test_transformers_opens_saved_models_with_the_same_outputs(tmp_path, name, task):
    import torch
    import transformers

    pretrained = random(CONFIGS[name], task, seed=3)
    scaled = jax.tree.map(lambda leaf: (leaf - 1.0) * 0.4, pretrained.variables.params)
    pretrained = pretrained._replace(variables=Variables(scaled, {}))
    save_pretrained(pretrained, tmp_path)
    image = name in ("vit", "deit", "dinov2")
    auto = transformers.AutoModel
    if task is not None:
        auto = (
            transformers.AutoModelForImageClassification if image else transformers.AutoModelForSequenceClassification
        )
    if name == "deit" and task is not None:
        auto = transformers.DeiTForImageClassificationWithTeacher
    expected, recorded = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert not recorded["missing_keys"] and not recorded["unexpected_keys"] and not recorded["mismatched_keys"]
    if task is not None:
        assert expected.config.id2label == dict(enumerate(TASK.names))
    rng = np.random.default_rng(1)
    if image:
        channels = CONFIGS[name].channels
        inputs = {"image": rng.normal(size=(2, 8, 8, channels)).astype(np.float32)}
        arguments = {"pixel_values": torch.tensor(inputs["image"].transpose(0, 3, 1, 2))}
    else:
        inputs = {"input_ids": rng.integers(2, 50, (2, 7)), "attention_mask": np.ones((2, 7), int)}
        arguments = {key: torch.tensor(value) for key, value in inputs.items()}
    with torch.no_grad():
        out = expected.eval()(**arguments)
    taps, _ = tlx.forward(pretrained.model, pretrained.variables, inputs)
    actual, their = (taps["hidden"], out.last_hidden_state) if task is None else (taps["logits"], out.logits)
    np.testing.assert_allclose(actual, their.numpy(), atol=1e-5, rtol=0)
    reopened = load_pretrained(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, reopened.variables, pretrained.variables)
