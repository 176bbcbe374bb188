"""Measure how fast the sources of data start and are read, beside `datasets` and a DataLoader of torch.

    pip install datasets torch
    python benchmarks/data.py [--rows 1000000] [--pictures 2000] [--rounds 2] [--only csv pictures]

The rows are short texts (5 to 20 words) with one of five labels; the pictures are PNGs of 96 pixels in class folders.
Each measurement is a new process, and the sides take turns:

  first      seconds from the start of the process to the first training batch, with an empty cache
  second     the same again, with the cache of the first
  rows/s     rows of tokenised training batches of 32 a second, in a random order, after the start
  MiB        the largest resident memory of the process, mapped files included

`datasets` reads the same files with `load_dataset`, tokenises with `map(batched=True)` and its own cache, and is read
by a DataLoader with two workers. "torch" is a list in memory, tokenised in the collate function of such a DataLoader.
"""

import argparse
import csv
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tlx.assets import extract

KINDS = ("csv", "jsonl", "parquet", "frame", "pictures")
BATCHES = 300

SHARED = """
import json, sys, time
start = time.time()
kind, path, model, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
def report(first, rows, seconds):
    # ru_maxrss would begin at the memory of the parent, which made the data.
    status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
    memory = int(status["VmHWM"].split()[0]) / 1024
    print(json.dumps({"start": first - start, "rows": rows / seconds, "memory": memory}))
def measure(batches):
    iterator = iter(batches)
    next(iterator)
    first = time.time()
    rows = 0
    for _ in range(count):
        rows += len(next(iterator)["label"])
    report(first, rows, time.time() - first)
"""
TLX = (
    SHARED
    + """
from tlx.data import Data, Frame, load
from tlx.data.pipeline import train_batches
from tlx.processors import ImageProcessor, TextProcessor
if kind == "frame":
    import pandas
    path = Frame(pandas.read_csv(path.replace(".frame", ".csv")), text="body", label="stars")
examples = load(Data(target=path), 0).train
if kind == "pictures":
    processor = ImageProcessor(size=(96, 96))
else:
    processor = TextProcessor.load(model, tokens=32)
measure(train_batches(examples, processor, batch=32, seed=0, buckets=(16, 32), draws=len(examples)))
"""
)
DATASETS = (
    SHARED
    + """
import datasets, torch
datasets.disable_progress_bars()
from transformers import AutoTokenizer
if kind == "pictures":
    import numpy
    rows = datasets.load_dataset("imagefolder", data_dir=path, split="train")
    def collate(part):
        pixels = torch.stack([torch.from_numpy(numpy.asarray(row["image"].convert("RGB")).copy()) for row in part])
        return {"pixels": pixels.float() / 127.5 - 1, "label": torch.tensor([row["label"] for row in part])}
else:
    tokenizer = AutoTokenizer.from_pretrained(model)
    if kind == "frame":
        import pandas
        rows = datasets.Dataset.from_pandas(pandas.read_csv(path.replace(".frame", ".csv")))
    else:
        name = {"csv": "csv", "jsonl": "json", "parquet": "parquet"}[kind]
        rows = datasets.load_dataset(name, data_files=path, split="train")
    rows = rows.map(lambda part: tokenizer(part["body"], truncation=True, max_length=32), batched=True, num_proc=2)
    def collate(part):
        texts = [{"input_ids": row["input_ids"], "attention_mask": row["attention_mask"]} for row in part]
        return {**tokenizer.pad(texts, return_tensors="pt"), "label": torch.tensor([row["stars"] for row in part])}
loader = torch.utils.data.DataLoader(rows, batch_size=32, shuffle=True, num_workers=2, collate_fn=collate)
measure(loader)
"""
)
TORCH = (
    SHARED
    + """
import torch
if kind == "pictures":
    import numpy, pathlib
    from PIL import Image
    files = sorted(pathlib.Path(path).rglob("*.png"))
    names = sorted({file.parent.name for file in files})
    rows = [(file, names.index(file.parent.name)) for file in files]
    def collate(part):
        pixels = [torch.from_numpy(numpy.asarray(Image.open(file).convert("RGB")).copy()) for file, _ in part]
        return {"pixels": torch.stack(pixels).float() / 127.5 - 1, "label": torch.tensor([n for _, n in part])}
else:
    import pandas
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(model)
    if kind == "jsonl":
        frame = pandas.read_json(path, lines=True)
    elif kind == "parquet":
        frame = pandas.read_parquet(path)
    else:
        frame = pandas.read_csv(path.replace(".frame", ".csv"))
    rows = list(zip(frame["body"], frame["stars"]))
    def collate(part):
        texts = tokenizer([text for text, _ in part], truncation=True, max_length=32, padding=True, return_tensors="pt")
        return {**texts, "label": torch.tensor([stars for _, stars in part])}
loader = torch.utils.data.DataLoader(rows, batch_size=32, shuffle=True, num_workers=2, collate_fn=collate)
measure(loader)
"""
)
SIDES = {"tlx": TLX, "datasets": DATASETS, "torch": TORCH}


