"""Compare tlx with other libraries on one small task: lines of the user's code, seconds, and accuracy.

    python benchmarks/three_lines.py [--python INTERPRETER ...] [--rounds 3] [--only tlx_python ...]

The task: from `reviews.csv` (300 sentences of film reviews, columns `review` and `sentiment`) to a classifier, its
accuracy on a held-out fifth, and the answers to ten new texts. The programs are in `benchmarks/three_lines/`, each as
the documentation of its library recommends. Install the other libraries in separate environments, and give
their interpreters with `--python`; the first that imports the library runs its program. A library that no interpreter
imports, and a program that fails, is one line with the reason.

Every measurement is a new process, from its start to the last answer. Each round draws other reviews and runs all
programs, in an order that rotates. "first" has an empty compilation cache, "again" the filled one. Outside the clock
the part below `# predict` runs once more, on 500 other texts, for the accuracy in the table. Lines are those that are
neither blank nor comments. The folder `model` is the checkpoint of `minilm-l6`; tlx and the others use the same files.
"""

import argparse
import csv
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tlx.assets import extract
from tlx.data import open_dataset
from tlx.report.intervals import wilson

PROGRAMS = Path(__file__).parent / "three_lines"
# What each program imports.
MODULES = {
    "tlx_python": "tlx",
    "tlx_commands": "tlx",
    "transformers_trainer": "transformers, datasets",
    "fastai_text": "fastai.text.all",
    "autogluon_tabular": "autogluon.tabular",
    "autogluon_multimodal": "autogluon.multimodal",
}
REVIEWS, NEW, MORE = 300, 10, 500
NAMES = ("negative", "positive")
CLOCK, MARK = "three lines: ", "# predict\n"
# Runs a program, prints the time, and runs the part below the mark on more texts.
RUNNER = f"""
import sys, time
text = open(sys.argv[1]).read()
exec(text, globals())
print("\\n{CLOCK}", time.time(), flush=True)
exec(text.split({MARK!r})[1].replace("new.txt", "more.txt"), globals())
"""


def write_data(folder: Path, seed: int) -> list[str]:
    """Write the three files of a round, drawn by `seed`, and return the labels of `more.txt`."""
    examples = open_dataset("sentiment/movies").splits["train"]
    drawn = np.random.default_rng(seed).permutation(len(examples))[: REVIEWS + NEW + MORE]
    rows = [(" ".join(examples[int(n)]["text"].split()), NAMES[int(examples[int(n)]["label"])]) for n in drawn]
    with (folder / "reviews.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("review", "sentiment"), *rows[:REVIEWS]])
    for name, part in (("new.txt", rows[REVIEWS : REVIEWS + NEW]), ("more.txt", rows[REVIEWS + NEW :])):
        (folder / name).write_text("".join(text + "\n" for text, _ in part))
    return [label for _, label in rows[REVIEWS + NEW :]]


def run(program: Path, interpreter: str, folder: Path, compiled: Path) -> tuple[float, list[str]]:
    """Run a program and return its seconds and its answers to `more.txt`. Raises RuntimeError with its last line."""
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
    }
    commands = [[interpreter, "-c", RUNNER, str(program)]]
    if program.suffix == ".sh":
        timed, later = program.read_text().split(MARK)
        lines = [*timed.splitlines(), *later.splitlines(), later.strip().replace("new.txt", "more.txt")]
        commands = [[interpreter, "-m", "tlx.cli", *line.split()[1:]] for line in lines]
    start, end, output = time.time(), 0.0, ""
    for number, command in enumerate(commands):
        process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        output = process.stdout
        if process.returncode:
            raise RuntimeError((process.stderr.strip().splitlines() or [f"exit code {process.returncode}"])[-1])
        if number == len(commands) - 2:
            end = time.time()
    if not end:
        clock, output = output.split(CLOCK)[1].split("\n", 1)
        end = float(clock)
    return end - start, answers_in(output)


