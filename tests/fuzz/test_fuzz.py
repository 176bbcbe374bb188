"""Mutate every file that a user can pass to tlx: no traceback, no hang, no other numbers; each refusal is one line.

The oracle. A mutation passes in two cases. (a) The command ends with exit code 2 and a single line that begins with
"tlx: " and names the mutated file, its directory or its subject. (b) The command gives the answer of the intact
directory, bit for bit: probabilities, pages, metrics, weights. A mutation fails if an error escapes as a traceback or
an "internal error", if the answer differs, if the command hangs, or if a refusal has several lines or names no file.

Undecidable mutations are not made. Foreign formats (config.json, tokenizer.json, safetensors, adapters of peft) have no
checksum: a flipped bit of a weight, another layer_norm_eps or a deleted normalizer gives another valid document, and
transformers would load it in the same way. For these formats the mutators replace values by another JSON type or by
impossible sizes, delete or rename necessary fields, nest, repeat, truncate and re-encode. In the files of tlx (a
finished run, a checkpoint, cached features, a study) every bit may change, because their digests are known. `old-run`
is a run without digests, where only the forms are checked.

`TLX_FUZZ=10000` sets the number of mutations, `TLX_FUZZ_SEED` the first seed, and `TLX_FUZZ_REPORT=FILE` writes every
outcome as a JSON line. tests/fuzz/fuzz_worker.py repeats a single seed.
"""

import collections
import json
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
COUNT = int(os.environ.get("TLX_FUZZ", "1000"))
FIRST = int(os.environ.get("TLX_FUZZ_SEED", "0"))
WORKERS = 2
# A mutation that computes or waits longer than this counts as a hang.
CPU_SECONDS, WALL_SECONDS = 10.0, 60.0
PASSED = ("refused", "same")


class Served:
    """A worker process, restarted if it had to be killed."""

    def __init__(self, fixtures, scratch):
        self.command = [sys.executable, str(HERE / "fuzz_worker.py"), str(fixtures), str(scratch)]
        self.start()

    def start(self):
        environment = os.environ | {"PYTHONPATH": f"{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=environment,
        )  # fmt: skip
        self.answers = queue.Queue()
        threading.Thread(target=self.listen, args=(self.process, self.answers), daemon=True).start()
        assert self.answers.get(timeout=300) == {"ready": True}

    @staticmethod
    def listen(process, answers):
        for line in process.stdout:
            answers.put(json.loads(line))
        answers.put(None)

    def spent(self):
        """Return the CPU seconds that the process has used."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def outcome(self, seed, first):
        """The `first` mutations of a worker have more time, because they also compute the answers of the intact
        directories.
        """
        self.process.stdin.write(f"{seed}\n")
        self.process.stdin.flush()
        begun, cpu, factor = time.monotonic(), self.spent(), 6 if first else 1
        while True:
            try:
                actual = self.answers.get(timeout=0.5)
            except queue.Empty:
                stuck = self.spent() - cpu > factor * CPU_SECONDS * 1.0
                if not stuck and time.monotonic() - begun < factor * WALL_SECONDS:
                    continue
                self.stop()
                self.start()
                return {"seed": seed, "kind": "hang"}
            if actual is None:
                code = self.process.wait()
                self.start()
                return {"seed": seed, "kind": "crash", "output": f"exit code {code}"}
            return actual

    def stop(self):
        self.process.kill()
        self.process.wait()


def fuzz(folder, seeds):
    """The outcome of every seed."""
    built = [sys.executable, str(HERE / "fuzz_worker.py"), str(folder / "fixtures"), str(folder / "none"), "make"]
    subprocess.run(built, check=True, capture_output=True, timeout=600)
    left, outcomes = collections.deque(seeds), []

    def work(number):
        worker, count = Served(folder / "fixtures", folder / f"scratch-{number}"), 0
        try:
            while True:
                try:
                    seed = left.popleft()
                except IndexError:
                    return
                actual = worker.outcome(seed, count < 40)
                count = 0 if actual["kind"] in ("hang", "crash") else count + 1
                outcomes.append(actual)
                if sum(actual["kind"] in ("hang", "crash") for actual in outcomes) > 20:
                    # The harness is broken, and each further seed would start another process.
                    left.clear()
        finally:
            worker.stop()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(outcomes, key=lambda actual: actual["seed"])


@pytest.mark.slow
def test_no_mutated_file_gives_a_traceback_other_numbers_or_a_hang(tmp_path):
    start = time.monotonic()
    outcomes = fuzz(tmp_path, range(FIRST, FIRST + COUNT))
    if report := os.environ.get("TLX_FUZZ_REPORT"):
        Path(report).write_text("".join(json.dumps(actual) + "\n" for actual in outcomes), encoding="utf-8")
    counts = collections.Counter(actual["kind"] for actual in outcomes)
    print(f"{COUNT} mutations in {time.monotonic() - start:.0f} s: {dict(counts)}")
    faults = [actual for actual in outcomes if actual["kind"] not in PASSED]
    assert not faults, f"{dict(counts)}; the first: {json.dumps(faults[:3], indent=2)}"
    assert len(outcomes) == COUNT
    # This must fail for a harness that refuses everything or changes nothing.
    assert min(counts[kind] for kind in PASSED) > COUNT / 20
