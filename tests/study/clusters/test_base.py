"""The option that names a cluster: one clear line for every mistake, in every command that has it."""

import re
import socket

import pytest
from click.testing import CliRunner

from tlx.cli import main
from tlx.study.clusters.base import Cluster, cluster_named
from tlx.study.clusters.ray_tasks import RayCluster

CONFIG = """from tlx import Data, Recipe, Study, Train, models, param, tasks, terms
from tlx.tune import log_uniform

def recipe():
    return Recipe(
        data=Data(target="digits", shots=4), task=tasks.Classification(classes=10),
        model=models.Mlp(inputs=(8, 8, 1), widths=(8,)), train=Train(steps=3, batch=8, eval_batch=64),
    )

def study():
    return Study(base=recipe(), cells=param("seed", 0, 1), question="Does it?")

def space():
    return {"optim.lr": log_uniform(1e-4, 0.1)}
"""


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Return a function that calls a command with a place, and returns its only line."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.py").write_text(CONFIG)

    def begin(command, *words):
        outcome = CliRunner().invoke(main, [*command, *words, "--out", "out"])
        assert outcome.exit_code == 2, outcome.output
        assert outcome.output.startswith("tlx: ") and outcome.output.count("\n") == 1
        assert not (tmp_path / "out").exists()
        return outcome.output

    return begin


STUDY = ("study", "small.py")
TUNE = ("tune", "small.py", "--space", "small.py", "--trials", "2")


@pytest.mark.parametrize("command", [STUDY, TUNE], ids=lambda words: words[0])
@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--on", "rai"], ["'rai'", "local, ray, ray=HOST:PORT, slurm or slurm=local", "close: 'ray'"]),
        (["--on", "slurm=remote"], ["'slurm=remote'", "'slurm=local'"]),
        (["--resources", "gpu=1"], ["'gpu=1'", "--on ray or --on slurm"]),
        (["--on", "ray", "--resources", "gpu"], ["'gpu'", "cpu=N,gpu=N"]),
        (["--on", "ray", "--resources", "cpu=1,cpu=2"], ["'cpu' twice"]),
        (["--on", "ray", "--resources", "cpu=many"], ["cpu=many", "a number"]),
        (["--on", "ray", "--resources", "cpu=0"], ["cpu=0", "a number"]),
        (["--on", "ray", "--resources", "partition=long"], ["partition=long", "'partition'", "memory"]),
        (["--on", "ray", "--resources", "time=5"], ["time=MINUTES", "--on slurm"]),
        (["--on", "slurm=local", "--resources", "tpu=4"], ["tpu=N", "--on ray"]),
        (["--on", "slurm=local", "--resources", "gpu=0.5"], ["gpu=0.5", "whole number of at least 0"]),
        (["--on", "slurm=local", "--resources", "gpu=1.9"], ["gpu=1.9", "whole number of at least 0"]),
        (["--on", "slurm=local", "--resources", "time=0.5"], ["time=0.5", "whole number of at least 1"]),
        (["--on", "slurm=local", "--resources", "cpu=0.9"], ["cpu=0.9", "whole number of at least 1"]),
        (["--on", "slurm=local", "--resources", "memory=0.0001"], ["memory=0.0001", "less than 1 MB"]),
        (["--on", "slurm=local", "--resources", "Memory=4"], ["Memory=4", "write memory=4"]),
        (["--on", "ray", "--resources", "banana=-1"], ["banana=-1", "at least 0"]),
        (["--on", "ray", "--resources", "banana=nan"], ["banana=nan", "at least 0"]),
        (["--on", "ray", "--resources", "banana=inf"], ["banana=inf", "at least 0"]),
        (["--on", "ray", "--resources", "banana=2.5"], ["banana=2.5", "a whole number above 1"]),
        (["--on", "ray", "--resources", "gpu=1.5"], ["gpu=1.5", "a whole number above 1"]),
        (["--on", "ray", "--resources", "cpu=0.00001"], ["cpu=1e-05", "at least 0.0001"]),
        (["--on", "ray", "--resources", "memory=1e-12"], ["memory=1e-12", "1 byte"]),
        (["--on", "ray", "--resources", "cpu=1,CPU=4"], ["CPU=4", "write cpu=4"]),
        (["--on", "ray", "--resources", "Gpu=1"], ["Gpu=1", "write gpu=1"]),
        (["--on", "ray", "--resources", "MEMORY=1"], ["MEMORY=1", "write memory=1"]),
        (["--on", "ray=nowhere"], ["ray=nowhere", "HOST:PORT"]),
        (["--on", "ray=ray://10.0.0.2:10001"], ["ray://10.0.0.2:10001", "HOST:PORT"]),
        (["--on", "slurm"], ["no sbatch", "slurm=local"]),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_line_and_creates_nothing(command, words, parts, call):
    line = call(command, *words)
    for part in parts:
        assert part in line


@pytest.mark.parametrize("command", ["benefit", "negative-transfer"])
def test_the_other_commands_have_the_same_option(command):
    page = CliRunner().invoke(main, [command, "--help"]).output
    assert re.search(r"--on PLACE .*\[default: local\]", " ".join(page.split()))


def test_an_address_without_an_answer_is_one_line_at_once(call):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    line = call(STUDY, "--on", f"ray=127.0.0.1:{port}")
    assert f"ray=127.0.0.1:{port} does not answer" in line and "ray start --head" in line


def test_a_cluster_whose_package_is_missing_names_its_extra():
    class Absent(RayCluster):
        package, extra = "no_such_package", "absent"

    with pytest.raises(
        ImportError, match=r"^--on absent needs the package no_such_package: pip install 'tlx\[absent\]'"
    ):
        Absent()


def test_this_machine_is_no_cluster_and_clusters_keep_their_limit():
    assert cluster_named("local") is None
    half = cluster_named("ray", "cpu=0.5,gpu=0.25,memory=1.5,banana=0")
    assert half.request == {"CPU": 0.5, "GPU": 0.25, "memory": 1.5e9, "banana": 0}
    ray = cluster_named("ray=10.0.0.2:6379", "cpu=2,tpu=4,memory=3,TPU-v5e-4-head=1", 7)
    assert isinstance(ray, Cluster) and ray.limit == 7 and ray.address == "10.0.0.2:6379"
    assert ray.request == {"CPU": 2, "GPU": 0, "memory": 3e9, "TPU": 4, "TPU-v5e-4-head": 1}
