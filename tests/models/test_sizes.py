"""The sizes in config.json are compared with the tensors before anything of that size is built."""

import json
import time

import jax
import pytest

import tlx
from tlx import models, tasks
from tlx.trees import flatten, size
from tlx.weights import Manifest, Pretrained

TINY = {"width": 12, "depth": 3, "heads": 3, "mlp": 20}
CONFIGS = (
    models.Bert(vocabulary=50, positions=16, **TINY),
    models.Bert(family="electra", vocabulary=50, positions=16, embedding=8, **TINY),
    models.Albert(vocabulary=50, positions=16, groups=2, layers=2, **TINY),
    models.ModernBert(vocabulary=50, norm_bias=True, **TINY),
    models.Gpt2(vocabulary=50, positions=16, **TINY),
    models.Llama(vocabulary=50, key_heads=1, head_size=6, head_norm=True, window=4, local=(0, 2), **TINY),
    models.DebertaV2(vocabulary=50, positions=16, kernel=3, **TINY),
    models.T5(vocabulary=50, decoder_depth=4, **TINY),
    models.Bart(family="mbart", vocabulary=50, positions=16, decoder_depth=4, decoder_heads=2, decoder_mlp=9, **TINY),
    models.Vit(size=8, patch=4, channels=1, **TINY),
    models.Cnn(size=8, widths=(4, 6), dense=None),
    models.Mlp(inputs=(8, 8, 1), widths=(7, 5)),
)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_the_count_is_that_of_the_model(config):
    for outputs in (None, 3):
        declared = flatten(models.build(config, outputs).params)
        assert models.count(config, outputs) == sum(map(size, declared.values()))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    config = CONFIGS[0]
    model = models.build(config, 3)
    task = tasks.Classification(classes=3)
    pretrained = Pretrained(model, models.initialise(model, jax.random.key(0)), None, Manifest("", {}, ()), task)
    return tlx.save_pretrained(pretrained, tmp_path_factory.mktemp("sizes"))


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_hidden_layers", 1_000_000), ("hidden_size", 3_000_000), ("vocab_size", 2**31 - 1)],
)
def test_a_config_of_a_far_larger_model_is_refused_at_once(saved, tmp_path, field, value):
    document = json.loads((saved / "config.json").read_text()) | {field: value}
    (tmp_path / "config.json").write_text(json.dumps(document))
    (tmp_path / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes())
    start = time.perf_counter()
    with pytest.raises(ValueError, match=r"config\.json") as error:
        tlx.load_pretrained(tmp_path)
    assert time.perf_counter() - start < 5
    assert "parameters" in str(error.value)
    assert "bytes" in str(error.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: models.Bert(heads=0), "Bert has heads=0; expected a number above 0"),
        (lambda: models.Bert(depth=-1), "Bert has depth=-1; expected a number above 0"),
        (lambda: models.Bert(dropout=1.5), "Bert has dropout=1.5; expected a number from 0 to 1"),
        (lambda: models.Vit(patch=0), "Vit has patch=0; expected a number above 0"),
        (lambda: models.Cnn(widths=(4, 0)), "Cnn has widths=(4, 0); expected a number above 0"),
        (lambda: models.Mlp(inputs=(8, -1)), "Mlp has inputs=(8, -1); expected a number above 0"),
    ],
)
def test_a_number_out_of_its_range_is_refused(make, words):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == words


def test_a_number_of_another_type_is_refused():
    with pytest.raises(TypeError, match="width is '8'; expected int"):
        models.Bert(width="8")


SMALLEST = {
    "bit": (models.BiT(padded_pool=False, depths=(1, 1, 1, 1)), 5),
    "efficientnet": (models.EfficientNet(padding="even", depths=(1,) * 7), 32),
    "convnext": (models.ConvNeXt(depths=(1, 1, 1, 1)), 32),
    "swin": (models.Swin(depths=(1, 1, 1, 1)), 193),
    "vgg": (models.Vgg(depths=(1, 1, 1, 1, 1)), 32),
    "alexnet": (models.AlexNet(), 63),
    "densenet": (models.DenseNet(depths=(1, 1, 1, 1)), 29),
    "inception": (models.InceptionV3(unit=1), 75),
    "vit": (models.Vit(depth=1), 16),
}


@pytest.mark.parametrize("name", SMALLEST)
def test_an_image_that_a_network_cannot_take_is_one_line_and_the_smallest_leaves_no_side_empty(name):
    config, smallest = SMALLEST[name]
    with pytest.raises(ValueError) as error:
        models.build(config.resized(smallest - 1), 3)
    assert "\n" not in str(error.value) and f"size={smallest - 1}" in str(error.value).replace(" size ", " size=")
    model = models.build(config.resized(smallest), 3)
    shapes = jax.eval_shape(lambda key: models.initialise(model, key), jax.random.key(0))
    image = jax.ShapeDtypeStruct((2, smallest, smallest, 3), "float32")
    taps, _ = jax.eval_shape(lambda variables, x: models.forward(model, variables, {"image": x}), shapes, image)
    assert all(0 not in leaf.shape for leaf in jax.tree.leaves(taps)) and taps["logits"].shape == (2, 3)
