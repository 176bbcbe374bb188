"""Every file that a user can hand over, mutated: no traceback, no hang, no other numbers; each refusal is one line.

The oracle. A mutation passes where the command (a) ends with exit code 2 and a single line that begins with "tlx: " and
names the mutated file, its directory or its subject, or (b) gives the answer of the intact directory, bit for bit:
probabilities, pages, metrics, weights. It fails where something escapes as a traceback or an "internal error", where
the answer is another one, where the command is stuck, and where a refusal is several lines or names no file.

What is not decidable is not mutated. In a foreign format (config.json, tokenizer.json, safetensors, peft's adapter) no
checksum exists: a flipped bit of a weight, another layer_norm_eps, a deleted normalizer is another valid document,
which transformers would load the same way. There the mutators replace values by values of another JSON type, by
impossible sizes, delete or rename fields without which the document means nothing, nest, repeat, truncate and
re-encode. In what tlx wrote itself (a finished run, a checkpoint, cached features, a study) every bit may change, for
digests know it; `old-run` is a run whose digests were lost, where the forms alone must hold.

`TLX_FUZZ=10000` sets the number of mutations, `TLX_FUZZ_SEED` the first seed, `TLX_FUZZ_REPORT=FILE` writes every
outcome as a JSON line. A single seed is repeated by tests/fuzz/fuzz_worker.py.
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
COUNT = int(os.environ.get("TLX_FUZZ", "2000"))
FIRST = int(os.environ.get("TLX_FUZZ_SEED", "0"))
WORKERS = 2
# A mutation that computes for longer, or waits for longer while others use the machine, is stuck.
CPU_SECONDS, WALL_SECONDS = 10.0, 60.0
PASSED = ("refused", "same")


class Served:
    """A worker process, started again where it had to be killed."""

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
        """Seconds of the processor that the process has used."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def outcome(self, seed, first):
        """`first` mutations of a worker also compute what the intact directories give, so they have more time."""
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
    assert len(outcomes) == COUNT
    if report := os.environ.get("TLX_FUZZ_REPORT"):
        Path(report).write_text("".join(json.dumps(actual) + "\n" for actual in outcomes), encoding="utf-8")
    counts = collections.Counter(actual["kind"] for actual in outcomes)
    print(f"{COUNT} mutations in {time.monotonic() - start:.0f} s: {dict(counts)}")
    faults = [actual for actual in outcomes if actual["kind"] not in PASSED]
    assert not faults, f"{dict(counts)}; the first: {json.dumps(faults[:3], indent=2)}"
    # A harness that refuses everything, or changes nothing, would pass too.
    assert min(counts[kind] for kind in PASSED) > COUNT / 20
