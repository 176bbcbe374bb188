"""Several processes that train one run: the same bits as one process, and an end together."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tlx import place, processes
from tlx.cli.commands import line_of
from tlx.files.durable import DamagedWarning
from tlx.place import in_cluster
from tlx.training.checkpoint import Checkpoints

CONFIG = """
from tlx import Data, Optim, Recipe, Train, models, tasks
def recipe():
    return Recipe(
        data=Data(target="digits", shots=7),
        task=tasks.Classification(classes=10),
        model=models.Mlp(inputs=(8, 8, 1), widths=(128, 128), dropout=0.3),
        optim=Optim(lr=0.01),
        train=Train({train}),
    )
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(folder, count, *words, command=("run", "config.py", "--out", "run"), devices=2, places=None):
    """Start the processes of one run, which share some devices. `places` are what a cluster tells each of them."""
    address = f"127.0.0.1:{free_port()}"
    flags = f"--xla_force_host_platform_device_count={devices // count}"
    settings = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    workers = []
    for n in range(count):
        place = {name: str(value) for name, value in places[n].items()} if places else {}
        place_words = ["--coordinator", address, "--processes", str(count), "--process", str(n)]
        line = [sys.executable, "-m", "tlx.cli", *command, *words, *(place_words if count > 1 and not places else [])]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        workers.append(subprocess.Popen(line, cwd=folder, env=settings | place, text=True, **streams))
    return workers


def ended(workers, seconds=240):
    """Return the exit codes of the processes and what they printed."""
    outputs = [worker.communicate(timeout=seconds)[0] for worker in workers]
    return [worker.returncode for worker in workers], outputs


def printed(output):
    """Return the lines of a process without those of gloo, which may be torn by others."""
    return [line for line in output.splitlines() if "peer ranks" not in line]


def folder_with(tmp_path, train="steps=9, batch=12, eval_every=3, eval_batch=20", source=None):
    """Write the config of a run from scratch, or from the weights of another run."""
    tmp_path.mkdir(exist_ok=True)
    text = CONFIG.format(train=train)
    if source is not None:
        text = text.replace("Train, models", "Train, Weights, models").replace(
            "model=", f"weights=Weights({str(source)!r}), model="
        )
    (tmp_path / "config.py").write_text(text)
    return tmp_path


def numbers(folder):
    """Return the numbers of a run: its scores, its metrics at every step, and its weights."""
    from safetensors.numpy import load_file

    run = folder / "run"
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = {(line["step"], line["name"]): line["value"] for line in metrics}
    scores = {
        f"{split}/{name}": array
        for split in ("validation", "test")
        for name, array in np.load(run / "predictions" / f"{split}.npz").items()
    }
    return kept, scores | load_file(run / "model" / "model.safetensors")


