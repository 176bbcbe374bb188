"""The contract of an architecture: heads, inputs, initial values; a user-defined one works without editing tlx."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx import models
from tlx.layers import as_dtype, declare_dense, dense, example
from tlx.models import Architecture, Head, PerToken, Pooled
from tlx.trees import flatten
from tlx.types import Field, Model, Stage

pytestmark = pytest.mark.usefixtures("quick")
TEXT = {"vocabulary": 23, "width": 12, "depth": 2, "heads": 3, "mlp": 20, "positions": 16}
IMAGE = {"patch": 4, "width": 12, "depth": 2, "heads": 3, "mlp": 20}
CONFIGS = {
    "bert": models.Bert(**TEXT),
    "roberta": models.Bert(family="roberta", pad=1, types=1, **TEXT),
    "distilbert": models.Bert(family="distilbert", types=0, **TEXT),
    "electra": models.Bert(family="electra", embedding=9, **TEXT),
    "mean": models.Bert(pooling="mean", **(TEXT | {"depth": 1})),
    "vit": models.Vit(size=(11, 18), channels=2, **IMAGE),
    "deit": models.Vit(family="deit", distilled=True, size=11, **IMAGE),
    "dinov2": models.Vit(family="dinov2", gated=True, layer_scale=0.1, size=11, **IMAGE),
    "cnn": models.Cnn(size=13, channels=2, widths=(4, 6), dense=5),
    "mlp": models.Mlp(inputs=(3, 5), widths=(7, 6)),
}
# A hash of all paths and shapes, and a weighted sum of all initial values at the key 7, without a head (None: not
# recorded) and with a head of 3 outputs. Checkpoints, saved runs and measured results depend on them.
DRAWN = {
    "bert": (("c3eba13a75259159", -1.6035345), ("133f08137dce7319", -1.5040427)),
    "roberta": (("7d12dd5be75c62d8", -1.5781315), ("db735043aaea61d8", -1.3298217)),
    "distilbert": (("ef3910fa71dc7d51", -1.6778757), ("8335c78c143f5b4e", -1.3032074)),
    "electra": (None, ("6f8c2507a1e2d83d", 0.2017547)),
    "mean": (("4a58dc945a4d9939", -1.3480469), ("574e7a0b4298fa0c", -1.2485551)),
    "vit": (("d7ed7809511f5691", -1.7009437), ("2cf9975f6c2ffa0d", -1.7278105)),
    "deit": (None, ("dbf7632acbc47ce2", -1.5560669)),
    "dinov2": (None, ("650f8d411c8f9930", -1.8312874)),
    "cnn": (("54c5d21c8a4a8eda", 5.5488084), ("67f3a7f5b91c0e4e", 5.6046956)),
    "mlp": (("8e31bd9e942a6e98", 8.0837797), ("817e0a85bd279a2a", 8.1445529)),
}


@dataclass(frozen=True)
class Regions(Head):
    """A user-defined head: a number for each half of the features."""


@dataclass(frozen=True, kw_only=True)
class Halves(Architecture):
    """A user-defined architecture in a file of the user."""

    supported_heads = (Pooled, Regions)

    width: int = 6

    def build(self, head):
        def stem(params, stats, carry, context):
            hidden = dense(params, as_dtype(example(carry, "features", (self.width,)), context))
            return {"hidden": hidden, "halves": hidden.reshape(len(hidden), 2, -1)}, stats

        def top(params, stats, carry, context):
            features = carry["halves"] if isinstance(head, Regions) else carry["hidden"]
            return carry | {"logits": dense(params, features).astype(jnp.float32)}, stats

        params = {"stem": declare_dense(self.width, self.width, (None, "width"))}
        stages = [Stage("stem", stem, others=("halves",))]
        if head is not None:
            inputs = self.width // 2 if isinstance(head, Regions) else self.width
            params["head"] = declare_dense(inputs, head.outputs, ("width", None))
            stages.append(Stage("head", top, "logits"))
        return Model(tuple(stages), params, {}, self, head)

    def input_fields(self) -> Mapping[str, Field]:
        return {"features": Field((self.width,), "float32")}


def digest(model):
    variables, names, total = models.initialise(model, jax.random.key(7)), hashlib.sha256(), 0.0
    for tree in variables:
        for path, leaf in sorted(flatten(tree).items()):
            names.update(f"{path} {leaf.shape} {leaf.dtype}\n".encode())
            values = np.asarray(leaf, np.float64).ravel()
            total += float(values @ np.cos(np.arange(len(values))))
    return names.hexdigest()[:16], total


@pytest.mark.parametrize("name", CONFIGS)
def test_paths_and_initial_values_equal_those_of_every_earlier_version(name):
    for head, expected in zip((None, 3), DRAWN[name], strict=True):
        if expected is not None:
            names, total = digest(models.build(CONFIGS[name], head))
            # The last bits depend on the compiler.
            assert (names, total) == (expected[0], pytest.approx(expected[1], rel=1e-6, abs=1e-6))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_is_traced_from_the_declared_fields_of_its_architecture(name):
    config = CONFIGS[name]
    fields, inputs = config.input_fields(), models.example_inputs(config, batch=3, tokens=5)
    for field, shape in inputs.items():
        assert shape.shape == (3, *(5 if n is None else n for n in fields[field].shape))
        assert shape.dtype == fields[field].dtype
    taps = models.tap_shapes(models.build(config, 4), inputs=inputs)
    assert taps["logits"].shape == (3, 4)


def test_a_ragged_axis_is_not_longer_than_the_positions_of_the_model():
    assert models.example_inputs(CONFIGS["roberta"], tokens=99)["input_ids"].shape == (2, 14)
    assert models.example_inputs(CONFIGS["bert"], tokens=99)["input_ids"].shape == (2, 16)
    assert CONFIGS["roberta"].input_fields()["input_ids"].pad == 1


@pytest.mark.parametrize("name", CONFIGS)
def test_the_shape_of_images_follows_from_the_fields(name):
    shapes = {"vit": (11, 18, 2), "deit": (11, 11, 3), "dinov2": (11, 11, 3), "cnn": (13, 13, 2)}
    assert models.image_shape(CONFIGS[name]) == shapes.get(name)


def test_a_whole_number_is_short_for_a_pooled_head():
    assert models.build(CONFIGS["mlp"], 3).head == Pooled(3)
    assert models.build(CONFIGS["mlp"], Pooled(3)).outputs == 3
    assert models.build(CONFIGS["mlp"]).outputs is None


@pytest.mark.parametrize("function", [models.build, models.count])
def test_an_unsupported_head_is_refused_with_the_supported_ones(function):
    with pytest.raises(ValueError) as error:
        function(CONFIGS["cnn"], PerToken(3))
    for part in ("Cnn", "PerToken(outputs=3)", "supports Pooled", "'Pooled'"):
        assert part in str(error.value)
    with pytest.raises(ValueError, match=r"Bert.*Regions.*Pooled, PerToken"):
        function(CONFIGS["bert"], Regions(2))
    with pytest.raises(ValueError, match="outputs=0; expected a whole number above 0"):
        function(CONFIGS["cnn"], 0)


def test_values_that_are_not_architectures_are_refused():
    with pytest.raises(TypeError, match="dict is not an architecture"):
        models.build({}, 3)


def test_a_user_defined_architecture_and_its_head():
    inputs = {"features": np.ones((2, 6), np.float32)}
    for head, shape in ((3, (2, 3)), (Regions(2), (2, 2, 2))):
        model = models.build(Halves(), head)
        variables = models.initialise(model, jax.random.key(0))
        taps, _ = models.forward(model, variables, inputs)
        assert taps["logits"].shape == shape
        # Every named output of every stage is a tap.
        np.testing.assert_array_equal(taps["stem/halves"], taps["stem"].reshape(2, 2, 3))
        np.testing.assert_array_equal(taps["halves"], taps["stem/halves"])
        assert models.count(Halves(), head) == sum(leaf.size for leaf in flatten(variables.params).values())
    with pytest.raises(ValueError, match=r"Halves.*supports Pooled, Regions"):
        models.build(Halves(), PerToken(2))


def test_an_architecture_without_definitions_says_what_it_needs():
    @dataclass(frozen=True, kw_only=True)
    class Empty(Architecture):
        """Nothing."""

    with pytest.raises(TypeError, match=r"Empty.*build\(head\)"):
        models.build(Empty(), 2)
    with pytest.raises(TypeError, match=r"Empty.*input_fields\(\)"):
        models.example_inputs(Empty())
    with pytest.raises(ValueError, match="Empty has no position embeddings"):
        Empty().resized(4)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "electra"])
def test_a_head_of_every_token_labels_every_token(name):
    model = models.build(CONFIGS[name], PerToken(3))
    assert "pool" not in [stage.name for stage in model.stages]
    head = {path for path in flatten(model.params) if path.startswith("head/")}
    assert head == {"head/output/kernel", "head/output/bias"}
    variables = models.initialise(model, jax.random.key(0))
    ids = np.random.default_rng(0).integers(2, 23, (2, 5))
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    taps, _ = models.forward(model, variables, {"input_ids": ids, "attention_mask": mask})
    assert taps["logits"].shape == (2, 5, 3)
    np.testing.assert_array_equal(taps["mask"], mask)
    key = jax.random.key(1)
    noisy, _ = models.forward(model, variables, {"input_ids": ids, "attention_mask": mask}, key=key, train=True)
    assert not np.array_equal(noisy["logits"], taps["logits"])


def test_learned_tokens_before_a_text_get_no_label():
    from tlx import tuning

    model = models.build(CONFIGS["bert"], PerToken(3))
    variables = models.initialise(model, jax.random.key(0))
    params = tuning.Prompt(tokens=4).insert(model, variables.params, jax.random.key(1))
    taps, _ = models.forward(model, variables._replace(params=params), {"input_ids": np.ones((2, 5), int)})
    assert taps["hidden"].shape[1] == 9 and taps["logits"].shape == (2, 5, 3)


def test_a_mean_over_tokens_cannot_label_every_token():
    with pytest.raises(ValueError, match=r"pooling='mean'.*PerToken.*pooling='first'"):
        models.build(CONFIGS["mean"], PerToken(3))


def test_a_side_head_labels_no_tokens():
    from tlx import tuning

    model = models.build(CONFIGS["bert"], PerToken(3))
    with pytest.raises(ValueError, match=r"SideHead.*PerToken\(outputs=3\)"):
        tuning.SideHead().insert(model, models.initialise(model, jax.random.key(0)).params, jax.random.key(1))
