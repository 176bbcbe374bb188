"""Of many settings only some are drawn, and the page states the number of the others."""

import numpy as np
import pytest

from tlx import report
from tlx.records.log import write_json
from tlx.report import page


def study(written, count):
    """A number of settings, each with two widths and two methods, and a curve of two steps."""
    for method, width, where, seed in (
        (method, width, f"w{where}", seed)
        for method in "ab" for width in (1, 2) for where in range(count) for seed in range(2)
    ):  # fmt: skip
        written.add(np.arange(50) < 20 + seed, method=method, width=width, where=where, seed=seed)
        folder = written.folder / "cells" / written.cells[-1]["fingerprint"]
        lines = [{"step": step, "name": "validation/accuracy", "value": 0.5, "time": 0.0} for step in (1, 2)]
        (folder / "metrics.jsonl").write_text("".join(f"{line}\n".replace("'", '"') for line in lines))
        write_json(folder / "result.json", {"metrics": {"test/accuracy": 0.4 + seed / 50}, "selection": "last",
                                            "selected_step": 1})  # fmt: skip
    text = report.write_study(written.write()).read_text(encoding="utf-8")
    return text, page.specification(text)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "along", "curves"), [(7, 0, 2), (13, 1, 14)])
def test_omitted_settings_are_counted(written, count, along, curves):
    text, drawings = study(written, count)
    # The settings of the curves are combined with the widths too.
    sections = {"along": ("by-width", along, count), "curves": ("validation-accuracy", curves, 2 * count)}
    for section, (name, left, settings) in sections.items():
        part = text.partition(f'<section id="{section}">')[2].partition("</section>")[0]
        assert sum(drawing.startswith(name) for drawing in drawings) == settings - left == min(12, settings)
        message = f"The first 12 of {settings} settings are drawn; {left} {'is' if left == 1 else 'are'} left out."
        assert (message in part) == bool(left) == ("left out" in part)
