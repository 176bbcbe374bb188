"""An image is the same in training and in prediction, for every mode and orientation of its file."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tlx import Data, models, processors
from tlx.data.examples import Examples
from tlx.predict import prepare_inputs
from tlx.processors import ImageProcessor
from tlx.types import Column

RNG = np.random.default_rng(0)
COLOURS = Image.fromarray(RNG.integers(0, 256, (12, 10, 3), dtype=np.uint8))
CLEAR = RNG.integers(0, 256, (12, 10), dtype=np.uint8)


def transparent():
    picture = COLOURS.convert("RGBA")
    picture.putalpha(Image.fromarray(CLEAR))
    return picture


def see_through_palette():
    picture = COLOURS.convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    picture.info["transparency"] = 3
    return picture


FILES = {
    "colours": (COLOURS, "PNG"),
    "grey": (COLOURS.convert("L"), "PNG"),
    "palette": (COLOURS.convert("P", palette=Image.Palette.ADAPTIVE, colors=8), "PNG"),
    "palette with a clear colour": (see_through_palette(), "PNG"),
    "GIF": (COLOURS.convert("P"), "GIF"),
    "one bit": (COLOURS.convert("1"), "PNG"),
    "transparent colours": (transparent(), "PNG"),
    "transparent grey": (transparent().convert("LA"), "PNG"),
    "CMYK": (COLOURS.convert("CMYK"), "JPEG"),
    "JPEG": (COLOURS, "JPEG"),
}
DEEP = {
    "16 bits": Image.fromarray(RNG.integers(0, 65536, (12, 10), dtype=np.uint16)),
    "32 bits": Image.fromarray(RNG.integers(0, 65536, (12, 10), dtype=np.int32)),
    "floats": Image.fromarray(RNG.random((12, 10), dtype=np.float32)),
}


def written(picture, form="PNG", orientation=None):
    file = io.BytesIO()
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    picture.save(file, form, exif=exif)
    return file.getvalue()


def trained_on(content):
    """Return the image as a training step reads it: decoded by the data set, then prepared."""
    columns = {"image": Column("image"), "label": Column("class", ("a", "b"))}
    examples = Examples("toy", "train", [{"image": content, "label": 0}], columns)
    return examples[0]["image"]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", FILES)
def test_training_and_prediction_read_the_colours_of_a_file(name, channels):
    picture, form = FILES[name]
    content = written(picture, form)
    processor = ImageProcessor(size=(12, 10), channels=channels, mean=(0.0,), std=(1.0,), scale=1.0)
    trained, predicted = processor({"image": trained_on(content)}), processor({"image": content})
    np.testing.assert_array_equal(trained["image"], predicted["image"])
    mode = "L" if channels == 1 else "RGB"
    wanted = np.asarray(Image.open(io.BytesIO(content)).convert("RGB").convert(mode), np.float32).reshape(
        12, 10, channels
    )
    if picture.mode in ("1", "L", "LA"):
        wanted = np.asarray(Image.open(io.BytesIO(content)).convert("L"), np.float32)[..., None].repeat(channels, -1)
    np.testing.assert_array_equal(predicted["image"], wanted)
    assert trained_on(content).shape == (12, 10, 1 if picture.mode in ("1", "L", "LA") else 3)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_rotated_by_its_orientation(orientation, form):
    from transformers.image_utils import load_image

    content = written(COLOURS, form, orientation)
    upright = np.asarray(load_image(Image.open(io.BytesIO(content))))
    assert upright.shape == ((10, 12, 3) if orientation > 4 else (12, 10, 3))
    np.testing.assert_array_equal(trained_on(content), upright)
    processor = ImageProcessor(size=(8, 9))
    wanted = processor({"image": upright})["image"]
    np.testing.assert_array_equal(processor({"image": content})["image"], wanted)


@pytest.mark.parametrize("name", FILES)
def test_an_image_equals_the_image_of_transformers(name):
    from transformers.image_utils import load_image

    picture, form = FILES[name]
    content = written(picture, form)
    processor = ImageProcessor(size=(12, 10), mean=(0.0,), std=(1.0,), scale=1.0)
    expected = np.asarray(load_image(Image.open(io.BytesIO(content))), np.float32)
    np.testing.assert_array_equal(processor({"image": content})["image"], expected)


@pytest.mark.parametrize("name", DEEP)
def test_pixels_of_more_than_8_bits_are_refused_in_training_and_prediction(name):
    content = written(DEEP[name], "TIFF")
    with pytest.raises(ValueError, match="more than 8 bits") as error:
        ImageProcessor(size=(8, 8))({"image": content})
    with pytest.raises(ValueError, match=r"toy train\[0\].*more than 8 bits"):
        trained_on(content)
    assert DEEP[name].mode.split(";")[0] in str(error.value)


@pytest.mark.parametrize("content", [b"", b"no image", written(COLOURS)[:60], written(COLOURS, "JPEG")[:200]])
def test_a_file_that_is_not_a_complete_image_is_refused(content):
    for read in (trained_on, lambda own: ImageProcessor(size=(8, 8))({"image": own})):
        with pytest.raises(ValueError, match=r"(is not a readable image|is damaged)"):
            read(content)


def test_an_array_of_more_channels_loses_its_transparency():
    processor = ImageProcessor(size=(12, 10), mean=(0.0,), std=(1.0,), scale=1.0)
    for picture in (transparent(), transparent().convert("LA")):
        array = np.asarray(picture)
        np.testing.assert_array_equal(
            processor({"image": array})["image"], processor({"image": written(picture)})["image"]
        )
    with pytest.raises(ValueError, match=r"uint8\[12, 10, 5\]; expected"):
        processor({"image": np.zeros((12, 10, 5), np.uint8)})


PLAIN = {"image_processor_type": "ViTImageProcessor", "size": {"height": 12, "width": 10}}


def loaded(folder, **fields):
    (folder / "preprocessor_config.json").write_text(json.dumps(PLAIN | fields))
    return ImageProcessor.load(folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"image_mean": [0, 0, 0]},
        {"image_mean": 0.0},
        {"image_mean": [0.0, 0.5, 0.0], "image_std": [1, 1, 1]},
        {"image_mean": None, "image_std": None, "do_normalize": None},
        {"do_rescale": None, "rescale_factor": None},
        {"do_normalize": True, "do_rescale": None, "image_mean": [0, 1, 2], "image_std": [3, 4, 5]},
        {"do_rescale": False, "image_mean": [0, 0, 0], "image_std": [255.0, 255.0, 255.0]},
        {"do_normalize": False},
        {"resample": 0},
        {"do_center_crop": False, "crop_size": {"height": 4, "width": 4}},
        {"image_processor_type": "BitImageProcessor"},
        {"image_processor_type": "SiglipImageProcessor"},
        {"image_processor_type": "SiglipImageProcessorFast", "size": {"height": 5, "width": 9}},
        {"image_processor_type": "DeiTFeatureExtractor"},
        {"image_processor_type": "DeiTImageProcessor", "do_center_crop": None},
        {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 9}, "resample": 2},
        {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 9}, "crop_pct": 0.7},
        {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}},
        {"image_processor_type": "EfficientNetImageProcessor"},
        {"image_processor_type": "EfficientNetImageProcessor", "include_top": False, "rescale_offset": True},
        {"image_processor_type": "EfficientNetImageProcessor", "do_normalize": False, "image_std": [0.4, 0.5, 0.6]},
        {"image_processor_type": "MobileNetV2ImageProcessor", "size": {"shortest_edge": 14}, "crop_size": 11},
        {"image_processor_type": "MobileNetV2ImageProcessor", "do_center_crop": False},
        {"feature_extractor_type": "ConvNextFeatureExtractor", "image_processor_type": None, "size": 11},
    ],
    ids=str,
)
def test_zero_counts_as_a_value_and_missing_fields_have_the_defaults_of_transformers(tmp_path, fields):
    import transformers.models.bit.image_processing_pil_bit as bit
    import transformers.models.convnext.image_processing_pil_convnext as convnext
    import transformers.models.deit.image_processing_pil_deit as deit
    import transformers.models.efficientnet.image_processing_pil_efficientnet as efficientnet
    import transformers.models.mobilenet_v2.image_processing_pil_mobilenet_v2 as mobilenet
    import transformers.models.siglip.image_processing_pil_siglip as siglip
    import transformers.models.vit.image_processing_pil_vit as vit

    processor = loaded(tmp_path, **fields)
    kind = fields.get("image_processor_type", "ViT") or fields["feature_extractor_type"]
    value = {"Bit": bit.BitImageProcessorPil, "DeiT": deit.DeiTImageProcessorPil, "ViT": vit.ViTImageProcessorPil}
    value["Siglip"] = siglip.SiglipImageProcessorPil
    value["ConvNext"] = convnext.ConvNextImageProcessorPil
    value["MobileNetV2"] = mobilenet.MobileNetV2ImageProcessorPil
    value["EfficientNet"] = efficientnet.EfficientNetImageProcessorPil
    reference = value[next(name for name in value if kind.startswith(name))].from_pretrained(tmp_path)
    image = np.asarray(COLOURS)
    wanted = reference(image, return_tensors="np", input_data_format="channels_last")["pixel_values"][0]
    np.testing.assert_allclose(processor({"image": image})["image"], wanted.transpose(1, 2, 0), atol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize("size", [(5, 7), (19, 13)])
def test_the_processor_of_dinov3_is_within_one_grey_level(tmp_path, size):
    """Its class resizes numbers from 0 to 1 with torch, which rounds none; it needs torchvision, which only passes the
    pixels on to this function."""
    import torch

    height, width = size
    settings = {"image_processor_type": "DINOv3ViTImageProcessorFast", "size": {"height": height, "width": width}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    processor = processors.load(tmp_path)
    assert processor.mean == (0.485, 0.456, 0.406)
    pixels = torch.tensor(np.asarray(COLOURS, np.float32).transpose(2, 0, 1)[None]) / 255
    wanted = (
        torch.nn.functional.interpolate(pixels, size, mode="bilinear", antialias=True)[0].numpy().transpose(1, 2, 0)
    )
    got = processor({"image": np.asarray(COLOURS)})["image"] * processor.std + np.asarray(processor.mean)
    assert abs(got - wanted).max() <= 1 / 255
    processor.save(tmp_path)
    kept = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert kept["image_processor_type"] == settings["image_processor_type"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_processor_type": "Siglip2ImageProcessor"}, "'Siglip2ImageProcessor', which makes patches of images"),
        ({"image_std": [0.5, 0.0, 0.5]}, "image_std[1] is 0.0; expected a number above 0"),
        ({"image_std": 0}, "image_std is 0; expected a number above 0"),
        ({"image_std": [0.5, -1, 0.5]}, "image_std[1] is -1; expected a number above 0"),
        ({"image_mean": [0.5, float("nan"), 0.5]}, "the document contains NaN"),
        ({"image_mean": None}, "image_mean is null"),
        ({"size": None}, "size is null"),
        ({"rescale_factor": None}, "rescale_factor is null"),
        ({"rescale_factor": 0}, "rescale_factor is 0; expected a number above 0"),
        ({"resample": 4}, "resample is 4; expected one of 0, 1, 2, 3"),
        ({"size": {"height": 0, "width": 10}}, "size.height is 0; expected a whole number from 1"),
    ],
)
def test_a_preprocessor_that_cannot_prepare_images_is_refused_with_the_file(tmp_path, fields, message):
    with pytest.raises(ValueError, match=r"preprocessor_config\.json") as error:
        loaded(tmp_path, **fields)
    assert message in str(error.value)


def test_a_directory_in_the_place_of_a_preprocessor_is_refused_with_its_path(tmp_path):
    (tmp_path / "preprocessor_config.json").mkdir()
    with pytest.raises(IsADirectoryError, match=r"preprocessor_config\.json is a directory"):
        processors.load(tmp_path)


def test_a_preprocessor_of_another_size_than_the_model_is_named(tmp_path):
    settings = models.Vit(size=8, patch=2, channels=3, width=8, depth=1, heads=1, mlp=8)
    processor = ImageProcessor(size=(1, 1), channels=3, mean=(0.5,), std=(0.5,))
    loaded = SimpleNamespace(
        processor=processor, model=SimpleNamespace(config=settings), manifest=SimpleNamespace(source=str(tmp_path))
    )
    with pytest.raises(ValueError, match=r"preprocessor_config\.json.*\(1, 1, 3\).*\(8, 8, 3\)") as error:
        prepare_inputs(loaded, ["picture.png"])
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(("margin", "down", "nearest"), [(1, 0, 0), (2, 1, 1), (3, 1, 2), (5, 2, 2), (7, 3, 4)])
def test_the_margin_of_a_crop_is_rounded_as_in_the_named_library(tmp_path, margin, down, nearest):
    picture = np.random.default_rng(0).integers(0, 256, (8 + margin, 9, 3), dtype=np.uint8)
    for rounding, top in (("transformers", down), ("torchvision", nearest)):
        processor = ImageProcessor(size=None, crop=(8, 9), mean=(0.0,) * 3, std=(1.0,) * 3, rounding=rounding)
        expected = picture[top : top + 8].astype(np.float32)
        expected = expected * np.float32(1 / 255) if rounding == "transformers" else expected / np.float32(255)
        np.testing.assert_array_equal(processor({"image": picture})["image"], expected)
        processor.save(tmp_path)
        assert ImageProcessor.load(tmp_path) == processor
    with pytest.raises(ValueError, match="rounding is 'up'"):
        ImageProcessor(size=None, crop=(8, 9), rounding="up")


@pytest.mark.parametrize(("before", "sides"), [(None, (8, 8)), (9, (9, 10)), ((10, 11), (11, 10))])
def test_the_data_say_what_a_picture_is_before_the_crop(before, sides):
    """A number keeps the proportions, a pair of height and width does not: the pixels are those of Pillow."""
    data = Data(target="pictures", size=8, before_crop=before)
    columns = {"image": Column("image"), "label": Column("class", ("a", "b"))}
    processor = processors.fit(data, columns, ImageProcessor(size=40, crop=(32, 32), resample="bilinear"))
    assert processor.shape == (8, 8, 3)
    resized = np.asarray(COLOURS.resize(sides, Image.Resampling.BILINEAR))
    top, left = ((resized.shape[0] - 8) // 2, (resized.shape[1] - 8) // 2)
    cut = resized[top : top + 8, left : left + 8]
    np.testing.assert_allclose(processor({"image": np.asarray(COLOURS)})["image"], cut / 127.5 - 1, atol=1e-5)
    sounds = {"audio": Column("audio", rate=8000), "label": columns["label"]}
    if before is not None:
        with pytest.raises(ValueError, match=r"before_crop=.* is for pictures"):
            processors.fit(data, sounds)