def assert_same(folder, other):
    (metrics, arrays), (expected_metrics, expected) = numbers(folder), numbers(other)
    assert metrics == expected_metrics
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Return the folder of the run by one process."""
    folder = folder_with(tmp_path_factory.mktemp("alone"))
    codes, outputs = ended(start(folder, 1))
    assert codes == [0], outputs
    return folder


@pytest.mark.slow
def test_two_processes_compute_the_bits_of_one(tmp_path, alone):
    """The last batch of an evaluation is not full. A sum of two numbers has no order."""
    folder = folder_with(tmp_path)
    codes, outputs = ended(start(folder, 2))
    assert codes == [0, 0], outputs
    assert_same(folder, alone)
    # Only the leader prints, apart from the library that connects the processes.
    assert "report.html" in outputs[0]
    assert not printed(outputs[1])


def free_job():
    """Return the number of a job whose port is free: JAX takes 61440 and the number modulo 4096."""
    for job in np.random.default_rng().permutation(4096).tolist():
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", 61440 + job))
            return job
    raise RuntimeError("no port is free")


def slurm(number, job):
    return {
        "SLURM_JOB_ID": job, "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": 2, "SLURM_STEP_NUM_TASKS": 2,
        "SLURM_PROCID": number, "SLURM_LOCALID": number,
    }  # fmt: skip


def open_mpi(number, job):
    return {
        "OMPI_MCA_orte_hnp_uri": f"{job * 4096}.0;tcp://127.0.0.1:34911", "OMPI_COMM_WORLD_SIZE": 2,
        "OMPI_COMM_WORLD_RANK": number, "OMPI_COMM_WORLD_LOCAL_RANK": number,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("cluster", [slurm, open_mpi])
def test_a_cluster_tells_each_process_its_place(tmp_path, alone, cluster):
    folder = folder_with(tmp_path)
    job = free_job()
    workers = start(folder, 2, places=[cluster(n, job) for n in range(2)])
    codes, outputs = ended(workers)
    assert codes == [0, 0], outputs
    assert_same(folder, alone)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["data=4", "data=2,fsdp=2", "fsdp=4"])
def test_four_processes_agree_with_one_on_every_mesh(tmp_path, mesh, alone):
    """The sum of four numbers has another order in one process, so the results are equal to rounding. A checkpoint of
    four processes is read by two, and by one. On one mesh the processes read a pretrained model, each its part."""
    source = alone / "run" if mesh == "fsdp=4" else None
    folders = [folder_with(tmp_path / str(count), WIDE, source) for count in (1, 4)]
    for folder, count in zip(folders, (1, 4), strict=True):
        codes, outputs = ended(start(folder, count, "--mesh", mesh, devices=4))
        assert codes == [0] * count, outputs
    (metrics, arrays), (expected_metrics, expected) = map(numbers, folders)
    assert metrics == pytest.approx(expected_metrics, rel=1e-5, abs=1e-6)
    for name, array in arrays.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("process", "words"), [(0, "tlx: not all processes came within 3 seconds"), (1, "process 0 does not answer at")]
)
def test_a_process_that_is_missing_is_one_line(process, words):
    waits = "from tlx import processes; processes.HINT, processes.MEETING = 1, 3; "
    code = f"{waits}processes.join('127.0.0.1:{free_port()}', 2, {process})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert words in done.stderr.strip().splitlines()[-1]
    assert "tlx: waiting up to 3 seconds for other processes" in done.stderr.splitlines()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (("10.0.0.2:8476", 2, None), "--coordinator is given without --process"),
        ((None, 2, 1), "--processes is given without --coordinator"),
        (("10.0.0.2", 2, 0), "expected HOST:PORT"),
        (("host:port", 2, 0), "expected HOST:PORT"),
        (("host:0", 2, 0), "expected HOST:PORT"),
        (("host:8476", 0, 0), "--processes is 0; expected 1 or more"),
        (("host:8476", 2, 2), "--process is 2; expected 0 to 1"),
        (("host:8476", 2, -1), "--process is -1; expected 0 to 1"),
    ],
)
def test_an_impossible_place_is_refused(place, message):
    with pytest.raises(ValueError, match=message):
        processes.join(*place)


INCOMPLETE = {
    "SLURM_STEP_NUM_TASKS=2": {"SLURM_STEP_NUM_TASKS": "2"},
    "OMPI_COMM_WORLD_SIZE=2": {"OMPI_COMM_WORLD_SIZE": "2"},
    "TPU_WORKER_HOSTNAMES=a,b": {"TPU_WORKER_HOSTNAMES": "a,b"},
    "'OMPI_COMM_WORLD_RANK' is not set; tlx joins a cluster because OMPI_COMM_WORLD_SIZE=3": {
        "OMPI_COMM_WORLD_SIZE": "3", "OMPI_MCA_orte_hnp_uri": "1.0;tcp://127.0.0.1:5",
    },
}  # fmt: skip
JOIN = """
import json, os, sys
from tlx import processes
for environment in json.loads(sys.argv[1]):
    os.environ.update(environment)
    try:
        processes.join()
    except ConnectionError as error:
        print(error)
    for name in environment:
        del os.environ[name]
