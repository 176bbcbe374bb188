"""The line between initial and trained weights: one program, exact ends."""

import numpy as np

from tlx import models
from tlx.analysis.changes import line
from tlx.training.reopen import Meter, batches_of, reopen


def test_one_program_measures_every_point(tuned, monkeypatch):
    opened, traces = reopen(tuned.folder), []
    forward = models.forward
    monkeypatch.setattr(line.models, "forward", lambda *given, **how: (traces.append(1), forward(*given, **how))[1])
    message = []
    points = line.path(opened, batches_of(opened, opened.splits.validation), 5, lambda *how: message.append(how))
    assert len(traces) == 1
    assert message == [(n, 5) for n in range(1, 6)]
    monkeypatch.undo()
    meter = Meter(opened)
    for point, end in ((points[0], opened.before), (points[-1], opened.after)):
        actual = meter(end, "validation").metrics(opened.ready.task)
        for name in ("loss", "accuracy"):
            np.testing.assert_allclose(point[name]["value"], actual[name], rtol=1e-5)
            assert point[name]["low"] <= point[name]["value"] <= point[name]["high"]
