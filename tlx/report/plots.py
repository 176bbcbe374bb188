"""Return the drawings of a run as Altair charts, for notebooks."""

from pathlib import Path
from typing import Any, NamedTuple

from tlx.report import needs
from tlx.tasks import Task
from tlx.trees import Json

# The width of a chart in pixels; a page sets it by its own width.
WIDTH = 520


class RunPlots(NamedTuple):
    """The drawings of the run in `folder`, as on its page. `task` is its task with its classes."""

    folder: Path
    task: Task

    def curves(self) -> Any:
        """Return the loss, the learning rate and the metrics of the validation split by step, one below the other."""
        from tlx.report import figures

        records = self._records()
        return stacked([*figures.training(records), *figures.validation(records)])

    def confusion(self) -> Any:
        """Return the confusion matrix of the test split; for numbers the predictions against the true values.

        Raises ValueError where the task has neither.
        """
        return self._outcome("confusion", "scatter")

    def calibration(self) -> Any:
        """Return the accuracy by confidence on the test split. Raises ValueError where the task has no confidence."""
        return self._outcome("reliability")

    def _records(self) -> Any:
        needs()
        from tlx.report import reading

        return reading.read(self.folder, self.task)

    def _outcome(self, *names: str) -> Any:
        from tlx.report import figures

        drawn = {figure.name: figure for figure in figures.outcomes(self._records())}
        for name in names:
            if name in drawn:
                return stacked([drawn[name]])
        raise ValueError(
            f"{type(self.task).__name__} has no drawing {names[0]!r}; it has {', '.join(drawn) or 'none'} and curves()"
        )


def stacked(figures: Any) -> Any:
    """Return figures of a page as one Altair chart, one below the other."""
    import altair

    specs = [alone(figure) for figure in figures]
    if len(specs) == 1:
        return altair.Chart.from_dict(specs[0])
    schema = specs[0]["$schema"]
    parts = [{name: value for name, value in spec.items() if name != "$schema"} for spec in specs]
    # The colours of one drawing are no scale of the next.
    return altair.VConcatChart.from_dict(
        {"$schema": schema, "vconcat": parts, "resolve": {"scale": {"color": "independent"}}}
    )


def alone(figure: Any) -> Json:
    """Return the specification of a figure with its rows inside, its title, and a width of its own."""
    spec = dict(figure.spec)
    datasets = spec.pop("datasets")
    return {**inlined(spec, datasets), "title": figure.title, "width": WIDTH}


def inlined(part: Any, datasets: Json) -> Any:
    """Return a specification with the rows in the place of the names of data, which charts in one drawing share."""
    if isinstance(part, list):
        return [inlined(item, datasets) for item in part]
    if not isinstance(part, dict):
        return part
    return {
        name: {"values": datasets[value["name"]]} if name == "data" and "name" in value else inlined(value, datasets)
        for name, value in part.items()
    }
