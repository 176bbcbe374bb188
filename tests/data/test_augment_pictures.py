"""Augmentations of pictures: their definitions, their places in the pipeline, and that they are drawn by example."""

import io

import numpy as np
import pytest
from PIL import Image

from tlx.data import ColourJitter, Data, Flip, RandAugment, RandomErasing, RandomResizedCrop, Resize, TrivialAugment
from tlx.data.augment import augmented_example
from tlx.data.augment_pictures import narrow_operations, wide_operations
from tlx.processors import ImageProcessor

SIZE = (6, 5)
PROCESSOR = ImageProcessor(size=12, crop=SIZE, resample="bicubic")


def pixels(height=23, width=31, channels=3):
    return np.random.default_rng(1).integers(0, 256, (height, width, channels), dtype=np.uint8)


def example(**sizes):
    return {"image": pixels(**sizes), "index": 3, "label": 1}


def draw(augment, step=0, seed=0, subject=None, processor=PROCESSOR):
    return augmented_example(subject or example(), processor, augment, seed=seed, step=step, index=3)


@pytest.mark.parity
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("space", ["wide", "narrow"])
def test_every_operation_has_the_pixels_of_torchvision(networks, space, mode):
    transforms = networks.torchvision.transforms
    picture = Image.fromarray(pixels()).convert(mode)
    if space == "wide":
        ours, theirs = wide_operations(), transforms.TrivialAugmentWide()._augmentation_space(31)
    else:
        ours = narrow_operations(picture.size)
        theirs = transforms.RandAugment()._augmentation_space(31, (picture.height, picture.width))
    assert ours.keys() == theirs.keys()
    for name, operation in ours.items():
        strengths, signed = theirs[name]
        assert operation.signed == signed
        for magnitude in (0, 7, 30):
            strength = float(strengths[magnitude]) if strengths.ndim else 0.0
            np.testing.assert_allclose(operation.strengths[magnitude], strength, rtol=1e-6)
            for sign in (1, -1) if signed else (1,):
                actual = operation.apply(picture, sign * strength)
                nearest = transforms.InterpolationMode.NEAREST
                wanted = transforms.autoaugment._apply_op(picture, name, sign * strength, nearest, None)
                np.testing.assert_array_equal(np.asarray(actual), np.asarray(wanted), err_msg=f"{name} {magnitude}")


def test_a_part_lies_inside_and_has_the_asked_area_and_proportions():
    crop, rng = RandomResizedCrop(share=(0.1, 0.5), ratio=(0.5, 2.0)), np.random.default_rng(0)
    parts = [crop.part((40, 30), rng) for _ in range(300)]
    for left, top, width, height in parts:
        assert left >= 0 and top >= 0 and left + width <= 40 and top + height <= 30
        # A side is rounded by up to half a pixel.
        assert (width + 0.5) * (height + 0.5) >= 0.1 * 1200 and (width - 0.5) * (height - 0.5) <= 0.5 * 1200
        assert (width + 0.5) / (height - 0.5) >= 0.5 and (width - 0.5) / (height + 0.5) <= 2
    assert len({part[:2] for part in parts}) > 100


def test_a_part_that_no_draw_fits_is_the_middle():
    crop = RandomResizedCrop(share=(1.0, 1.0), ratio=(3.0, 3.0))
    assert crop.part((12, 40), np.random.default_rng(0)) == (0, 18, 12, 4)


@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
def test_the_whole_picture_as_the_part_is_a_plain_resize(resample):
    crop = RandomResizedCrop(share=(1.0, 1.0), ratio=(31 / 23, 31 / 23), resample=resample)
    plain = ImageProcessor(size=SIZE, resample=resample)
    np.testing.assert_array_equal(draw((crop,)), plain(example())["image"])


def test_a_part_of_a_resized_picture_is_cut_from_a_square():
    """The proportions of the part are those within the square, so a whole square is the whole picture."""
    crop = RandomResizedCrop(share=(1.0, 1.0), ratio=(1.0, 1.0), resample="bilinear")
    square = np.asarray(Image.fromarray(pixels()).resize((20, 20), Image.Resampling.BILINEAR))
    plain = ImageProcessor(size=SIZE, resample="bilinear")
    np.testing.assert_array_equal(draw((Resize(size=20), crop)), plain({"image": square})["image"])
    with pytest.raises(ValueError, match="resample is 'nearest'"):
        Resize(size=20, resample="nearest")
    with pytest.raises(ValueError, match="size=0"):
        Resize(size=0)


def test_changes_without_a_crop_keep_the_geometry_of_the_processor():
    jitter = ColourJitter(brightness=0.0, contrast=0.0, saturation=0.0)
    np.testing.assert_array_equal(draw((jitter,)), PROCESSOR(example())["image"])


EVERY = (RandomResizedCrop(), ColourJitter(), TrivialAugment(), RandAugment(), Flip(), RandomErasing(probability=1.0))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_result_depends_on_seed_step_and_index_alone(channels):
    processor = ImageProcessor(size=12, crop=SIZE, channels=channels)
    subject = example(channels=channels)
    first = draw(EVERY, subject=subject, processor=processor)
    assert first.shape == (*SIZE, channels) and first.dtype == np.float32
    np.testing.assert_array_equal(first, draw(EVERY, subject=subject, processor=processor))
    for other in ({"step": 1}, {"seed": 1}):
        assert not np.array_equal(first, draw(EVERY, subject=subject, processor=processor, **other))


def test_a_file_gives_what_its_pixels_give():
    content = io.BytesIO()
    Image.fromarray(pixels()).save(content, "png")
    np.testing.assert_array_equal(draw(EVERY), draw(EVERY, subject=example() | {"image": content.getvalue()}))


def test_erasing_overwrites_one_rectangle_of_the_asked_area():
    image = np.ones((20, 30, 2), np.float32)
    erased = RandomErasing(probability=1.0, share=(0.1, 0.2))(image, np.random.default_rng(0)) == 0
    rows, columns = np.flatnonzero(erased.any((1, 2))), np.flatnonzero(erased.any((0, 2)))
    assert erased[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    assert 0.08 < erased.mean() < 0.22
    assert RandomErasing(probability=0.0)(image, np.random.default_rng(0)) is image
    noise = RandomErasing(probability=1.0, fill="noise")(image, np.random.default_rng(0))
    assert 0 < (noise != 1).mean() < 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomResizedCrop(share=(0.5, 0.2)), "share"),
        (lambda: RandomResizedCrop(ratio=(0.0, 1.0)), "ratio"),
        (lambda: ColourJitter(contrast=1.5), "contrast"),
        (lambda: RandAugment(count=0), "count"),
        (lambda: RandAugment(magnitude=31), "magnitude"),
        (lambda: RandomErasing(probability=2.0), "probability"),
        (lambda: RandomErasing(share=(0.2, 0.1)), "share"),
        (lambda: RandomErasing(fill="grey"), "fill"),
        (lambda: Data(target="digits", augment=(Flip(), TrivialAugment())), "TrivialAugment after Flip"),
    ],
)
def test_bad_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
