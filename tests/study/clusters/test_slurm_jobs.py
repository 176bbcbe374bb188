"""Studies as jobs of Slurm, which submitit runs as processes of this machine."""

import json
from collections import Counter

import pytest

from tlx.cli.studies import load_study
from tlx.study import results, run_study
from tlx.study.clusters.slurm_jobs import SlurmCluster
from tlx.study.work import EXECUTIONS

FILE = '''"""Two shapes.   tlx study small.py"""
from tlx import Data, Recipe, Study, Train, models, param, prod, tasks

def study():
    base = Recipe(
        data=Data(target="digits", shots=4),
        task=tasks.Classification(classes=10),
        model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
        train=Train(steps=3, batch=8, eval_batch=64),
    )
    return Study(base=base, cells=prod(param("train.steps", 3, 4), param("seed", 0, 1)), question="Does it?")
'''


@pytest.mark.slow
def test_the_table_is_that_of_the_local_runner(start, ended, tmp_path, no_page):
    path, out = tmp_path / "small.py", tmp_path / "slurm"
    path.write_text(FILE)
    errors = ended(start("study", path, "--out", str(out), "--together", "2", "--on", "slurm=local"))
    assert "4/4  train.steps=" in errors and "running, " in errors
    lines = [json.loads(line) for line in (out / EXECUTIONS).read_text().splitlines()]
    assert len(lines) == 4 and set(Counter(line["cell"] for line in lines).values()) == {1}
    # Every group is a job, in another process.
    assert len({line["process"] for line in lines}) == 2
    run_study(load_study(str(path), []), tmp_path / "local", most=2, quiet=True)
    tables = [results(folder).drop(columns="seconds") for folder in (out, tmp_path / "local")]
    assert tables[0].equals(tables[1])


def test_resources_are_settings_of_submitit_and_further_names_are_options_of_sbatch():
    needs = {"cpu": "4", "gpu": "2", "memory": "16", "time": "90", "partition": "long", "account": "lab"}
    assert SlurmCluster(True, needs).settings() == {
        "name": "tlx", "nodes": 1, "tasks_per_node": 1, "cpus_per_task": 4, "gpus_per_node": 2, "mem_gb": 16.0,
        "timeout_min": 90, "slurm_partition": "long", "slurm_additional_parameters": {"account": "lab"},
    }  # fmt: skip
