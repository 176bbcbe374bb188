"""The layouts of timm and torchvision: round trips without torch, and errors."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tlx import models
from tlx.predict.opening import open_model
from tlx.processors import ImageProcessor
from tlx.processors.timm_settings import processor_of, settings_of
from tlx.tasks import Classification
from tlx.trees import flatten, map_named
from tlx.types import Variables
from tlx.weights import Manifest, Pretrained, load_pretrained, save_pretrained

TASK = Classification(classes=3, names=("cat", "dog", "owl"))
MEAN = (0.4, 0.5, 0.6)
DENSE = models.DenseNet(size=29, stem=4, growth=2, depths=(1, 1), bottleneck=1)


def pretrained(config, processor=None, task=TASK):
    """Return a model of random numbers."""
    rng, model = np.random.default_rng(0), models.build(config, None if task is None else task.outputs)
    params, stats = (
        map_named(lambda _, leaf: rng.uniform(0.1, 0.9, leaf.shape).astype(np.float32), tree)
        for tree in (model.params, model.stats)
    )
    return Pretrained(model, Variables(params, stats), processor, Manifest("random", {}, ()), task)


def leaves(model):
    return flatten(model.variables._asdict())


def equal(a, b):
    return leaves(a).keys() == leaves(b).keys() and all(
        np.array_equal(leaf, leaves(b)[path]) for path, leaf in leaves(a).items()
    )


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory):
    """A directory in timm's form with one of the real networks."""
    processor = ImageProcessor(
        size=235, crop=(224, 224), mean=MEAN, std=MEAN, resample="bicubic", rounding="torchvision"
    )
    model = pretrained(models.DenseNet(), processor)
    folder = tmp_path_factory.mktemp("timm") / "densenet121.a_b"
    return model, save_pretrained(model, folder, layout="timm")


def test_a_round_trip_through_timm_is_exact(timm_folder):
    model, folder = timm_folder
    document = json.loads((folder / "config.json").read_text())
    assert document["architecture"] == "densenet121" and document["num_classes"] == 3
    assert document["label_names"] == ["cat", "dog", "owl"] and "model_type" not in document
    settings = document["pretrained_cfg"]
    assert settings["first_conv"] == "features.conv0" and settings["classifier"] == "classifier"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    reopened = load_pretrained(folder)
    assert equal(reopened, model) and reopened.task == TASK and reopened.model.config == model.model.config
    assert reopened.processor.identity == model.processor.identity
    assert load_pretrained(folder, Classification(classes=5)).model.outputs == 5


def test_the_usual_layout_keeps_the_rounding_of_a_processor_from_timm(tmp_path, timm_folder):
    _, folder = timm_folder
    first = load_pretrained(folder)
    again = load_pretrained(save_pretrained(first, tmp_path))
    assert again.processor.identity == first.processor.identity and "torchvision" in str(again.processor)
    assert equal(again, first) and again.task == first.task


def edited(folder, tmp_path, change):
    """Return a copy of config.json with a change, beside tensors that are never read."""
    document = json.loads((folder / "config.json").read_text())
    change(document)
    (tmp_path / "config.json").write_text(json.dumps(document))
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda d: d.update(architecture="resnet5O"), ("'resnet5O'", "close: 'resnet50'")),
        (lambda d: d.update(architecture="beit_base"), ("tlx does not have timm's architecture 'beit_base'",)),
        (lambda d: d["model_args"].update(growth_rate=12), ("model_args.growth_rate=12", "densenet121")),
        (lambda d: d.update(model_args={"global_pool": "max"}), ("global_pool 'max'", "'avg'")),
        (lambda d: d["pretrained_cfg"].update(crop_mode="border"), ("crop_mode 'border'", "'squash'")),
        (lambda d: d["pretrained_cfg"].update(interpolation="cubic"), ("'cubic'", "'bicubic'")),
        (lambda d: d["pretrained_cfg"].update(input_size=[3, 64, 96]), ("[3, 64, 96]", "'squash'")),
        (lambda d: d["pretrained_cfg"].update(mean=[0.5, 0.5]), ("mean has 2 numbers",)),
        (lambda d: d["pretrained_cfg"].update(crop_pct=0), ("pretrained_cfg.crop_pct is 0",)),
        (lambda d: d["pretrained_cfg"].update(input_size=[3, 8, 8]), ("size=8", "at least 29 x 29")),
    ],
)
def test_unsupported_settings_of_timm_are_named(tmp_path, timm_folder, change, parts):
    folder = edited(timm_folder[1], tmp_path, change)
    with pytest.raises(ValueError) as error:
        load_pretrained(folder)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize(
    "config",
    [
        DENSE,
        models.ResNet(size=12, stem=6, widths=(8, 12), depths=(1, 2)),
        models.Vgg(size=12, widths=(4, 5), depths=(1, 2), normed=True, grid=2, hidden=(6,)),
        models.AlexNet(size=65, widths=(3, 4, 5, 4, 3), grid=2, hidden=(6, 4)),
        models.InceptionV3(size=75, unit=1),
    ],
    ids=lambda config: type(config).__name__,
)
@pytest.mark.parametrize("task", [TASK, None], ids=["head", "backbone"])
def test_a_state_dict_of_torchvision_is_read_from_a_file_or_a_directory(tmp_path, config, task):
    model = pretrained(config, task=task)
    folder = save_pretrained(model, tmp_path / "dict", layout="torchvision")
    assert [path.name for path in folder.iterdir()] == ["model.safetensors"]
    for source in (folder, folder / "model.safetensors"):
        reopened = load_pretrained(source, model=config)
        assert equal(reopened, model)
        assert reopened.model.outputs == model.model.outputs
    with pytest.raises(ValueError) as error:
        load_pretrained(folder)
    kind = type(config).__name__
    assert "architecture is not known" in str(error.value) and f"models.{kind}" in str(error.value)