def answers_in(output: str) -> list[str]:
    """Return the answers of a printed list of names, of dicts (the first name of each), or of lines of `tlx predict`.

    >>> answers_in("[{'positive': 0.9, 'negative': 0.1}]"), answers_in("['negative', 'positive']")
    (['positive'], ['negative', 'positive'])
    >>> answers_in("negative 0.8  positive 0.2  | not a positive word")
    ['negative']
    """
    name = "|".join(NAMES)
    if lines := re.findall(rf"^({name}) ", output, re.MULTILINE):
        return lines
    return re.findall(rf"'({name})'", re.sub(rf"\{{[^}}]*?('(?:{name})')[^}}]*\}}", r"\1", output))


def interpreter_of(module: str, interpreters: list[str]) -> str:
    """Return the first interpreter that imports a module. Raises RuntimeError with the reasons of all."""
    reasons = []
    for interpreter in interpreters:
        command = [interpreter, "-c", f"import {module}"]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        if not process.returncode:
            return interpreter
        reasons.append(process.stderr.strip().splitlines()[-1])
    raise RuntimeError("; ".join(dict.fromkeys(reasons)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="*", default=[], metavar="INTERPRETER", help="where other libraries are")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each program")
    parser.add_argument("--only", nargs="*", choices=MODULES, default=[*MODULES], help="programs to run")
    options = parser.parse_args()
    # Not resolved: the interpreter of a virtual environment is a link.
    interpreters, missing = [sys.executable, *(str(Path(path).absolute()) for path in options.python)], {}
    cases: list[tuple[str, str, str]] = []
    for name in options.only:
        try:
            interpreter = interpreter_of(MODULES[name], interpreters)
        except RuntimeError as error:
            missing[name] = f"is not installed: {error}"
            continue
        cases += [(name, kind, interpreter) for kind in (("first", "again") if name.startswith("tlx") else ("",))]
    seconds: dict[tuple[str, str], list[float]] = {}
    hits: dict[tuple[str, str], list[int]] = {}
    for seed in range(options.rounds):
        names = list(dict.fromkeys(name for name, *_ in cases))
        turn = seed % max(1, len(names))
        order = [*names[turn:], *names[:turn]]
        with tempfile.TemporaryDirectory() as place:
            for name, kind, interpreter in sorted(cases, key=lambda case: order.index(case[0])):
                folder = Path(place) / f"{name}-{kind}"
                folder.mkdir()
                (folder / "model").symlink_to(extract("minilm-l6"))
                labels = write_data(folder, seed)
                (program,) = PROGRAMS.glob(f"{name}.*")
                try:
                    time_of, answers = run(program, interpreter, folder, Path(place) / f"compiled-{name}")
                    if len(answers) != len(labels):
                        raise RuntimeError(f"{len(answers)} answers to {len(labels)} texts")
                except RuntimeError as error:
                    missing[name] = f"failed: {error}"
                    continue
                seconds.setdefault((name, kind), []).append(time_of)
                hits.setdefault((name, kind), []).append(sum(map(str.__eq__, answers, labels)))
                print(
                    f"round {seed}: {name} {kind} {time_of:.1f} s, {hits[name, kind][-1] / MORE:.3f}", file=sys.stderr
                )
    print("| program | lines | seconds, median [range] | accuracy, mean [range over rounds], 95 % Wilson |")
    print("| --- | ---: | ---: | --- |")
    for (name, kind), times in seconds.items():
        lines = next(PROGRAMS.glob(f"{name}.*")).read_text().splitlines()
        count = sum(bool(line.strip()) and not line.strip().startswith("#") for line in lines)
        right = hits[name, kind]
        interval = wilson(sum(right), MORE * len(right))
        shares = [100 * hit / MORE for hit in right]
        print(
            f"| `{name}` {kind} | {count} | {statistics.median(times):.1f} [{min(times):.1f}, {max(times):.1f}] | "
            f"{statistics.mean(shares):.1f} [{min(shares):.1f}, {max(shares):.1f}], "
            f"{100 * interval.low:.1f} to {100 * interval.high:.1f} |"
        )
    for name, reason in missing.items():
        print(f"{name} {reason}")


if __name__ == "__main__":
    main()
