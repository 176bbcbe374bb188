"""Categories are distinguishable by colour, or by dash or shape beyond the number of colours.

This holds for normal sight, deuteranopia and protanopia, on both themes.
"""

import re
from pathlib import Path

import numpy as np
import pytest

from tlx import report
from tlx.report import scales

STYLE = Path(report.__file__).parent / "templates" / "style.css"
# Linear RGB as seen by a person with this colour vision (Machado, Oliveira and Fernandes, 2009, severity 1).
SIGHTS = {
    "normal": np.eye(3),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
}
LEAST = {"normal": 0.15, "deuteranopia": 0.1, "protanopia": 0.1}


def linear(text):
    values = np.array([int(text[n : n + 2], 16) / 255 for n in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def oklab(colours):
    """Return OKLab (Ottosson, 2020) of linear RGB [N, 3]: equal distances look equally different."""
    cones = np.array([
        [0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ])  # fmt: skip
    axes = np.array([
        [0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ])  # fmt: skip
    return np.cbrt(colours @ cones.T) @ axes.T


def contrast(colours, ground):
    weights = np.array([0.2126, 0.7152, 0.0722])
    light, dark = colours @ weights + 0.05, ground @ weights + 0.05
    return np.maximum(light, dark) / np.minimum(light, dark)


def themes():
    style = STYLE.read_text(encoding="utf-8")
    palettes, cards = re.findall(r"--category: ([^;]+);", style), re.findall(r"--card: (#\w+);", style)
    return [(cards[n], palettes[n].split(", ")) for n in range(2)]


@pytest.mark.parametrize("sight", SIGHTS)
@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_any_two_colours_differ_and_all_are_visible(theme, sight):
    card, palette = themes()[theme]
    assert len(palette) == scales.COLOURS
    colours = np.stack([linear(text) for text in palette])
    assert contrast(colours, linear(card)).min() >= 3
    recorded = oklab(np.clip(colours @ SIGHTS[sight].T, 0, 1))
    distances = np.linalg.norm(recorded[:, None] - recorded[None], axis=-1)
    assert distances[np.triu_indices(len(palette), 1)].min() >= LEAST[sight]


@pytest.mark.parametrize(("mark", "channel"), [("line", "strokeDash"), ("point", "shape")])
def test_categories_beyond_the_colours_have_another_dash_or_shape(mark, channel):
    names = [f"method {n}" for n in range(4 * scales.COLOURS)]
    built = scales.categories("label", names, mark)
    turns = built[channel].to_dict()["scale"]["range"]
    looks = [(n % scales.COLOURS, str(turn)) for n, turn in enumerate(turns)]
    assert len(set(looks)) == len(names)
    assert channel not in scales.categories("label", names[: scales.COLOURS], mark)


def test_a_long_legend_makes_a_chart_higher():
    names = [f"a method with a long name, number {n}" for n in range(12)]
    assert scales.legend_height(names) == 11 * scales.ROW
    assert scales.legend_height(["a", "b"]) == scales.legend_height(["a"]) == 0