"""


def test_an_incomplete_cluster_names_the_variable_that_says_so():
    words = [sys.executable, "-c", JOIN, json.dumps(list(INCOMPLETE.values()))]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120)
    for sign, line in zip(INCOMPLETE, done.stdout.splitlines(), strict=True):
        assert sign in line and line.endswith("give --coordinator, --processes and --process, or unset it"), line


def test_a_pod_without_the_package_of_kubernetes_is_warned(monkeypatch, capsys):
    monkeypatch.setattr(place, "find_spec", lambda name: None)
    processes.join()
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "3")
    processes.join()
    [line] = capsys.readouterr().err.splitlines()
    assert "pod 3" in line and "pip install kubernetes" in line and "--coordinator" in line
    # A place that is given needs no package.
    with pytest.raises(ValueError, match="HOST:PORT"):
        processes.join("nowhere", 2, 0)
    assert capsys.readouterr().err == ""


def test_one_process_decides_alone():
    assert processes.leads()
    assert processes.decided(lambda: [1]) == [1]
    assert processes.together(lambda: "done") == "done"
    assert processes.gathered({"a": 1}) == [{"a": 1}]
    with pytest.raises(KeyError):
        processes.together(lambda: {}["missing"])
    processes.check_equal({"the recipe": "a"})
    processes.join()
    assert not in_cluster({}) and in_cluster({"OMPI_COMM_WORLD_SIZE": "2"})
    assert not in_cluster({"TPU_WORKER_HOSTNAMES": "localhost", "OMPI_COMM_WORLD_SIZE": ""})


WIDE = "steps=6, batch=12, eval_every=3, eval_batch=20"
LONG = "steps=1500, batch=12, eval_every=500, eval_batch=20"


def lines_of(folder):
    path = folder / "run" / "metrics.jsonl"
    return path.read_text().count("\n") if path.is_file() else 0


def wait_for_steps(folder, workers, count=60):
    """Wait until the run has recorded some steps."""
    last = time.monotonic() + 120
    while lines_of(folder) < count:
        assert time.monotonic() < last and all(worker.poll() is None for worker in workers)
        time.sleep(0.02)


@pytest.fixture(scope="module")
def long_alone(tmp_path_factory):
    """Return the folder of a longer run by two processes that nothing stopped."""
    folder = folder_with(tmp_path_factory.mktemp("long"), LONG)
    codes, outputs = ended(start(folder, 2))
    assert codes == [0, 0], outputs
    return folder


@pytest.mark.slow
def test_a_signal_to_one_process_ends_all_after_the_same_step(tmp_path, long_alone):
    folder = folder_with(tmp_path, LONG)
    workers = start(folder, 2)
    wait_for_steps(folder, workers)
    workers[1].send_signal(signal.SIGTERM)
    codes, outputs = ended(workers)
    assert codes == [130, 130], outputs
    assert len(list((folder / "run" / "checkpoints").glob("[0-9]*"))) == 1
    # One process continues what two began.
    codes, outputs = ended(start(folder, 1, "--resume"))
    assert codes == [0], outputs
    assert_same(folder, long_alone)


def damage_everywhere(folder, older, newest):
    """Damage the newest checkpoint in every way; each time the older one takes its place. It stays damaged."""
    for file in sorted(path for path in newest.rglob("*") if path.is_file()):
        content = file.read_bytes()
        flipped = bytes([content[len(content) // 2] ^ 1])
        middle = len(content) // 2
        for changed in (content[:-1], content[:middle] + flipped + content[middle + 1 :], b"", None, Path):
            file.unlink()
            if changed is Path:
                file.mkdir()
            elif changed is not None:
                file.write_bytes(changed)
            with pytest.warns(DamagedWarning, match=f"{newest.name} is damaged: .* an older checkpoint"):
                assert Checkpoints(folder).latest() == int(older.name), (file, changed)
            if changed is Path:
                file.rmdir()
            file.write_bytes(content)
    assert Checkpoints(folder).latest() == int(newest.name)
    file.write_bytes(content[:-1])


@pytest.mark.slow
def test_a_checkpoint_of_two_processes_that_share_the_parameters_is_read_by_one(tmp_path, long_alone):
    """The processes also agree on the step of a checkpoint that is due by the clock of one of them."""
    folder = folder_with(tmp_path, LONG)
    words = ("--mesh", "data=1,fsdp=2", "--checkpoint-seconds", "0.2", "--keep-last", "3")
    workers = start(folder, 2, *words)
    wait_for_steps(folder, workers)
    workers[0].send_signal(signal.SIGTERM)
    codes, outputs = ended(workers)
    assert codes == [130, 130], outputs
    assert all("Traceback" not in output for output in outputs)
    paths = sorted((folder / "run" / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    assert 1 < len(paths) <= 3 and any(int(path.name) % 500 for path in paths[:-1])
    path = paths[-2]
    damage_everywhere(folder / "run" / "checkpoints", *paths[-2:])
    arrays = json.loads((path / "notes.json").read_text())["arrays"]
    # Nobody had all of the array, so nobody could make its digest.
    assert [name for name, (_, shape, digest) in arrays.items() if not digest and shape == [128, 128]]
    codes, outputs = ended(start(folder, 1, "--resume", "--mesh", "data=2"))
    assert codes == [0] and f"{paths[-1].name} is damaged" in outputs[0], outputs
    (metrics, _), (expected, _) = numbers(folder), numbers(long_alone)
    before = {key: value for key, value in expected.items() if key[0] <= int(path.name)}
    assert before and {key: metrics[key] for key in before} == pytest.approx(before, rel=1e-3, abs=1e-4)
    assert metrics.keys() == expected.keys()


@pytest.mark.slow
def test_processes_without_a_common_disk_meet_at_a_url(tmp_path, monkeypatch):
    """Each process has a local folder. The first one copies, also the arrays of the others; all of them read."""
    folder = folder_with(tmp_path)
    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "cache"))
    url, store = f"file://{tmp_path}/bucket/run", tmp_path / "bucket" / "run"
    words = ("--mesh", "data=1,fsdp=2", "--quiet")
    codes, outputs = ended(start(folder, 2, *words, command=("run", "config.py", "--out", url)))
    assert codes == [0, 0], outputs
    model, checkpoints = (store / "model" / "model.safetensors").read_bytes(), store / "checkpoints"
    assert Checkpoints(checkpoints).steps() == [6, 9]
    # The end was not copied, nor the last checkpoint; the machines are new.
    shutil.rmtree(tmp_path / "cache" / "remote")
    for path in (store / "result.json", store / "model" / "model.safetensors", checkpoints / "9" / "files.sha256"):
        path.unlink()
    codes, outputs = ended(start(folder, 2, *words, "--resume", command=("run", "config.py", "--out", url)))
    assert codes == [0, 0], outputs
    assert "checkpoints/9 was not copied completely" in outputs[0]
    assert (store / "model" / "model.safetensors").read_bytes() == model
    assert len(list((tmp_path / "cache" / "remote").glob("*/process-1"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("count", "dying"), [(2, 0), (4, 2)])
def test_a_killed_process_ends_the_others_and_the_run_resumes_to_the_same_bits(tmp_path, long_alone, count, dying):
    """The death of the leader is the harder case: JAX ends the others from C++."""
    train = LONG if count == 2 else "steps=300, batch=12, eval_every=100, eval_batch=20"
    folder, complete = folder_with(tmp_path / "killed", train), long_alone
    if count != 2:
        complete = folder_with(tmp_path / "complete", train)
        codes, outputs = ended(start(complete, count, devices=count))
        assert codes == [0] * count, outputs
    workers = start(folder, count, devices=count)
    wait_for_steps(folder, workers, 600 if count == 2 else 130)
    workers[dying].kill()
    begin = time.monotonic()
    codes, outputs = ended(workers)
    assert time.monotonic() - begin < 60
    for n in set(range(count)) - {dying}:
        assert codes[n] == 1 and outputs[n].strip().splitlines()[-1].startswith("tlx: "), (codes, outputs)
    codes, outputs = ended(start(folder, count, "--resume", devices=count))
    assert codes == [0] * count, outputs
    assert_same(folder, complete)


REFUSED = {
    "another recipe": ("steps=8, batch=12", (), "the recipe (by its fingerprint) differs between the processes"),
    "another mesh": (None, ("--mesh", "data=1,fsdp=2"), "the option mesh differs between the processes"),
    "no config": ("", (), "there is no config file config.py"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", REFUSED)
def test_processes_that_differ_are_refused_in_one_line(tmp_path, fault):
    train, words, line = REFUSED[fault]
    folder, other = folder_with(tmp_path / "a"), folder_with(tmp_path / "b", *filter(None, [train]))
    if train == "":
        (other / "config.py").unlink()
    place = ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", "2", "--process"]
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "tlx.cli", "run", "config.py", "--out", "run", *place, str(n), *more],
            cwd=place_of, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for n, (place_of, more) in enumerate(((folder, ()), (other, words)))
    ]  # fmt: skip
    codes, outputs = ended(workers)
    assert codes == [2, 2], outputs
    for lines in map(printed, outputs):
        assert len(lines) == 1 and lines[0].startswith("tlx: ") and line in lines[0], lines
    assert not (folder / "run").exists()


def test_an_error_of_another_process_keeps_its_kind():
    refused, failed = processes.of_another(0, "KeyError: a", True), processes.of_another(1, "OSError: b", False)
    assert isinstance(refused, ValueError) and not isinstance(failed, ValueError)
    assert line_of(refused) == "process 0 failed: KeyError: a" and line_of(failed) == "process 1 failed: OSError: b"
    assert line_of(processes.ProcessLost("gone")) == "gone"
    # A lost process is no failure of the storage, which a run may survive.
    assert not isinstance(processes.ProcessLost("gone"), OSError)
