import io
import json
import pickle
import shutil

import numpy as np
import pytest

from tlx import assets, processors
from tlx.data.collate import collate
from tlx.processors import ImageProcessor, TextProcessor

TEXTS = (
    "A Gorgeous, witty film!",
    "",
    "Ünïcödé CAFÉ naïve 电影 好看 \U0001f600 and\ttabs\nlines\u200b",
    "[CLS] hand-written [SEP] specials [MASK] [PAD]",
    "antidisestablishmentarianism's " * 100,
)


@pytest.fixture(scope="module")
def minilm():
    return assets.extract("minilm-l6")


def auto(directory):
    import transformers

    return transformers.AutoTokenizer.from_pretrained(directory)


def assert_same_tokens(processor, reference, **example):
    built = processor(example)
    expected = reference(
        example["text"], example.get("text_pair"), truncation=True, max_length=processor.tokens, padding=False
    )
    for name in ("input_ids", "token_type_ids", "attention_mask"):
        if name in expected:
            assert built[name].dtype == np.int32
            assert built[name].tolist() == expected[name], (name, example)


@pytest.mark.parametrize("tokens", [8, 128])
def test_tokens_are_those_of_transformers(minilm, tokens):
    processor, reference = TextProcessor.load(minilm, tokens), auto(minilm)
    for text in TEXTS:
        assert_same_tokens(processor, reference, text=text)
        assert_same_tokens(processor, reference, text=text, text_pair=TEXTS[0])


@pytest.mark.parametrize("change", [{"do_lower_case": False}, {"strip_accents": False}, {"truncation_side": "left"}])
def test_a_config_that_overrides_tokenizer_json_is_followed(minilm, tmp_path, change):
    for name in ("tokenizer.json", "vocab.txt", "config.json"):
        shutil.copy(minilm / name, tmp_path)
    settings = json.loads((minilm / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, **change}))
    processor, reference = TextProcessor.load(tmp_path, 16), auto(tmp_path)
    for text in TEXTS:
        assert_same_tokens(processor, reference, text=text)


def test_a_byte_level_tokenizer_matches_and_has_its_padding(tmp_path):
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from tokenizers import processors as post

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    raw.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=320, special_tokens=["<s>", "<pad>", "</s>"]))
    raw.post_processor = post.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    transformers.PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>").save_pretrained(tmp_path)
    processor, reference = TextProcessor.load(tmp_path, 32), auto(tmp_path)
    assert processor.pad_id == 1
    for text in TEXTS:
        assert_same_tokens(processor, reference, text=text)
    padded = collate([processor({"text": text}) for text in TEXTS[:2]], processor.fields, (32,))
    assert padded["input_ids"][1].tolist() == [0, 2] + [1] * 30


def test_padding_fills_a_batch(minilm):
    processor = TextProcessor.load(minilm, 32)
    rows = [processor({"text": text}) for text in TEXTS]
    batch = collate(rows, processor.fields, (32,))
    expected = auto(minilm)(list(TEXTS), truncation=True, max_length=32, padding="max_length", return_tensors="np")
    for name, array in batch.items():
        assert array.shape == (len(TEXTS), 32) and array.dtype == np.int32
        np.testing.assert_array_equal(array, expected[name])
    with pytest.raises(ValueError) as error:
        collate(rows, processor.fields, (16,))
    assert all(part in str(error.value) for part in ("32 entries", "at most 16"))


def test_processors_of_two_lengths_do_not_disturb_each_other(minilm):
    from dataclasses import replace

    long = TextProcessor.load(minilm, 64)
    short = replace(long, tokens=8)
    assert [len(processor({"text": TEXTS[-1]})["input_ids"]) for processor in (long, short, long)] == [64, 8, 64]
    with pytest.raises(ValueError) as error:
        replace(long, tokens=2)
    assert str(error.value).startswith("tokens=2 leaves no room for text, because 2 tokens are special")


def test_a_saved_tokenizer_opens_in_transformers(minilm, tmp_path):
    processor = TextProcessor.load(minilm)
    processor.save(tmp_path)
    assert_same_tokens(processor, auto(tmp_path), text=TEXTS[2])
    assert_same_tokens(TextProcessor.load(tmp_path), auto(minilm), text=TEXTS[2])


