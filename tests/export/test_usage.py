"""The code in a model card gives the answers of tlx."""

import numpy as np

from tlx import tasks
from tlx.export.usage import decoded


def test_standardised_numbers_are_printed_in_the_units_of_the_labels(capsys):
    task = tasks.Regression(outputs=2).fitted([[1.0, 10.0], [3.0, 50.0]])
    outputs = {"logits": np.array([[0.5, -1.0], [0.0, 2.0]])}
    exec("\n".join(decoded(task)), {"np": np, "outputs": outputs})
    printed = [float(word) for word in capsys.readouterr().out.replace("[", " ").replace("]", " ").split()]
    expected = [value for answer in task.answers(outputs, {}) for value in answer.values()]
    np.testing.assert_allclose(printed, expected, rtol=1e-6)
    raw = tasks.Regression(outputs=2, standardise=False)
    assert raw.label_scale() is None and not any("deviation" in line for line in decoded(raw))
