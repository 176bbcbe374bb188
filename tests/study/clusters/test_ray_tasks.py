"""Studies and searches on a Ray cluster of two machines, which are processes of this one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tlx.cli.studies import load_study
from tlx.records import studies
from tlx.study import results, run_study
from tlx.study.work import EXECUTIONS
from tlx.training.checkpoint import Checkpoints

FILE = '''"""Small cells.   tlx study small.py"""
from tlx import Data, Recipe, Study, Train, models, param, tasks

def study():
    base = Recipe(
        data=Data(target="digits", shots=4),
        task=tasks.Classification(classes=10),
        model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
        train=Train(steps={steps}, batch=8, eval_batch=64, eval_every=100),
    )
    return Study(base=base, cells=param("seed", range({cells})), question="Does it?")
'''
SPACE = """from small import study
from tlx.tune import log_uniform

def space():
    return {"optim.lr": log_uniform(1e-4, 0.1)}

def recipe():
    return study().base
"""


# JAX forbids to fork the process of the tests, and Ray starts its machines so; another process starts them.
MACHINES = """
import sys
from ray.cluster_utils import Cluster

machine = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args={**machine, "include_dashboard": False})
second = cluster.add_node(**machine)
print(cluster.address, flush=True)
for line in sys.stdin:
    if line == "kill\\n":
        cluster.remove_node(second, allow_graceful=False)
    else:
        second = cluster.add_node(**machine)
    print("done", flush=True)
cluster.shutdown()
"""


class Machines:
    """A Ray cluster at an `address`: two machines with one processor each."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-c", MACHINES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        )  # fmt: skip
        self.address = self.process.stdout.readline().strip()

    def order(self, word):
        """Kill the second machine, or add another one."""
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"


@pytest.fixture(scope="module")
def cluster():
    machines = Machines()
    assert ":" in machines.address
    yield machines
    machines.process.communicate(timeout=120)


def write_file(folder, cells, steps):
    path = folder / "small.py"
    path.write_text(FILE.format(cells=cells, steps=steps))
    return path


def until(call, happened, seconds=300.0):
    """Wait for a condition in another process; return its value."""
    begun = time.monotonic()
    while not (value := happened()):
        assert call.poll() is None, call.communicate()
        assert time.monotonic() - begun < seconds
        time.sleep(0.02)
    return value


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def workers_of(out, call):
    """Return the processes that have begun to train a cell, by its fingerprint."""
    holders = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            files = [os.readlink(file) for file in (process / "fd").iterdir()]
        except OSError:
            continue
        for file in map(Path, files):
            cell = out / "cells" / file.stem
            if file.parent == out / "claims" and int(process.name) != call.pid and lines_of(cell / "metrics.jsonl"):
                holders[file.stem] = int(process.name)
    return holders


def table(out):
    return results(out).drop(columns="seconds")


@pytest.mark.slow
def test_a_killed_worker_and_a_killed_machine_lose_no_cell_and_repeat_none(cluster, start, ended, tmp_path, no_page):
    path, out = write_file(tmp_path, cells=5, steps=3000), tmp_path / "ray"
    call = start("study", path, "--out", str(out), "--together", "1", "--on", f"ray={cluster.address}")
    fingerprint, worker = until(call, lambda: next(iter(workers_of(out, call).items()), None))
    os.kill(worker, signal.SIGKILL)
    assert not (out / "cells" / fingerprint / "result.json").is_file()
    until(call, lambda: len(lines_of(out / EXECUTIONS)) >= 1 and len(workers_of(out, call)) == 2)
    cluster.order("kill")
    errors = ended(call)
    assert errors.count("note: a task was lost (its ") >= 2
    assert " running, " in errors and " waiting; about " in errors
    counts = Counter(line["cell"] for line in lines_of(out / EXECUTIONS))
    assert set(counts.values()) == {1} and len(counts) == 5
    assert studies.read(out).counts == {"done": 5, "running": 0, "failed": 0, "waiting": 0}
    run_study(load_study(str(path), []), tmp_path / "local", most=1, quiet=True)
    assert table(out).equals(table(tmp_path / "local"))
    cluster.order("add")


@pytest.mark.slow
def test_an_interrupted_study_saves_its_step_and_prints_how_to_resume(cluster, start, ended, tmp_path):
    path, out = write_file(tmp_path, cells=3, steps=5_000_000), tmp_path / "ray"
    words = ("--out", str(out), "--together", "1", "--jobs", "2", "--on", f"ray={cluster.address}")
    call = start("study", path, *words)
    until(call, lambda: len(workers_of(out, call)) == 2)
    call.send_signal(signal.SIGINT)
    errors = ended(call, 130)
    joined = " ".join((*words[:4], *words[4:]))
    assert errors.endswith(f"stopped; continue with: tlx study {path} {joined}\n")
    assert studies.read(out).counts == {"done": 0, "running": 0, "failed": 0, "waiting": 3}
    begun = list(out.glob("cells/*/checkpoints"))
    assert len(begun) == 2 and all(Checkpoints(folder).latest() >= 100 for folder in begun)


@pytest.mark.slow
def test_a_search_on_ray_finds_what_a_local_one_finds(cluster, start, ended, tmp_path):
    write_file(tmp_path, cells=1, steps=200)
    space = tmp_path / "space.py"
    space.write_text(SPACE)
    words = ("--space", str(space), "--trials", "3", "--sampler", "random", "--together", "1")
    errors = ended(start("tune", space, *words, "--out", "ray", "--on", f"ray={cluster.address}"))
    assert "3/3  optim.lr=" in errors and " running, " in errors
    ended(start("tune", space, *words, "--out", "local"))
    ray, local = (json.loads((tmp_path / name / "tune.json").read_text()) for name in ("ray", "local"))
    values = [[(trial["state"], trial["point"], trial["value"]) for trial in found["trials"]] for found in (ray, local)]
    assert values[0] == values[1] and len(values[0]) == 3
    assert ray["best"] == local["best"]


@pytest.mark.slow
def test_resources_that_no_machine_has_are_one_line(cluster, start, ended, tmp_path):
    path = write_file(tmp_path, cells=1, steps=3)
    on = ("--on", f"ray={cluster.address}")
    errors = ended(start("study", path, "--out", str(tmp_path / "ray"), *on, "--resources", "cpu=1,gpu=2"), 2)
    line = errors.splitlines()[-1]
    assert line.startswith("tlx: no machine of the Ray cluster can run a cell, which needs 1 CPU and 2 GPU")
    assert "the machines have 1 CPU and 0 GPU" in line and "--resources" in line
    assert not list(tmp_path.glob("ray/cells/*"))