def test_processors_survive_pickling(minilm):
    text, image = TextProcessor.load(minilm), ImageProcessor(size=(4, 4), channels=1)
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(text))({"text": "so it is"})["input_ids"], text({"text": "so it is"})["input_ids"]
    )
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(image))({"image": pixels})["image"], image({"image": pixels})["image"]
    )


def test_load_finds_the_kind_of_processor(minilm, tmp_path):
    assert isinstance(processors.load(minilm), TextProcessor)
    assert processors.load(tmp_path) is None
    ImageProcessor(size=(8, 8)).save(tmp_path)
    assert isinstance(processors.load(tmp_path), ImageProcessor)
    with pytest.raises(FileNotFoundError) as error:
        TextProcessor.load(tmp_path)
    assert str(error.value) == f"{tmp_path} has no tokenizer; expected tokenizer.json or vocab.txt"


IMAGES = {"wide": (40, 61, 3), "tall": (61, 40, 3), "small": (9, 7, 3)}
SETTINGS = {
    "vit": {"size": {"height": 24, "width": 24}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]},
    "bicubic": {"size": {"height": 17, "width": 31}, "resample": 3},
    "crop": {"size": {"shortest_edge": 26}, "do_center_crop": True, "crop_size": {"height": 24, "width": 20}},
    "crop of a small one": {"do_resize": False, "do_center_crop": True, "crop_size": {"height": 16, "width": 13}},
    "plain": {"size": {"height": 24, "width": 24}, "do_normalize": False},
    "raw": {"size": {"height": 24, "width": 24}, "do_rescale": False, "do_normalize": False},
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("shape", IMAGES)
def test_pixels_are_those_of_transformers(tmp_path, name, shape):
    from transformers.models.vit import image_processing_pil_vit as module

    module.ViTImageProcessorPil(**SETTINGS[name]).save_pretrained(tmp_path)
    reference = module.ViTImageProcessorPil.from_pretrained(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, IMAGES[shape], dtype=np.uint8)
    expected = reference(image, return_tensors="np", input_data_format="channels_last")["pixel_values"][0]
    processor = ImageProcessor.load(tmp_path)
    built = processor({"image": image})["image"]
    assert built.dtype == np.float32 and built.shape == processor.shape
    np.testing.assert_allclose(built, expected.transpose(1, 2, 0), atol=1e-6, rtol=1e-6)

    processor.save(tmp_path / "again")
    np.testing.assert_array_equal(ImageProcessor.load(tmp_path / "again")({"image": image})["image"], built)
    second = module.ViTImageProcessorPil.from_pretrained(tmp_path / "again")
    same = second(image, return_tensors="np", input_data_format="channels_last")["pixel_values"][0]
    np.testing.assert_allclose(same, expected, atol=1e-6, rtol=1e-6)


def test_an_image_is_pixels_or_the_bytes_of_a_file():
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    for channels in (1, 3):
        processor = ImageProcessor(size=(6, 6), channels=channels)
        np.testing.assert_array_equal(
            processor({"image": file.getvalue()})["image"], processor({"image": pixels})["image"]
        )
    grey = ImageProcessor(size=(12, 10), channels=1, mean=(0.0,), std=(1.0,), scale=1.0)
    np.testing.assert_array_equal(grey({"image": pixels[..., :1]})["image"], pixels[..., :1])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": (8, 8), "channels": 2}, "channels=2; expected 1 (grey) or 3 (colour)"),
        (
            {"size": (8, 8), "resample": "cubic"},
            "resample is 'cubic'; expected one of 'nearest', 'lanczos', 'bilinear', 'bicubic'",
        ),
        ({"size": (8, 8), "mean": (0.0, 0.0)}, "mean has 2 numbers ... 3 channels"),
        ({"size": 8}, "size=8 ... images of different shapes ... (height, width), or a crop"),
    ],
)
def test_invalid_fields_are_refused(fields, message):
    with pytest.raises(ValueError) as error:
        ImageProcessor(**fields)
    for part in message.split(" ... "):
        assert part in str(error.value)


def test_an_array_that_is_not_an_image_is_refused():
    with pytest.raises(ValueError) as error:
        ImageProcessor(size=(8, 8))({"image": np.zeros((8, 8, 3), np.float32)})
    assert str(error.value) == "the image is float32[8, 8, 3]; expected uint8[height, width, channels]"
