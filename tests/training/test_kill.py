"""Kill -9 at random times, resume, and end with the same bits."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

KILLS = 5
CONFIG = '''"""A small but real run.   tlx run config.py"""
from tlx import Data, Optim, Recipe, Train, models, tasks
from tlx.data import Crop


def recipe():
    return Recipe(
        data=Data(target="digits", augment=(Crop(padding=1),)),
        task=tasks.Classification(classes=10),
        model=models.Mlp(inputs=(8, 8, 1), widths=(16,), dropout=0.2),
        optim=Optim(lr=1e-2, weight_decay=1e-2, warmup=0.1, clip=1.0),
        train=Train(steps=4000, batch=16, eval_every=50, eval_batch=128, select="best-validation"),
    )
'''


def start(folder: Path, out: str, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tlx.cli", "run", str(folder / "config.py"), "--out", str(folder / out), "--quiet"]
    return subprocess.Popen([*command, *more], stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


@pytest.mark.slow
def test_kills_change_nothing_in_the_final_parameters(tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)
    finish(start(tmp_path, "whole"))
    dice, kills, record = random.Random(0), 0, tmp_path / "killed" / "metrics.jsonl"
    while kills < KILLS:
        began = time.time()
        process = start(tmp_path, "killed", "--resume")
        while process.poll() is None and not (record.exists() and record.stat().st_mtime >= began):
            time.sleep(0.01)
        # The kill may come during compilation, a step, an evaluation, or the writing of a checkpoint.
        time.sleep(dice.uniform(0.0, 2.0))
        if process.poll() is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        kills += 1
    assert kills == KILLS, "the run was over before it was killed as often; make it longer"
    finish(start(tmp_path, "killed", "--resume"))
    full, killed = (tmp_path / out / "model" / "model.safetensors" for out in ("whole", "killed"))
    assert full.read_bytes() == killed.read_bytes()
