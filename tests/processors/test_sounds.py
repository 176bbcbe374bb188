"""Sounds: decoded, shifted, converted to pictures for image models, and predicted."""

import dataclasses
import io
from typing import Any, ClassVar

import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds

from tlx import Data, Optim, Recipe, Train, config, models, predict, processors, run, tasks
from tlx.data import BackgroundNoise, Blur, Codec, DropWords, Speed, load, open_dataset
from tlx.processors.sounds import SoundProcessor, decoded
from tlx.recipe import classes

RATE = 8000


def tone(hertz, seconds=0.5, rate=RATE, loud=0.5):
    return (loud * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def flac(sound, rate=RATE):
    file = io.BytesIO()
    soundfile.write(file, sound, rate, format="FLAC")
    return file.getvalue()


def pitch(sound, rate=RATE):
    """Return the frequency with the most power."""
    return np.fft.rfftfreq(len(sound), 1 / rate)[np.abs(np.fft.rfft(sound)).argmax()]


class Tones(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Low or high sounds, 40 of each in training."""

    name = "tones"
    VERSION = tfds.core.Version("1.0.0")
    url_infos: ClassVar[dict[str, Any]] = {}
    rate = RATE

    def _info(self):
        kinds = {"audio": tfds.features.Text(), "label": tfds.features.ClassLabel(names=["low", "high"])}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(kinds), supervised_keys=("audio", "label")
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split, count) for split, count in (("train", 80), ("test", 40))}

    def _generate_examples(self, split, count):
        draw = np.random.default_rng(len(split))
        for n in range(count):
            hertz = draw.uniform(300, 700) if n % 2 == 0 else draw.uniform(1200, 2000)
            yield n, {"audio": flac(tone(hertz, draw.uniform(0.3, 0.6), self.rate), self.rate), "label": n % 2}


class Fast(Tones):
    """The same at twice the sampling rate."""

    name = "fast"
    rate = 2 * RATE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    for kind in (Tones, Fast):
        kind(data_dir=str(root), file_format="array_record").download_and_prepare()
    return root


@pytest.fixture
def recipe(folder):
    return Recipe(
        data=Data(target=str(folder / "tones" / "1.0.0"), size=16, seconds=0.5),
        task=tasks.Classification(classes=2),
        model=models.Cnn(size=16, channels=1, widths=(4,), dense=8),
        optim=Optim(lr=0.01),
        train=Train(steps=30, batch=16, eval_every=30, eval_batch=40),
    )


def test_noise_has_its_stated_level_and_depends_on_its_generator_only():
    sound = tone(440, loud=0.1)
    noisy = BackgroundNoise(snr=10.0)(sound, np.random.default_rng(0))
    ratio = 10 * np.log10((sound**2).mean() / ((noisy - sound) ** 2).mean())
    assert noisy.dtype == np.float32 and noisy.shape == sound.shape and ratio == pytest.approx(10, abs=0.3)
    np.testing.assert_array_equal(noisy, BackgroundNoise(snr=10.0)(sound, np.random.default_rng(0)))
    assert not BackgroundNoise(snr=0.0)(np.zeros(9, np.float32), np.random.default_rng(0)).any()
    assert np.abs(BackgroundNoise(snr=-40.0)(sound, np.random.default_rng(0))).max() <= 1


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.1, 2.0])
def test_faster_playback_is_shorter_and_higher(factor):
    fast = Speed(factor=factor)(tone(440), np.random.default_rng(0))
    assert fast.dtype == np.float32 and len(fast) == pytest.approx(4000 / factor, abs=1)
    assert pitch(fast) == pytest.approx(440 * factor, rel=0.01)


def g711():
    """All values of mu-law (ITU-T G.711): 8 segments of 16 levels on 14 bits, each segment twice as coarse."""
    levels = [2 ** (segment + 1) * (place + 16.5) - 33 for segment in range(8) for place in range(16)]
    return np.array(sorted([*levels, *(-level for level in levels)])) * 4 / 32768


def test_codecs_keep_their_levels():
    sound = tone(440) + tone(1300, loud=0.2)
    rng = np.random.default_rng(0)
    lost = {law: np.abs(Codec(law=law)(sound, rng) - sound).mean() for law in ("mu-law", "a-law", "gsm")}
    assert 0 < lost["mu-law"] < 0.01 and 0 < lost["a-law"] < 0.01 < lost["gsm"] < 0.1
    actual, levels = Codec(law="mu-law")(sound, rng), g711()
    nearest = np.abs(actual[:, None] - levels).argmin(1)
    np.testing.assert_allclose(actual, levels[nearest], atol=1e-7)
    # Each value is the level nearest to the sample, or one of the two nearest at a border.
    assert np.abs(nearest - np.abs(sound[:, None] - levels).argmin(1)).max() <= 1
    for length in (1, 159, 160, 161, 4001):
        assert Codec()(sound[:length], rng).shape == (min(length, 4000),)


def test_a_sound_in_a_file_becomes_mono_at_the_requested_rate():
    both = np.stack([tone(440, rate=16000), np.zeros(8000, np.float32)], 1)
    actual = decoded(flac(both, 16000), RATE, "x")
    assert actual.shape == (4000,) and pitch(actual) == pytest.approx(440, rel=0.01)
    assert np.abs(actual[100:-100]).max() == pytest.approx(0.25, abs=0.01)
    with pytest.raises(ValueError, match="x is not a readable sound"):
        decoded(b"no sound", RATE, "x")


def by_hand(sound, rate, bands, frames, hop, width, length):
    """Frames every `hop` samples, Hann window, |FFT|^2, mel triangles of equal area (Slaney), in float64."""
    x = np.pad(sound.astype(np.float64), length // 2, mode="reflect")
    window = np.zeros(length)
    begin = (length - width) // 2
    window[begin : begin + width] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(width) / width)
    power = np.stack([np.abs(np.fft.rfft(window * x[n * hop : n * hop + length])) ** 2 for n in range(frames)], 1)

    def hertz(mel):
        return np.where(mel < 15, 200 * mel / 3, 1000 * np.exp(np.log(6.4) / 27 * (mel - 15)))

    top = 15 + 27 * np.log(rate / 2 / 1000) / np.log(6.4)
    edges, bins = hertz(np.linspace(0, top, bands + 2)), np.linspace(0, rate / 2, length // 2 + 1)
    filters = [
        np.maximum(0, np.minimum((bins - a) / (b - a), (c - bins) / (c - b))) * 2 / (c - a)
        for a, b, c in zip(edges, edges[1:], edges[2:], strict=False)
    ]
    mel = np.log10(np.maximum(np.array(filters) @ power, 1e-10))
    return (np.maximum(mel, mel.max() - 8) + 4) / 4


def test_the_picture_equals_that_of_whisper_by_hand():
    """An odd number of bands and frames, and a sound that is too short: the rest is silence."""
    built = SoundProcessor(size=(23, 31), rate=RATE, seconds=0.5)
    sound = np.random.default_rng(0).normal(0, 0.1, 3001).astype(np.float32)
    actual = built({"audio": sound})["image"]
    assert actual.shape == (23, 31, 1) and actual.dtype == np.float32
    expected = by_hand(np.pad(sound, (0, 999)), RATE, 23, 31, 4000 // 31, 200, 256)
    np.testing.assert_allclose(actual[..., 0], expected, atol=1e-5)
    longer = np.concatenate([np.pad(sound, (0, 999)), np.ones(500, np.float32)])
    np.testing.assert_array_equal(built({"audio": longer})["image"], actual)


def test_a_processor_is_saved_with_its_model(tmp_path):
    built = SoundProcessor(size=(16, 24), rate=16000, seconds=0.7)
    built.save(tmp_path)
    assert processors.load(tmp_path) == built


@pytest.mark.slow
def test_a_model_trains_on_sounds_and_predicts_files(recipe, tmp_path):
    outcome = run(recipe, tmp_path / "run", quiet=True)
    assert outcome.metrics["test/accuracy"] > 0.9
    for name, hertz in (("low", 450), ("high", 1600)):
        (tmp_path / f"{name}.wav").write_bytes(flac(tone(hertz)))
        (answer,) = predict.predict(tmp_path / "run", [str(tmp_path / f"{name}.wav")])
        assert next(iter(answer)) == name
    with pytest.raises(ValueError, match="'a word' is not a file; the model reads sounds"):
        predict.predict(tmp_path / "run", ["a word"])


def test_a_sound_shift_applies_to_sounds_only(recipe):
    def shifted(*shifts):
        return load(dataclasses.replace(recipe.data, target_shift=shifts), 0)

    plain, fast = load(recipe.data, 0).test[0]["audio"], shifted(Speed(factor=2.0)).test[0]["audio"]
    assert pitch(fast) == pytest.approx(2 * pitch(plain), rel=0.02)
    for wrong, kind in ((Blur(sigma=1.0), "images"), (DropWords(share=0.5), "text")):
        with pytest.raises(ValueError, match=rf"applies to {kind}, but .* has sounds; .* BackgroundNoise"):
            shifted(wrong)
    assert all(
        config.load(config.dump(value), classes()) == value
        for value in (Speed(factor=0.9), Codec(), BackgroundNoise(snr=3.0))
    )


def test_incompatible_sources_are_refused(recipe, folder):
    fast = dataclasses.replace(recipe.data, source=str(folder / "fast" / "1.0.0"), labels=0)
    with pytest.raises(
        ValueError, match=r"has sounds at 16,000 samples per second with a class, but target .* at 8,000"
    ):
        load(fast, 0)
    with pytest.raises(ValueError, match=r"source 'digits' has images with a class, but target .* has sounds at 8,000"):
        load(dataclasses.replace(recipe.data, source="digits", labels=0), 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Speed(factor=0.1), "factor=0.1; expected 0.25"),
        (lambda: Codec(law="mp3"), "law is 'mp3'; expected one of 'gsm', 'mu-law', 'a-law'"),
        (lambda: SoundProcessor(size=(8, 64), seconds=0.001), "expected at least 64"),
        (lambda: Data(target="x", seconds=0.0), "seconds=0.0; expected more than 0"),
        (lambda: SoundProcessor(size=(8, 8))({"audio": np.zeros((2, 9))}), "expected float32"),
    ],
)
def test_invalid_fields_are_refused(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'tlx\[audio\]'"):
        decoded(b"", RATE, "x")


@pytest.mark.slow
def test_voices_of_the_exchange_share_no_prompt_between_splits():
    actual = open_dataset("spoken/voices")
    assert actual.classes == ("es", "fr", "it") and actual.columns["audio"].rate == RATE
    prompts = {
        split: {value.source[n]["prompt"].decode() for n in range(len(value))} for split, value in actual.splits.items()
    }
    assert sum(map(len, actual.splits.values())) > 1100 and not prompts["train"] & prompts["test"]
    assert set(np.unique(actual.splits["test"].labels())) == {0, 1, 2}