def test_tensors_of_no_known_library_need_their_config_json(tmp_path):
    save_file({"encoder.weight": np.ones(3, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"architecture is not known; copy config\.json"):
        load_pretrained(tmp_path)


def test_a_state_dict_has_the_usual_processor_of_torchvision(tmp_path):
    config = models.ResNet(stem=4, widths=(8,), depths=(1,))
    folder = save_pretrained(pretrained(config), tmp_path, layout="torchvision")
    processor = load_pretrained(folder, model=config).processor
    assert processor.size == 256 and processor.crop == (224, 224) and processor.resample == "bilinear"


def test_the_auxiliary_classifier_of_an_inception_stays_unread(tmp_path):
    config = models.InceptionV3(size=75, unit=1)
    folder = save_pretrained(pretrained(config), tmp_path, layout="torchvision")
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"AuxLogits.fc.bias": np.ones(3, np.float32)}, folder / "model.safetensors")
    entries = load_pretrained(folder, model=config).manifest.entries
    assert [entry.action for entry in entries if entry.foreign == "AuxLogits.fc.bias"] == ["unused"]
    save_file(tensors | {"Extra.fc.bias": np.ones(3, np.float32)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"Extra\.fc\.bias"):
        load_pretrained(folder, model=config)


def test_a_state_dict_of_another_architecture_is_refused(tmp_path):
    folder = save_pretrained(pretrained(DENSE), tmp_path, layout="torchvision")
    with pytest.raises(ValueError, match=r"'classifier\.bias', .* are not named as those of a ResNet in torchvision"):
        load_pretrained(folder, model=models.ResNet())
    with pytest.raises(ValueError, match=r"missing from the checkpoint"):
        load_pretrained(folder, model=models.DenseNet(size=29, stem=4, growth=2, depths=(2, 1), bottleneck=1))


@pytest.mark.parametrize(
    ("config", "layout", "parts"),
    [
        (DENSE, "tim", ("layout 'tim'", "transformers, timm, torchvision, tlx", "close: 'timm'")),
        (DENSE, "transformers", ("transformers has no form for this DenseNet", "'timm', 'tlx', 'torchvision'")),
        (DENSE, "timm", ("timm has no architecture", "densenet121")),
        (models.Cnn(), "torchvision", ("torchvision has no form for this Cnn", "'tlx'")),
        (models.ResNet(activation="silu", stem=4, widths=(8,), depths=(1,)), "torchvision", ("activation='silu'",)),
    ],
)
def test_a_layout_without_a_form_for_the_model_is_refused(tmp_path, config, layout, parts):
    with pytest.raises(ValueError) as error:
        save_pretrained(pretrained(config), tmp_path / "new", layout=layout)
    for part in parts:
        assert part in str(error.value)
    assert not (tmp_path / "new").exists()


def test_a_state_dict_is_not_written_beside_a_config_json(tmp_path):
    save_pretrained(pretrained(DENSE), tmp_path)
    with pytest.raises(FileExistsError, match=r"config\.json.*another directory"):
        save_pretrained(pretrained(DENSE), tmp_path, layout="torchvision")


def test_a_resnet_from_scratch_is_saved_for_transformers(tmp_path):
    save_pretrained(pretrained(models.ResNet(size=12, stem=6, widths=(8, 12), depths=(1, 2))), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "resnet"


@pytest.mark.parametrize("side", [64, 96, 224, 299, 384])
@pytest.mark.parametrize("extra", [0, 1, 5, 11, 32])
def test_settings_of_timm_are_those_of_the_processor(tmp_path, side, extra):
    processor = ImageProcessor(size=side + extra, crop=(side, side), rounding="torchvision")
    again = processor_of(settings_of(processor), tmp_path)
    assert (again.size, again.crop) == (processor.size, processor.crop)
    stretched = ImageProcessor(size=(side + extra, side), crop=(side, side), rounding="torchvision")
    if extra == 0:
        assert processor_of(settings_of(stretched), tmp_path).size == (side, side)
        return
    with pytest.raises(ValueError, match="timm has no form for"):
        settings_of(stretched)


def test_a_processor_without_a_form_in_timm_is_refused(tmp_path):
    processor = ImageProcessor(size=(224, 224), scale=1.0)
    with pytest.raises(ValueError, match=r"timm has no form for .*scale=1\.0"):
        save_pretrained(pretrained(models.DenseNet(), processor), tmp_path / "new", layout="timm")


SMALL = models.ResNet(size=12, stem=6, widths=(8, 12), depths=(1, 2))


def written(tmp_path, change, config=SMALL, layout=None):
    """Return the directory of a model with a change of its config.json."""
    folder = save_pretrained(pretrained(config), tmp_path / "saved", layout=layout)
    document = json.loads((folder / "config.json").read_text())
    change(document)
    (folder / "config.json").write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda d: d.update(model_type="resnext"), ("model_type 'resnext'", "close: 'resnet'")),
        (lambda d: d.update(model_type="Swin"), ("model_type 'Swin'", "close: 'swin'")),
        (lambda d: d.update(layer_type="botleneck"), ("layer_type is 'botleneck'", "'bottleneck'")),
        (lambda d: d.update(hidden_act="rele"), ("'rele'", "close: 'relu'")),
        (lambda d: d.update(id2label={"0": "cat", "1": "dog", "3": "owl"}), ("id2label numbers its classes 0, 1, 3",)),
    ],
)  # fmt: skip
def test_a_family_a_variant_and_a_list_of_classes_that_do_not_fit_are_one_line(tmp_path, change, parts):
    with pytest.raises(ValueError) as error:
        load_pretrained(written(tmp_path, change))
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda d: d.update(architecture="convnext_tiny_hnf"), ("'convnext_tiny_hnf'", "'convnext_tiny'")),
        (lambda d: d.update(architecture="swin_s3_tiny_224"), ("'swin_s3_tiny_224'", "close: ", "swin")),
        (lambda d: d.update(architecture="resnetv2_50x1_bitm"), ("close: 'resnetv2_50x1_bit'",)),
        (lambda d: d.update(label_names=["a", "b"]), ("label_names has 2 names", "3 classes")),
        (lambda d: d["model_args"].update(num_classes=5), ("id2label has 3 names", "5 classes")),
    ],
)  # fmt: skip
def test_the_same_in_the_layout_of_timm(tmp_path, timm_folder, change, parts):
    with pytest.raises(ValueError) as error:
        load_pretrained(edited(timm_folder[1], tmp_path, change))
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


