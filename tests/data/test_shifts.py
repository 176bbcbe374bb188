"""Shifts of images and texts: their effect, and that it is determined by the random key."""

import math

import numpy as np
import pytest

from tlx.data.shifts import Blur, Contrast, DropWords, GaussianNoise, Occlude, Rotate, Typos, check_kind, usual

IMAGES = (Rotate(degrees=30.0), Contrast(factor=0.3), GaussianNoise(std=0.2), Blur(sigma=1.0), Occlude(share=0.2))
TEXT = "It is a truth universally acknowledged, that 1 man in possession of a good fortune must be in want of a wife."


def random(seed=0):
    return np.random.default_rng(seed)


def picture(height=13, width=9, channels=3):
    return random(5).integers(0, 256, (height, width, channels)).astype(np.uint8)


@pytest.mark.parametrize("shift", IMAGES, ids=lambda shift: type(shift).__name__)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_shifted_image_is_valid_and_equal_for_equal_keys(shift, channels):
    image = picture(channels=channels)
    before = image.copy()
    first, second = (shift(image, random(1)) for _ in range(2))
    assert first.dtype == np.uint8 and first.shape == image.shape
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(image, before)
    assert not np.array_equal(first, image)


def test_a_quarter_turn_is_anticlockwise():
    image = picture(11, 11)
    np.testing.assert_array_equal(Rotate(degrees=90.0)(image, random()), np.rot90(image))
    np.testing.assert_array_equal(Rotate(degrees=0.0)(image, random()), image)


def test_contrast_keeps_the_mean_of_the_image():
    image = picture()
    mean = image.astype(float).mean()
    expected = np.clip(np.round(mean + 1.7 * (image.astype(float) - mean)), 0, 255)
    np.testing.assert_array_equal(Contrast(factor=1.7)(image, random()), expected)
    assert len(np.unique(Contrast(factor=0.0)(image, random()))) == 1


def test_noise_has_the_stated_standard_deviation():
    grey = np.full((200, 200, 3), 128, np.uint8)
    noise = GaussianNoise(std=0.1)(grey, random()) / 255 - 128 / 255
    assert noise.std() == pytest.approx(0.1, rel=0.01) and abs(noise.mean()) < 0.001


@pytest.mark.parametrize("sigma", [1.5, 4.0])
def test_blur_spreads_an_edge_by_sigma(sigma):
    edge = np.zeros((31, 101, 1), np.uint8)
    edge[:, 51:] = 255
    spread = np.diff(Blur(sigma=sigma)(edge, random())[15, :, 0].astype(float)) / 255
    places = np.arange(len(spread))
    centre = (spread * places).sum()
    assert spread.sum() == 1.0 and centre == pytest.approx(50, abs=0.01)
    assert math.sqrt((spread * (places - centre) ** 2).sum()) == pytest.approx(sigma, rel=0.03)


def test_occlusion_is_a_black_rectangle_of_the_stated_share():
    white, begins = np.full((20, 10, 3), 255, np.uint8), set()
    for seed in range(60):
        rows, columns = np.nonzero((Occlude(share=0.25)(white, random(seed)) == 0).all(-1))
        assert len(rows) == 10 * 5 and (np.ptp(rows), np.ptp(columns)) == (9, 4)
        begins.add((rows.min(), columns.min()))
    assert {begin for begin, _ in begins} == set(range(11)) and {begin for _, begin in begins} == set(range(6))
    assert not Occlude(share=1.0)(white, random()).any()


def test_words_are_dropped_in_order_and_at_least_one_remains():
    words = TEXT.split()
    fewer, few = (DropWords(share=share)(TEXT, random(3)).split() for share in (0.7, 0.3))
    remaining = iter(few)
    assert 0 < len(fewer) < len(few) < len(words) and all(word in remaining for word in fewer)
    lengths = [len(DropWords(share=0.3)(TEXT, random(seed)).split()) for seed in range(300)]
    assert np.mean(lengths) == pytest.approx(0.7 * len(words), rel=0.03)
    assert {len(DropWords(share=1.0)(TEXT, random(seed)).split()) for seed in range(5)} == {1}
    assert DropWords(share=0.5)("", random()) == ""


def test_typos_change_letters_only():
    texts = {share: Typos(share=share)(TEXT, random(3)) for share in (0.3, 0.7, 1.0)}
    for share, text in texts.items():
        assert len(text) == len(TEXT)
        for letter, before, more in zip(text, TEXT, texts[1.0], strict=True):
            assert letter in (before, more)
            assert letter.isalpha() == before.isalpha() and (before.isalpha() or letter == before), share
    assert texts[1.0] == texts[1.0].lower()
    struck = {share: {n for n, letter in enumerate(texts[share]) if letter != TEXT[n]} for share in texts}
    assert struck[0.3] < struck[0.7] < struck[1.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Contrast(factor=-1.0), "factor=-1.0; expected 0 or more"),
        (lambda: GaussianNoise(std=0.0), "std=0.0; expected more than 0 and at most 1 (from black to white)"),
        (lambda: Blur(sigma=0.0), "sigma=0.0; expected more than 0 pixels"),
        (lambda: Occlude(share=1.5), "share=1.5; expected more than 0 and at most 1"),
        (lambda: DropWords(share=0.0), "share=0.0; expected more than 0 and at most 1"),
    ],
)
def test_invalid_shifts_are_refused(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message


def test_the_shifts_of_a_kind_are_named_and_a_kind_without_any_is_too():
    with pytest.raises(ValueError, match=r"shift: Blur.* images, but x has text; .*: DropWords, Typos$"):
        check_kind("shift", (Blur(sigma=1.0),), "text", "x")
    with pytest.raises(ValueError, match=r"images, but x has lists of words; .*no shift for lists of words"):
        check_kind("shift", (Blur(sigma=1.0),), "words", "x")
    with pytest.raises(ValueError, match=r"eps_x=0.3 .* source 'a' has lists of words; .*kind = 'words'.*eps_x"):
        usual("words", 0.3, "source 'a'")
