"""Lost tasks run again; a cluster that loses them without any progress ends the study."""

import pytest

from tlx.files.durable import StorageError
from tlx.study.clusters import drive as module
from tlx.study.clusters.base import Cluster, Ending, TaskOrder
from tlx.study.clusters.drive import TRIES, Work, drive


class Numbers(Work):
    """Parts that are done after some successful tasks; a task that is lost may have made progress."""

    directory = "out"

    def __init__(self, parts):
        self.parts, self.steps, self.lines = dict(parts), 0, []

    def remaining(self):
        return sum(count > 0 for count in self.parts.values())

    def orders(self, running):
        for key, count in self.parts.items():
            if count and key not in running:
                yield key, TaskOrder(("python", "-Pm", "tlx.cli", key), ".", "out", "", "")

    def progress(self, key):
        return [self.steps]

    def effective(self, key):
        return self.parts[key] == 0

    def look(self, running):
        pass

    def say(self, text):
        self.lines.append(text)


class Losing(Cluster):
    """A cluster whose tasks end in the listed ways; the work makes progress in each of them or in none."""

    def __init__(self, work, endings, progress=False, limit=None):
        super().__init__(None, limit)
        self.work, self.endings, self.progress = work, list(endings), progress
        self.most, self.submitted, self.cancelled = 0, [], []

    def submit(self, orders, directory):
        names = [order.command[-1] for order in orders]
        self.submitted += names
        self.most = max(self.most, len(names))
        return [f"{len(self.submitted)} {name}" for name in names]

    def ended(self, tasks):
        endings = {}
        for task in tasks:
            ending = self.endings.pop(0) if self.endings else Ending(0)
            if ending.code == 0:
                self.work.parts[task.partition(" ")[2]] = 0
            self.work.steps += self.progress
            endings[task] = ending
        return endings

    def cancel(self, task):
        self.cancelled.append(task)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "PAUSE", 0.0)


def test_every_part_runs_once_and_never_more_at_once_than_the_limit():
    work = Numbers({"a": 1, "b": 1, "c": 1})
    cluster = Losing(work, [], limit=2)
    drive(cluster, work)
    assert sorted(cluster.submitted) == ["a", "b", "c"] and cluster.most == 2 and not cluster.cancelled


def test_a_lost_task_runs_again_until_it_is_lost_too_often_without_progress():
    work = Numbers({"a": 1})
    cluster = Losing(work, [Ending(None, "its machine died")] * (TRIES - 1))
    drive(cluster, work)
    assert cluster.submitted == ["a"] * TRIES and len(work.lines) == TRIES - 1
    work = Numbers({"a": 1, "b": 1})
    with pytest.raises(ChildProcessError, match=r"^1 cells are not done, .* \(its machine died\)"):
        drive(
            Losing(work, [Ending(None, "its machine died"), Ending(0), *[Ending(None, "its machine died")] * 9]), work
        )
    assert work.parts == {"a": 1, "b": 0}


def test_a_task_that_makes_progress_may_be_lost_any_number_of_times():
    work = Numbers({"a": 1})
    cluster = Losing(work, [Ending(130)] * 4 * TRIES, progress=True)
    drive(cluster, work)
    assert cluster.submitted == ["a"] * (4 * TRIES + 1)


@pytest.mark.parametrize(
    ("ending", "error", "message"),
    [(Ending(2, "host sees no study in out"), ValueError, "host sees no study in out"),
     (Ending(74), StorageError, "the workers could not write out")],
)  # fmt: skip
def test_what_every_worker_would_refuse_ends_the_study_and_cancels_the_other_tasks(ending, error, message):
    work = Numbers({"a": 1})
    with pytest.raises(error, match=message):
        drive(Losing(work, [ending]), work)
    assert work.parts == {"a": 1}
