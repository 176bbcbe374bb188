"""Formats: who names them, token heads in and out, and a user-defined format."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tlx
from tlx import models, tasks
from tlx.layers import as_dtype, declare_dense, dense, example
from tlx.models import Architecture, PerToken, Pooled
from tlx.models.names import dense_names
from tlx.trees import flatten
from tlx.types import Field, Model, Stage
from tlx.weights import Manifest, Pretrained, load_pretrained, save_pretrained
from tlx.weights.export import export_pretrained
from tlx.weights.files import read_tensors
from tlx.weights.formats import Format, foreign, foreign_kinds, formats_of

TEXT = {"vocabulary": 23, "width": 12, "depth": 2, "heads": 3, "mlp": 20, "positions": 16}
ENCODERS = {
    "bert": models.Bert(**TEXT),
    "roberta": models.Bert(family="roberta", **TEXT),
    "distilbert": models.Bert(family="distilbert", types=0, **TEXT),
    "electra": models.Bert(family="electra", **TEXT),
    "albert": models.Albert(embedding=7, **TEXT),
    "modernbert": models.ModernBert(pad=0, **TEXT),
    "deberta-v2": models.DebertaV2(relative=True, terms=("p2c",), buckets=4, **TEXT),
    "mpnet": models.MPNet(**TEXT),
    "t5": models.T5(size=3, **{field: size for field, size in TEXT.items() if field != "positions"}),
    "gpt2": models.Gpt2(pad=1, **TEXT),
}


class TinyFormat(Format):
    """The form in which another library stores `Tiny`."""

    families: ClassVar[dict[str, str]] = {"tiny": "tiny"}

    def read(self, document):
        return Tiny(width=document["dimension"])

    def write(self, config, head, document):
        if not isinstance(head, Pooled):
            raise ValueError(f"Tiny has no foreign form with the head {head}")
        return document | {"model_type": "tiny", "dimension": config.width, "architectures": ["TinyForClassification"]}

    def kind(self, config):
        return "tiny"

    def prefix(self, config):
        return "body."

    def names(self, config, head):
        yield from dense_names("stem", "first")
        if head is not None:
            yield from dense_names("head", "last", head=True)


@dataclass(frozen=True, kw_only=True)
class Tiny(Architecture):
    """An architecture in a file of the user, with a format in the same file."""

    formats = (TinyFormat,)

    width: int = 5

    def build(self, head):
        def stem(params, stats, carry, context):
            return {"hidden": dense(params, as_dtype(example(carry, "features", (self.width,)), context))}, stats

        def top(params, stats, carry, context):
            return carry | {"logits": dense(params, carry["hidden"]).astype(jnp.float32)}, stats

        params, stages = {"stem": declare_dense(self.width, self.width, (None, "width"))}, [Stage("stem", stem)]
        if head is not None:
            params["head"] = declare_dense(self.width, head.outputs, ("width", None))
            stages.append(Stage("head", top, "logits"))
        return Model(tuple(stages), params, {}, self, head)

    def input_fields(self) -> Mapping[str, Field]:
        return {"features": Field((self.width,), "float32")}


def random_model(config: Any, head: Any, task: Any = None) -> Pretrained:
    model = models.build(config, head)
    variables = models.initialise(model, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: leaf + rng.normal(0, 0.3, leaf.shape).astype(np.float32), variables.params)
    return Pretrained(model, variables._replace(params=params), None, Manifest("random", {}, ()), task)


def test_every_model_type_is_read_by_the_format_that_an_architecture_names():
    kinds = {name for kind in models.architectures() for form in formats_of(kind) for name in form.families}
    assert kinds == foreign_kinds().keys() >= {*ENCODERS, "vit", "deit", "dinov2", "xlm-roberta", "camembert"}
    with pytest.raises(ValueError, match="no architecture for model_type 'tinny'; close: 'tiny'"):
        foreign("tinny", Tiny)


def test_a_user_defined_format_is_written_and_read_without_registration(tmp_path):
    pretrained = random_model(Tiny(), 2, tlx.tasks.Classification(classes=2, names=("no", "yes")))
    save_pretrained(pretrained, tmp_path)
    document = json.loads((tmp_path / "config.json").read_text())
    assert document["model_type"] == "tiny" and document["dimension"] == 5
    assert read_tensors(tmp_path).keys() == {"body.first.weight", "body.first.bias", "last.weight", "last.bias"}
    read = load_pretrained(tmp_path, model=Tiny())
    assert read.model.config == Tiny() and read.task == pretrained.task
    jax.tree.map(np.testing.assert_array_equal, read.variables, pretrained.variables)
    with pytest.raises(ValueError, match="no architecture for model_type 'tiny'"):
        load_pretrained(tmp_path)


def test_an_invalid_format_is_refused():
    @dataclass(frozen=True, kw_only=True)
    class Odd(Tiny):
        """It names a class that is not a format."""

        formats = (dict,)

    with pytest.raises(TypeError, match="not a format"):
        list(formats_of(Odd))


@pytest.mark.parametrize("family", ENCODERS)
def test_a_head_of_every_token_is_read_as_it_was_written(family, tmp_path):
    pretrained = random_model(ENCODERS[family], PerToken(3))
    save_pretrained(pretrained, tmp_path / "saved")
    document = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert document["architectures"][0].endswith("ForTokenClassification")
    assert document["id2label"] == {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}
    read = load_pretrained(tmp_path / "saved")
    assert read.model.head == PerToken(3)
    assert read.task == tasks.TokenClassification(names=("LABEL_0", "LABEL_1", "LABEL_2"))
    jax.tree.map(np.testing.assert_array_equal, read.variables, pretrained.variables)
    # An export opens the written files and compares the logits of every token.
    export_pretrained(read, tmp_path / "exported")
    assert {"classifier.weight", "classifier.bias"} <= read_tensors(tmp_path / "exported").keys()


def test_the_names_of_token_classes_are_kept(tmp_path):
    save_pretrained(random_model(models.Bert(**TEXT), PerToken(2)), tmp_path / "saved")
    file = tmp_path / "saved" / "config.json"
    names = {"id2label": {"0": "O", "1": "B-PER"}, "label2id": {"O": 0, "B-PER": 1}}
    file.write_text(json.dumps(json.loads(file.read_text()) | names))
    save_pretrained(load_pretrained(tmp_path / "saved"), tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["id2label"] == names["id2label"]


def test_a_head_of_every_token_in_the_form_of_tlx(tmp_path):
    @dataclass(frozen=True, kw_only=True)
    class Words(models.Bert):
        """A Bert that no other library knows."""

        formats = ()

    pretrained = random_model(Words(**TEXT), PerToken(3))
    save_pretrained(pretrained, tmp_path)
    read = load_pretrained(tmp_path, model=Words(**TEXT))
    assert read.model.head == PerToken(3)
    assert flatten(read.variables.params).keys() == flatten(pretrained.variables.params).keys()
    jax.tree.map(np.testing.assert_array_equal, read.variables, pretrained.variables)


@pytest.mark.parity
@pytest.mark.parametrize("family", ENCODERS)
def test_transformers_opens_a_head_of_every_token_and_predicts_the_same(family, tmp_path):
    import torch
    import transformers

    pretrained = random_model(ENCODERS[family], PerToken(3))
    export_pretrained(pretrained, tmp_path / "exported")
    expected, recorded = transformers.AutoModelForTokenClassification.from_pretrained(
        tmp_path / "exported", output_loading_info=True
    )
    assert not recorded["missing_keys"] and not recorded["unexpected_keys"]
    ids = np.random.default_rng(1).integers(2, 23, (3, 7))
    mask = np.array([[1] * 7, [1] * 4 + [0] * 3, [0] * 2 + [1] * 5])
    with torch.no_grad():
        wanted = expected.eval()(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).logits.numpy()
    inputs = {"input_ids": ids, "attention_mask": mask}
    taps, _ = models.forward(pretrained.model, pretrained.variables, inputs)
    np.testing.assert_allclose(np.asarray(taps["logits"])[mask > 0], wanted[mask > 0], atol=1e-5)
