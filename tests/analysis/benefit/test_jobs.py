"""Several processes measure one report: each runs its share, and the report states the effect on the energy."""

import json
from collections import Counter

import pytest
from click.testing import CliRunner

from tlx.analysis.benefit import benefit_study, measure
from tlx.analysis.benefit.measuring import at_once
from tlx.cli import main
from tlx.records import studies


@pytest.fixture
def room(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.py").write_text(tiny)
    (tmp_path / "domains.py").write_text(
        "from tlx import *\nfrom tlx import models, tasks, terms\n\n\ndef recipe():\n"
        "    return Recipe(data=Data(source='mnist5k', target='digits', labels=0, size=8),\n"
        "        task=tasks.Classification(classes=10), model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),\n"
        "        objective=(terms.Supervised(on='source'),), train=Train(steps=4, batch=16))\n"
    )
    return tmp_path


class Seen(Exception):
    """Record the arguments of a function."""


@pytest.mark.parametrize("command", [["benefit", "tiny.py", "--shots", "1"], ["negative-transfer", "domains.py"]])
def test_a_worker_knows_how_many_workers_share_the_study(room, monkeypatch, command):
    def record(*given, **how):
        raise Seen(how)

    monkeypatch.setattr(f"tlx.analysis.{command[0].partition('-')[0]}.measure", record)
    monkeypatch.setattr("tlx.study.work.work", record)
    # An unexpected exception is one line on the terminal, unless a traceback is requested.
    monkeypatch.setenv("TLX_TRACEBACK", "1")
    [how] = CliRunner().invoke(main, [*command, "--seeds", "2", "--jobs", "3"]).exception.args
    assert how["jobs"] == 3
    # As `tlx.study.work.employ` starts it.
    [value] = CliRunner().invoke(main, [*how["worker"][3:], "--worker", "0.0"]).exception.args
    assert value["share"] == 3 and value["employed"]


@pytest.mark.parametrize("command", [["benefit", "tiny.py", "--shots", "1"], ["negative-transfer", "domains.py"]])
def test_a_worker_of_a_cluster_runs_its_part(room, monkeypatch, command):
    def record(*given, **how):
        raise Seen({"names": given[3:], **how})

    monkeypatch.setattr(f"tlx.analysis.{command[0].partition('-')[0]}.measure", record)
    monkeypatch.setattr("tlx.study.clusters.cells.run_part", record)
    monkeypatch.setenv("TLX_TRACEBACK", "1")
    on = ["--on", "slurm=local", "--resources", "cpu=2"]
    [how] = CliRunner().invoke(main, [*command, "--seeds", "2", "--jobs", "3", *on]).exception.args
    assert (how["on"].kind, how["on"].limit, how["on"].sizes) == ("local", 3, {"cpu": 2})
    assert how["command"].endswith("--jobs 3 --on slurm=local --resources cpu=2") and "--on" not in how["worker"]
    # As `tlx.study.clusters.cells` orders it.
    [value] = CliRunner().invoke(main, [*how["worker"][3:], "--worker", "0.0", "--part", "a,b"]).exception.args
    assert value["names"] == (("a", "b"),)


@pytest.mark.slow
def test_two_processes_measure_one_report(room, monkeypatch):
    from pathlib import Path

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    result = CliRunner().invoke(
        main, ["benefit", "tiny.py", "--shots", "1", "--seeds", "2", "--jobs", "2", "--out", "out", "--quiet"]
    )
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in (room / "out" / "executions.jsonl").read_text().splitlines()]
    assert len({line["cell"] for line in lines}) == len(lines) == 8
    # No process ran what the other ran.
    assert len(Counter(line["process"] for line in lines)) == 2
    document = json.loads((room / "out" / "benefit.json").read_text())
    [note] = [note for note in document["notes"] if "ran at the same time" in note]
    assert note.startswith(
        "up to 2 processes ran at the same time on one machine: the energy and CO2e of a run include the whole"
    )
    assert note in result.output.replace("\n", " ") and document["command"].endswith("--jobs 2")


@pytest.fixture(scope="module")
def measured(recipe, tmp_path_factory):
    out = tmp_path_factory.mktemp("benefit") / "out"
    study = benefit_study(recipe, seeds=2, shots=())
    measure(study, out, quiet=True)
    return study, out


@pytest.mark.parametrize(
    ("workers", "most"),
    [
        # One after the other, as when a study was stopped and resumed.
        ([("a", 1, 0), ("a", 2, 9999)], 1),
        ([("a", 1, 0), ("a", 2, 0), ("a", 3, 9999)], 2),
        ([("a", 1, 0), ("b", 1, 0)], 1),
        # The time between the runs of a worker belongs to the worker too.
        ([("a", 1, 0), ("a", 1, 9999), ("a", 2, 5000)], 2),
    ],
)
def test_simultaneous_workers_are_counted_by_the_ends_of_their_runs(measured, tmp_path, workers, most):
    _, out = measured
    actual = studies.read(out)
    lines = [
        {"time": 1e6 + end, "cell": cell.fingerprint, "state": "done", "host": host, "process": process}
        for (host, process, end), cell in zip(workers, actual.cells, strict=False)
    ]
    (tmp_path / "executions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"time": 1')
    assert at_once(tmp_path, actual) == most
    assert at_once(out, actual) == at_once(tmp_path / "none", actual) == 1


def test_the_older_formula_accepts_present_numbers(measured):
    study, out = measured
    usual = measure(study, out, quiet=True)["strubell"]
    today = measure(study, out, quiet=True, pue=1.1, pounds_per_kwh=0.5)["strubell"]
    assert today["how"].endswith("PUE 1.1, 0.5 lb CO2e per kWh (Strubell et al., 2019)")
    for end in ("mean", "low", "high"):
        assert today["kwh"][end] == pytest.approx(usual["kwh"][end] * 1.1 / 1.58)
        assert today["co2e_kg"][end] == pytest.approx(today["kwh"][end] * 0.5 * 0.45359237)
    # The energy of a run x PUE, over the seeds.
    actual = [cell.result["energy"]["kwh"] for cell in studies.read(out).cells if cell.names["arm"] == "pretrained"]
    assert today["kwh"]["mean"] == pytest.approx(1.1 * sum(actual) / 2)
    assert today["kwh"]["high"] - today["kwh"]["mean"] == pytest.approx(
        1.1 * 12.706 * abs(actual[0] - actual[1]) / 2, rel=1e-3
    )


def test_the_command_passes_the_options_on_and_refuses_others(room, monkeypatch):
    refused = CliRunner().invoke(main, ["benefit", "tiny.py", "--pue", "-1", "--quiet", "--out", "out"])
    assert refused.exit_code == 2 and refused.output.startswith("tlx: pue is -1.0; ")
    assert not (room / "out").exists()

    def record(*given, **how):
        raise Seen(how)

    monkeypatch.setattr("tlx.analysis.benefit.measure", record)
    monkeypatch.setenv("TLX_TRACEBACK", "1")
    words = ["benefit", "tiny.py", "--shots", "1", "--pue", "1.2", "--pounds-per-kwh", "0.1"]
    [how] = CliRunner().invoke(main, words).exception.args
    assert (how["pue"], how["pounds_per_kwh"]) == (1.2, 0.1)
    assert "--pue 1.2 --pounds-per-kwh 0.1" in how["command"]
