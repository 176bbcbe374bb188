"""A notebook with the three lines runs from a data frame to a prediction, with little output."""

import re
from pathlib import Path

import pytest

# Lines that a cell may print, and bytes of HTML that it may show.
MOST_LINES, MOST_BYTES = 15, 100_000
CELLS = (
    """
import pandas as pd
import tlx

frame = pd.read_csv("reviews.csv")
""",
    'run = tlx.finetune(MODEL, train=frame, text="body", label="stars", tuning=tlx.tuning.Full(), epochs=24, lr=1e-2)',
    "run",
    'run.predict(["a lovely film", "a dull film"])',
    "run.recipe",
    "run.history.tail(3)",
    "run.predictions.head(3)",
    "run.plot.curves()",
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_notebook_runs_from_a_frame_to_a_prediction(tiny_text, reviews, tmp_path):
    import nbformat
    from nbclient import NotebookClient

    reviews.to_csv(tmp_path / "reviews.csv", index=False)
    sources = [source.replace("MODEL", repr(str(tiny_text))).strip() for source in CELLS]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    client = NotebookClient(
        notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()

    by_cell = dict(zip(sources, (cell.outputs for cell in notebook.cells), strict=True))
    for source, outputs in by_cell.items():
        lines = [line for output in outputs if output.output_type == "stream" for line in output.text.splitlines()]
        assert len(lines) <= MOST_LINES, (source, lines)
    shown = {source: outputs[-1].data for source, outputs in by_cell.items() if outputs and "data" in outputs[-1]}
    assert "95 % interval" in shown["run"]["text/html"] and "<svg" in shown["run"]["text/html"]
    assert "Recipe(" in shown["run.recipe"]["text/html"]
    for source in ("run", "run.recipe"):
        assert len(shown[source]["text/html"].encode()) < MOST_BYTES
        assert "<script" not in shown[source]["text/html"]
    answers = next(data["text/plain"] for source, data in shown.items() if source.startswith("run.predict("))
    assert re.match(r"\[\{'up': 0\.[89]", answers), answers
    assert [path.name for path in Path(tmp_path / "runs").iterdir()]
