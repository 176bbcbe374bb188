"""A process that applies mutations one after another and prints the outcome of each as a JSON line.

By hand: `python tests/fuzz/fuzz_worker.py FIXTURES SCRATCH SEED...` shows the full outcome of single seeds.
"""

import contextlib
import fnmatch
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import fuzz_mutators as m
from fuzz_subjects import SUBJECTS

# A data set is named by its name, a feature cache by its folder.
CALLED = {"data": ("figures",), "cache": ("prefixes", "labels")}


class Worker:
    """Run commands in this process, on a copy of the directory of a subject that always has the same path."""

    def __init__(self, fixtures: Path, scratch: Path):
        self.fixtures, self.scratch, self.intact, self.count = fixtures, scratch, {}, 0
        scratch.mkdir(parents=True, exist_ok=True)
        shutil.copy(fixtures / "picture.png", scratch / "picture.png")

    def copy(self, name):
        root = self.scratch / name
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(self.fixtures / name, root)
        return root

    def outcome(self, seed):
        """Return the outcome of the mutation of a seed: `subject`, `file`, `words`, `kind`, `output`, `seconds`."""
        rng = m.generator(seed)
        subject = rng.choices(SUBJECTS, [subject.weight for subject in SUBJECTS])[0]
        root = self.copy(subject.name)
        command = rng.choice(subject.arguments)
        key = subject.name, command
        if key not in self.intact:
            kind, answer, output = self.run(subject, root, command)
            assert kind == "answered", (subject.name, kind, output)
            self.intact[key] = answer
            root = self.copy(subject.name)
        path, mutate, how = self.file(rng, subject, root)
        content = path.read_bytes()
        if rng.random() < 0.04:
            path.unlink()
            path.mkdir()
            words = "a directory in its place"
        else:
            built, words = mutate(rng, content, how)
            path.write_bytes(built)
        start = time.perf_counter()
        kind, answer, output = self.run(subject, root, command)
        if kind == "answered":
            kind = "same" if answer == self.intact[key] else "other numbers"
        names = (path.name, str(path.parent), subject.name, *CALLED.get(subject.name, ()))
        # A recipe with consistent fields that do not fit the data is refused by its fields.
        named = subject.name == "python" or any(name in output for name in names)
        if kind == "refused" and not named:
            kind = "names no file"
        self.count += 1
        if self.count % 60 == 0:
            import jax

            jax.clear_caches()
        return {
            "seed": seed, "subject": subject.name, "file": str(path.relative_to(root)), "words": words, "kind": kind,
            "command": command[0], "output": output[-1500:], "seconds": round(time.perf_counter() - start, 2),
        }  # fmt: skip

    def file(self, rng, subject, root):
        """Return a file of the subject and its mutation; each pattern has the same chance."""
        every = sorted(path for path in root.rglob("*") if path.is_file() and path.stat().st_size)
        by_pattern = {}
        for path in every:
            place = str(path.relative_to(root))
            for n, (pattern, *_) in enumerate(subject.files):
                matches = fnmatch.fnmatch(place, pattern) and not place.endswith((".html", ".lock", ".py"))
                if matches or place == pattern:
                    by_pattern.setdefault(n, []).append(path)
                    break
        n = rng.choice(sorted(by_pattern))
        return rng.choice(by_pattern[n]), *subject.files[n][1:]

    def run(self, subject, root, command):
        """Return `(kind, answer, output)` of the command: answered, refused, traceback, several lines."""
        from click.testing import CliRunner

        from tlx.cli import main

        os.environ["TFDS_DATA_DIR"] = str(root if subject.name == "data" else self.fixtures / "cache" / "tfds")
        os.environ["TLX_CACHE"] = str(root / "cache" if (root / "cache").is_dir() else self.fixtures / "cache")
        forget()
        arguments = [part.format(root=root) for part in command]
        with captured() as lower:
            result = CliRunner().invoke(main, arguments)
        output = result.output + lower()
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            return "traceback", None, f"{output}\n{type(result.exception).__name__}: {result.exception}"
        if "internal error" in output or "Traceback" in output:
            return "traceback", None, output
        if result.exit_code == 0:
            try:
                return "answered", json.loads(json.dumps(subject.answer(root, result.stdout))), output
            except Exception as error:
                return "traceback", None, f"{output}\nno answer: {type(error).__name__}: {error}"
        lines = [line for line in output.splitlines() if line.strip() and not line.startswith("tlx: warning: ")]
        if len(lines) != 1 or not lines[0].startswith("tlx: ") or result.exit_code != 2:
            return "several lines", None, f"exit code {result.exit_code}\n{output}"
        return "refused", None, output


def forget():
    """Clear the caches of this process for earlier files, which a new process would not have."""
    from tlx.data.sources import tabular, tfds
    from tlx.files.documents import digests
    from tlx.predict import runs

    tfds._opened.cache_clear()
    tabular.opened.cache_clear()
    digests._read.cache_clear()
    runs.LAST.clear()


@contextlib.contextmanager
def captured():
    """Capture the output of libraries that write to the file descriptor of stderr."""
    sys.stderr.flush()
    remaining, text = os.dup(2), []
    with tempfile.TemporaryFile() as stream:
        os.dup2(stream.fileno(), 2)
        try:
            yield lambda: text[0] if text else ""
        finally:
            os.dup2(remaining, 2)
            os.close(remaining)
            stream.seek(0)
            text.append(stream.read().decode("utf-8", "replace"))


def prepare():
    """Apply the settings of a process that runs mutations."""
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")
    os.environ |= {"TLX_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "TLX_WATTS": "10"}
    os.environ.pop("TLX_TRACEBACK", None)
    import jax

    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def serve(fixtures, scratch):
    prepare()
    import jax

    jax.config.update("jax_compilation_cache_dir", str(fixtures / "compiled"))
    worker = Worker(fixtures, scratch)
    answers = os.fdopen(os.dup(1), "w")
    sys.stdout = sys.stderr
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(worker.outcome(int(line))), file=answers, flush=True)


def main():
    fixtures, scratch, *seeds = sys.argv[1:]
    if seeds == ["make"]:
        prepare()
        from fuzz_subjects import make_all

        make_all(Path(fixtures))
        return
    if not seeds:
        serve(Path(fixtures), Path(scratch))
        return
    prepare()
    worker = Worker(Path(fixtures), Path(scratch))
    for seed in seeds:
        print(json.dumps(worker.outcome(int(seed)), indent=2))


if __name__ == "__main__":
    main()