def write_rows(folder: Path, count: int) -> None:
    """Write the same random rows as CSV, JSON Lines and Parquet."""
    import pandas

    draw, words = random.Random(0), [f"word{n}" for n in range(5000)]
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "body", "stars"])
        for n in range(count):
            writer.writerow([n, " ".join(draw.choices(words, k=draw.randint(5, 20))), n % 5])
    frame = pandas.read_csv(folder / "rows.csv")
    frame.to_json(folder / "rows.jsonl", orient="records", lines=True)
    frame.to_parquet(folder / "rows.parquet", index=False)


def write_pictures(folder: Path, count: int) -> None:
    """Write random pictures in four class folders."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    for n in range(count):
        place = folder / "pictures" / f"class{n % 4}"
        place.mkdir(parents=True, exist_ok=True)
        # Smooth pictures, which PNG packs about as well as drawings.
        small = Image.fromarray(draw.integers(0, 256, (8, 8, 3), np.uint8))
        small.resize((96, 96)).save(place / f"{n:06}.png")


def measure(side: str, kind: str, folder: Path, model: Path, cache: Path) -> dict[str, float]:
    """Run one side in a new process and return its figures."""
    path = folder / "pictures" if kind == "pictures" else folder / f"rows.{kind}"
    rows = 40 if kind == "pictures" else BATCHES
    environment = os.environ | {
        "TLX_CACHE": str(cache / "tlx"), "HF_DATASETS_CACHE": str(cache / "datasets"), "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "true", "JAX_PLATFORMS": "cpu",
    }  # fmt: skip
    command = [sys.executable, "-c", SIDES[side], kind, str(path), str(model), str(rows)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if process.returncode:
        raise SystemExit(f"{side} {kind} failed:\n{process.stderr[-2000:]}")
    return json.loads(process.stdout.splitlines()[-1])


def main() -> None:
    """Measure every kind of source and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder, model = Path(scratch), Path(extract("minilm-l6"))
        write_rows(folder, options.rows if set(options.only) - {"pictures"} else 10)
        if "pictures" in options.only:
            write_pictures(folder, options.pictures)
        print(f"{'source':10} {'side':10} {'first s':>8} {'second s':>9} {'rows/s':>9} {'MiB':>7}")
        for kind in options.only:
            figures: dict[str, list[tuple[float, float, float, float]]] = {side: [] for side in options.sides}
            for number in range(options.rounds):
                for side in options.sides:
                    cache = folder / f"cache-{side}-{number}"
                    first, second = (measure(side, kind, folder, model, cache) for _ in range(2))
                    shutil.rmtree(cache, ignore_errors=True)
                    memory = max(first["memory"], second["memory"])
                    figures[side].append((first["start"], second["start"], second["rows"], memory))
                    time.sleep(1)
            for side, rounds in figures.items():
                medians = [statistics.median(column) for column in zip(*rounds, strict=True)]
                print(f"{kind:10} {side:10} {medians[0]:8.1f} {medians[1]:9.1f} {medians[2]:9,.0f} {medians[3]:7,.0f}")


if __name__ == "__main__":
    main()