def test_a_longer_list_of_classes_gets_a_new_head_that_does_not_predict(tmp_path):
    names = tuple(f"c{n}" for n in range(4))
    folder = written(tmp_path, lambda d: d.update(id2label=dict(enumerate(names))))
    for task in (None, Classification(classes=4, names=names)):
        loaded = load_pretrained(folder, task)
        assert loaded.model.outputs == 4 and loaded.task.names == names
        notes = {entry.path: entry.note for entry in loaded.manifest.entries if entry.action == "reset"}
        assert notes.keys() == {"head/kernel", "head/bias"} and "(3, 12)" in notes["head/kernel"]
    with pytest.raises(ValueError, match=r"saved has an untrained head: 'head/kernel'.*\(3, 12\)") as error:
        open_model(str(folder))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("config", "layout", "parts"),
    [
        (models.ConvNeXt(widths=(4, 6), depths=(1, 1), size=9), "timm", ("timm has no architecture", "convnext_tiny")),
        (models.ConvNeXt(epsilon=1e-6, layer_scale=None), "torchvision", ("without layer_scale",)),
        (models.ConvNeXt(), "torchvision", ("epsilon=1e-12", "1e-06")),
        (models.Swin(family="swinv2"), "torchvision", ("family='swinv2'", "'swin'")),
        (models.Swin(size=256), "timm", ("window=7", "side of 256", "multiple of 224")),
        (models.BiT(depths=(1, 1, 1, 1)), "torchvision", ("torchvision has no form for this BiT", "'timm'")),
        (models.ResNet(widening=2, groups=32), "transformers", ("transformers has no form for this ResNet", "'timm'")),
    ],
)
def test_a_variant_that_a_library_lacks_is_one_line(tmp_path, config, layout, parts):
    model = models.build(config, 3)
    nothing = Pretrained(model, Variables({}, {}), None, Manifest("random", {}, ()), TASK)
    with pytest.raises(ValueError) as error:
        save_pretrained(nothing, tmp_path / "new", layout=layout)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)
