"""Exact and near duplicates: found in linear time, and left out of training examples alone."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from tlx.data import Arrays, Data, Examples, Folder, Frame, Test, load
from tlx.data.duplicates import grouped, sketched, sketches
from tlx.data.duplicates.groups import near_pairs, neighbours
from tlx.data.duplicates.sketches import packed, signatures, unpacked
from tlx.types import Column

WORDS = (
    "the", "a", "film", "story", "actor", "scene", "of", "with", "and", "never", "always", "great", "poor", "long",
    "short", "director", "music",
)  # fmt: skip


def sentences(count, seed=0, words=16):
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, words)) + f" {n}" for n in range(count)]


def of(inputs, kind="text"):
    records = [{kind: value} for value in inputs]
    return Examples("made up", "train", records, {kind: Column(kind, rate=8000 if kind == "audio" else 0)})


def groups_of(inputs, kind="text"):
    examples = of(inputs, kind)
    return grouped([sketched(examples, np.arange(len(examples)), None)])


def similarity(first, second):
    """Return the Jaccard similarity of two texts."""
    sides = [{f"\0\0\0\0{t}\0\0\0\0"[n : n + 5] for n in range(len(t) + 4)} for t in (first, second)]
    return len(sides[0] & sides[1]) / len(sides[0] | sides[1])


def test_texts_are_equal_without_case_space_and_unicode_forms():
    inputs = ["A fine  film", "a fine\nfilm ", "a ﬁne film", "a fine film!", "", " \n", "other"]
    assert groups_of(inputs).exact.tolist() == [0, 0, 0, 3, 4, 5, 6]


def test_the_share_of_equal_minima_estimates_the_jaccard_similarity():
    texts = sentences(40)
    changed = [" ".join(text.split()[: 16 - n % 12]) for n, text in enumerate(texts)]
    signature = signatures([*texts, *changed])
    estimates = (signature[:40] == signature[40:]).mean(1)
    exact = np.array([similarity(*pair) for pair in zip(texts, changed, strict=True)])
    assert np.abs(estimates - exact).mean() < 0.06 and np.corrcoef(estimates, exact)[0, 1] > 0.95
    # A text has one signature, wherever it stands, however many are hashed together.
    np.testing.assert_array_equal(signatures(texts[7:9]), signature[7:9])
    assert (signatures([""]) == signatures(["", "x"])[:1]).all()


def test_near_duplicates_of_texts_are_found_and_others_are_not():
    texts = sentences(3000, words=30)
    copies = [text.replace("film", "movie", 1 + n % 2) for n, text in enumerate(texts[:300])]
    copies[200:] = [" ".join(texts[n].split()[:20] + texts[n + 500].split()[20:]) for n in range(200, 300)]
    alike = np.array([similarity(*pair) for pair in zip(texts, copies, strict=False)])
    near, far = np.flatnonzero((alike > 0.88) & (alike < 1)), np.flatnonzero(alike < 0.65)
    groups = groups_of([*texts, *copies])
    linked = groups.near[3000:] == groups.near[:300]
    assert len(near) > 40 and len(far) > 80 and linked[near].mean() > 0.95 and not linked[far].any()
    assert len(np.unique(groups.near[:3000])) == 3000


def test_pairs_are_linear_in_the_number_of_inputs():
    keys = np.array([5, 5, 5, 7, 5, 7, 9])
    assert {tuple(pair) for pair in neighbours(keys).tolist()} == {(0, 1), (0, 2), (0, 4), (1, 2), (2, 4), (3, 5)}
    assert len(near_pairs(np.zeros((1000, 48), np.uint32), "text")) < 2000


def picture(seed, size=48):
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (size, size), tuple(random.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        corner = random.integers(0, size, 2)
        box = [*corner.tolist(), *(corner + random.integers(4, size // 2, 2)).tolist()]
        draw.ellipse(box, fill=tuple(random.integers(0, 256, 3).tolist()))
    return image


def encoded(image, **form):
    stream = io.BytesIO()
    image.save(stream, **form)
    return stream.getvalue()


def test_images_are_equal_by_pixels_and_nearly_by_their_small_versions():
    images = [picture(n) for n in range(60)]
    files = [encoded(image, format="PNG") for image in images]
    same = encoded(images[3], format="BMP")
    near = [encoded(images[5], format="JPEG", quality=70), encoded(images[7].resize((90, 90)), format="PNG")]
    near.append(encoded(images[9].point(lambda value: int(value * 0.8) + 20), format="PNG"))
    groups = groups_of([*files, same, *near], "image")
    assert groups.exact.tolist() == [*range(60), 3, 61, 62, 63]
    assert groups.near.tolist() == [*range(60), 3, 5, 7, 9]
    # Pictures of one colour are alike only where they are equal.
    flat = [np.full((4, 4, 1), value, np.uint8) for value in (10, 200, 10)]
    assert groups_of(flat, "image").near.tolist() == [0, 1, 0]


def test_digits_of_different_writers_are_no_duplicates():
    from sklearn.datasets import load_digits

    images = (load_digits().images[:600] * 15.9).astype(np.uint8)[..., None]
    groups = groups_of(list(images), "image")
    assert len(np.unique(groups.near)) >= 595


def test_sounds_are_equal_by_samples():
    import soundfile

    sounds = []
    wave = (np.sin(np.arange(800) / 9) * 16000).astype(np.int16)
    for form, shift in (("WAV", 0), ("FLAC", 0), ("WAV", 1)):
        stream = io.BytesIO()
        soundfile.write(stream, np.roll(wave, shift), 8000, format=form)
        sounds.append(stream.getvalue())
    assert groups_of(sounds, "audio").exact.tolist() == [0, 0, 2]


def test_beyond_the_limit_images_are_not_decoded(tmp_path):
    files = [encoded(picture(n), format="PNG") for n in range(20)]
    examples = of([*files, b"broken"], "image")
    sketch = sketched(examples, np.arange(21), looked_at=1)
    assert len(sketch.decoded) == 16 and len(sketch.content) == 21
    again = unpacked(packed(sketch), "image")
    for first, second in zip(sketch, again, strict=True):
        np.testing.assert_array_equal(first, second)
    with pytest.raises(ValueError, match=r"made up train\[20\]"):
        sketched(examples, np.arange(21), None)


def test_sketches_are_stored_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(sketches, "cache_dir", lambda: tmp_path)
    examples = of(sentences(6))
    examples.key = "known"
    sketch = sketched(examples, np.arange(6))
    [file] = (tmp_path / "sketches").iterdir()
    view = examples.view(np.arange(6))
    view.source = ()
    for first, second in zip(sketched(view, np.arange(6)), sketch, strict=True):
        np.testing.assert_array_equal(first, second)
    assert file.name.startswith("known-train-")


ROWS = pd.DataFrame({"text": sentences(60), "label": ["a", "b"] * 30, "part": ["train"] * 40 + ["test"] * 20})


def test_training_examples_that_repeat_another_one_are_dropped_and_the_test_split_stays():
    rows = ROWS.copy()
    rows.loc[3, "text"] = rows.loc[50, "text"].upper()
    rows.loc[5, "text"] = rows.loc[51, "text"].replace("film", "movie", 1)
    rows.loc[51, "text"] = rows.loc[50, "text"]
    rows.loc[8, "text"] = rows.loc[7, "text"]
    source = Frame(rows, text="text", label="label", split="part")
    data = Data(target=source, validation=0.2)
    plain, clean = load(data, 0), load(replace(data, drop_duplicates=True), 0)
    assert clean.test.rows.tolist() == plain.test.rows.tolist() and len(clean.test) == 20
    used = {*clean.train.rows.tolist(), *clean.validation.rows.tolist()}
    assert 3 not in used and len(used & {7, 8}) == 1 and len(used) == 38
    text = " ".join(clean.notes)
    assert "data.drop_duplicates left out" in text and "repeat a held-out example" in text
    assert not any("drop_duplicates" in note for note in plain.notes)
    # The sealed test split leaves the same training examples, and so does the cache.
    assert load(replace(data, drop_duplicates=True), 0, test=False).train.rows.tolist() == clean.train.rows.tolist()


def test_a_source_and_a_further_test_set_are_compared_too():
    target = Frame(ROWS, text="text", label="label", split="part")
    texts = [*sentences(30, seed=5), *ROWS["text"][:20], *ROWS["text"][40:50]]
    rows = pd.DataFrame({"text": texts, "label": ["a", "b"] * 30})
    source = Frame(rows, text="text", label="label", test_share=0.0)
    data = Data(target=target, source=source, validation=0.2, drop_duplicates=True)
    splits = load(data, 0)
    held_out = {*splits.validation.rows.tolist()} & set(range(20))
    assert len(splits.streams["source"]) == 60 - 10 - len(held_out)
    other = Arrays({"text": list(ROWS["text"][:5]), "label": ["a", "b", "a", "b", "a"]}, test_share=0.0)
    tested = load(Data(target=target, drop_duplicates=True, tests=(Test(name="far", source=other, split="train"),)), 0)
    assert not {*tested.train.rows.tolist()} & set(range(5)) and len(tested.tests["far"]) == 5


def test_nothing_left_is_an_error():
    rows = pd.DataFrame({"text": ["same"] * 40, "label": ["a", "b"] * 20})
    with pytest.raises(ValueError, match=r"drop_duplicates leaves no example of validation.*tlx data"):
        load(Data(target=Frame(rows), drop_duplicates=True), 0)


def test_a_folder_of_pictures_is_compared_by_pixels(tmp_path):
    for n in range(24):
        folder = tmp_path / ("train" if n < 16 else "test") / "ab"[n % 2]
        folder.mkdir(parents=True, exist_ok=True)
        picture(n if n != 20 else 4).save(folder / f"{n}.png")
    splits = load(Data(target=Folder(str(tmp_path)), drop_duplicates=True, validation=0.2), 0)
    names = {Path(splits.train.place(row)).name for row in splits.train.rows.tolist()}
    assert len(splits.train) + len(splits.validation) == 15 and len(splits.test) == 8 and names
