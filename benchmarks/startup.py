"""Measure the time from process start to the first finished training step, and compare it with torch.

    python benchmarks/startup.py [--rounds 3]

Each round runs four new processes, one after another: `tlx run` with an empty compilation cache ("cold"), `tlx run`
again with the filled cache ("warm"), a torch script ("torch"), and `tlx --help` ("help"). The torch script loads the
same MiniLM with `transformers`, tokenises the same batch and takes one AdamW step. The time ends when the loss of the
first step is known. The script prints seconds and ratios to torch; below 1 is faster than torch.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tlx.assets import extract

CONFIG = """
from tlx import Data, Optim, Recipe, Train, Weights, tasks

def recipe():
    return Recipe(
        data=Data(target="sentiment/movies", shots=16, tokens=64, buckets=(64,)),
        task=tasks.Classification(classes=2), weights=Weights("minilm-l6"),
        optim=Optim(lr=1e-5), train=Train(steps=1, batch=32),
    )
"""
TORCH = """
import sys, time
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], num_labels=2).train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
texts = [line.rstrip("\\n") for line in open(sys.argv[2])]
inputs = tokenizer(texts, padding="max_length", truncation=True, max_length=64, return_tensors="pt")
loss = model(**inputs, labels=torch.arange(len(texts)) % 2).loss
loss.backward()
optimizer.step()
print(loss.item(), file=sys.stderr)
print(time.time())
"""


def tlx_side(folder: Path, compiled: Path) -> float:
    """Run `tlx run` and return the seconds until it writes the loss of the first step."""
    out = folder / "run"
    shutil.rmtree(out, ignore_errors=True)
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
    }
    command = [sys.executable, "-m", "tlx.cli", "run", str(folder / "config.py"), "--out", str(out), "--quiet"]
    start = time.time()
    process = subprocess.Popen(command, env=environment)
    # tlx writes the metrics to the disk at the first evaluation. The script does not wait for anything after that.
    while process.poll() is None:
        path = out / "metrics.jsonl"
        if path.is_file() and path.stat().st_size:
            break
        time.sleep(0.02)
    if process.poll() not in (None, 0):
        raise SystemExit("tlx run failed")
    process.kill()
    process.wait()
    return json.loads((out / "metrics.jsonl").read_text().splitlines()[0])["time"] - start


def torch_side(folder: Path, model: Path) -> float:
    """Run the torch script and return the seconds until the loss of the first step is known."""
    start = time.time()
    command = [sys.executable, str(folder / "torch_step.py"), str(model), str(folder / "texts")]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout) - start


def help_seconds() -> float:
    """Return the seconds of `tlx --help`."""
    start = time.time()
    subprocess.run([sys.executable, "-m", "tlx.cli", "--help"], check=True, capture_output=True)
    return time.time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each process")
    options = parser.parse_args()
    model = extract("minilm-l6")
    from tlx.data import open_dataset

    examples = open_dataset("sentiment/movies").splits["train"]
    seconds: dict[str, list[float]] = {name: [] for name in ("cold", "warm", "torch", "help")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.py").write_text(CONFIG)
        (folder / "torch_step.py").write_text(TORCH)
        (folder / "texts").write_text("\n".join(examples[n]["text"].replace("\n", " ") for n in range(32)))
        for _ in range(options.rounds):
            compiled = folder / "compiled"
            shutil.rmtree(compiled, ignore_errors=True)
            seconds["cold"].append(tlx_side(folder, compiled))
            seconds["warm"].append(tlx_side(folder, compiled))
            seconds["torch"].append(torch_side(folder, model))
            seconds["help"].append(help_seconds())
    for kind, times in seconds.items():
        ratios = [time / torch for time, torch in zip(times, seconds["torch"], strict=True)]
        print(f"{kind:6} median {statistics.median(times):6.2f} s, ratio to torch {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
