"""MLflow."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tlx.records.trackers.base import TrackedRun, Tracker, Writer
from tlx.trees import Json

# The largest numbers of metrics and of parameters in a request, and the largest length of a parameter.
METRICS, PARAMETERS, LENGTH = 1000, 100, 6000


@dataclass(frozen=True, kw_only=True)
class Mlflow(Tracker):
    """Log runs to MLflow (extra `tlx[mlflow]`).

    `uri` is by default `MLFLOW_TRACKING_URI`, else a database in the working directory. `experiment` is by default
    `MLFLOW_EXPERIMENT_NAME`, else "tlx"; it is created where it does not exist.
    """

    package = "mlflow"
    extra = "mlflow"

    uri: str | None = None
    experiment: str | None = None

    def start(self, run: TrackedRun) -> Writer:
        import os

        from mlflow import MlflowClient
        from mlflow.entities import Param

        client = MlflowClient(tracking_uri=self.uri)
        if run.identity:
            client.update_run(run.identity, status="RUNNING")
            return MlflowWriter(client, run.identity)
        name = self.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME", "tlx")
        found = client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else client.create_experiment(name)
        identity = client.create_run(experiment, run_name=run.folder.name).info.run_id
        parameters = [Param(allowed(path), str(value)[:LENGTH]) for path, value in run.settings.items()]
        for start in range(0, len(parameters), PARAMETERS):
            client.log_batch(identity, params=parameters[start : start + PARAMETERS])
        return MlflowWriter(client, identity)


class MlflowWriter(Writer):
    """Write metrics in batches, because every request waits for the server."""

    def __init__(self, client: Any, identity: str):
        self.client, self.identity, self.waiting = client, identity, list[Any]()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        self.waiting += [Metric(allowed(name), float(value), now, step) for name, value in values.items()]
        if len(self.waiting) >= METRICS:
            self.flush()

    def flush(self) -> None:
        waiting, self.waiting = self.waiting, []
        for start in range(0, len(waiting), METRICS):
            self.client.log_batch(self.identity, metrics=waiting[start : start + METRICS])

    def finish(self, result: Json | None) -> None:
        self.flush()
        self.client.set_terminated(self.identity, "FINISHED" if result is not None else "KILLED")


def allowed(name: str) -> str:
    """Return a name with `_` in the place of characters that MLflow refuses.

    >>> allowed("term/gap (source)")
    'term/gap _source_'
    """
    return re.sub(r"[^\w\-./: ]", "_", name)
