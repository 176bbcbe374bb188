"""The learning-rate range test: suggestions worked by hand; it starts like the run and does not change the run."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from tlx import Data, Learn, Optim, Recipe, Train, models, run, tasks, terms, tuning
from tlx.cli import main
from tlx.records.log import read_metrics
from tlx.training.lr_find import Curve, check_range, find, minimum, slide, smooth, steep, suggest, valley, write_lines

RECIPE = Recipe(
    data=Data(target="digits", shots=4),
    task=tasks.Classification(classes=10),
    model=models.Mlp(inputs=(8, 8, 1), widths=(8,), dropout=0.2),
    tuning=tuning.FineTune(),
    optim=Optim(warmup=0.1, clip=1.0),
    train=Train(steps=4, batch=8, eval_batch=128),
)
RATES = np.array([10.0**n for n in range(-8, 2)])
# The loss falls for six steps, is lowest at the seventh place, and falls fastest from the fourth to the fifth.
LOSSES = np.array([3.0, 2.9, 2.8, 2.7, 1.5, 1.4, 1.0, 2.0, 4.0, 9.0])


def test_the_lowest_and_the_steepest_place():
    assert minimum(RATES, LOSSES) == pytest.approx(RATES[6] / 10)
    assert steep(RATES, LOSSES) == pytest.approx(RATES[3])


def test_the_valley_is_the_longest_fall():
    # Seven places that end at the seventh: a third is 2, half a step is 1, counted from one place before the first.
    assert valley(RATES, LOSSES) == pytest.approx(RATES[6 - 7 + 2 + 1])
    # A spike in the falling loss is ignored.
    spiked = LOSSES.copy()
    spiked[2] = 5.0
    assert valley(RATES, spiked) == pytest.approx(RATES[6 - 6 + 2 + 1])
    assert valley(RATES, np.arange(10.0)) == RATES[0]


def test_the_slide_stops_where_the_slopes_at_both_ends_agree():
    rates = np.geomspace(1e-6, 1, 40)
    flat = np.full(40, 2.0)
    assert slide(rates, flat) == pytest.approx(rates[39 - 15])
    # The loss rises over the last ten places. With the right end at place 29 the slopes at both ends are zero; one
    # place earlier, the left end is at 15.
    rising = flat.copy()
    rising[30:] += np.arange(1, 11)
    assert slide(rates, rising) == pytest.approx(rates[29 - 15])
    assert slide(rates[:10], flat[:10]) is None


def test_the_smoothing_is_corrected_for_its_start():
    assert smooth([2.0, 2.0, 2.0]) == pytest.approx([2.0, 2.0, 2.0])
    assert smooth([1.0, 0.0], 0.5)[1] == pytest.approx(1 / 3)


def test_a_short_curve_gives_no_suggestion_and_its_end_does_not_count():
    assert set(suggest(RATES[:7], LOSSES[:7], 7).values()) == {None}
    actual = suggest(list(RATES), [*LOSSES[:7], np.nan, np.nan, np.nan], 9)
    assert set(actual.values()) == {None}
    longer = np.geomspace(1e-6, 1, 40)
    falling = list(np.linspace(3, 1, 35)) + [0.0] * 5
    assert suggest(longer, falling, 40)["minimum"] == pytest.approx(longer[34] / 10)


@pytest.fixture(scope="module")
def range_test(tmp_path_factory):
    out = tmp_path_factory.mktemp("find") / "all"
    return out, find(RECIPE, out, steps=30, start=1e-5, end=1e3, quiet=True)


@pytest.mark.slow
def test_the_test_starts_like_the_run_and_does_not_change_it(range_test, tmp_path, monkeypatch):
    monkeypatch.setattr("tlx.report.available", lambda: False)
    run(RECIPE, tmp_path / "run", quiet=True)
    first = next(line["value"] for line in read_metrics(tmp_path / "run") if line["name"] == "train/loss")
    _, (curve,) = range_test
    assert curve.losses[0] == pytest.approx(first, rel=1e-6)
    with pytest.raises(FileExistsError, match="contains a run, and tlx does not overwrite it"):
        find(RECIPE, tmp_path / "run", quiet=True)


def test_the_learning_rate_grows_by_equal_ratios_until_the_loss_diverges(range_test):
    out, (curve,) = range_test
    assert curve.group == "all"
    np.testing.assert_allclose(curve.rates, [1e-5 * 1e8 ** (n / 29) for n in range(len(curve.rates))], rtol=1e-9)
    assert curve.smoothed == pytest.approx(smooth(curve.losses))
    over = [mean > 4 * min(curve.smoothed[: n + 1]) for n, mean in enumerate(curve.smoothed)]
    assert over[-1] and not any(over[:-1])
    assert len(curve.rates) < 30
    lines = [json.loads(line) for line in (out / "lr_find.jsonl").read_text().splitlines()]
    assert [line["rate"] for line in lines if "step" in line] == curve.rates
    assert {line["suggestion"]: line["rate"] for line in lines if "suggestion" in line} == curve.suggestions


@pytest.mark.slow
def test_a_term_that_reads_the_moving_average_has_one(tmp_path, monkeypatch):
    monkeypatch.setattr("tlx.report.available", lambda: False)
    objective = (terms.Supervised(), terms.MeanTeacher(on="labelled", weight=1.0))
    recipe = replace(RECIPE, objective=objective, train=replace(RECIPE.train, ema=0.9))
    for per_group in (False, True):
        curves = find(recipe, tmp_path / str(per_group), steps=3, start=1e-4, end=1e-2, per_group=per_group, quiet=True)
        assert all(np.isfinite(curve.losses).all() and len(curve.losses) == 3 for curve in curves)


def test_the_page_has_the_curve_and_the_suggestions(range_test):
    from tlx.report import page

    out, (curve,) = range_test
    text = (out / "lr_find.html").read_text()
    spec = page.specification(text)["range-0"]
    assert [row["rate"] for row in spec["datasets"]["table"]] == pytest.approx(curve.rates)
    marks = spec["datasets"]["marks"]
    assert {row["what"] for row in marks} == {f"{n} {rate:.1e}" for n, rate in curve.suggestions.items() if rate}
    # Every line has a label on a separate row, and the page names the suggested learning rate, or why there is none.
    assert sorted(row["row"] for row in marks) == list(range(len(marks)))
    assert sum(layer["mark"]["type"] == "text" for layer in spec["layer"]) == len(marks)
    assert curve.reason in text and ("Recommended learning rate" in text) == (curve.recommended is not None)
    assert "Content-Security-Policy" in text
    assert "default-src" in text


def test_a_recommendation_needs_a_falling_loss():
    rates, suggestions = list(RATES), {"valley": 1e-3, "slide": 2e-3, "minimum": 1e-3, "steep": None}
    falling = Curve("all", rates, list(LOSSES), list(LOSSES), suggestions)
    assert falling.recommended == 1e-3 and "middle of the long descent" in falling.reason
    flat = falling._replace(smoothed=[2.0] * 9 + [float("inf")])
    assert flat.recommended is None and "hardly falls" in flat.reason
    short = falling._replace(suggestions=dict.fromkeys(suggestions))
    assert short.recommended is None and "too short" in short.reason
    apart = falling._replace(suggestions=suggestions | {"slide": 0.5})
    assert apart.recommended == 1e-3 and "factor of 500" in apart.reason


CONFIG = '''"""A tiny run."""
from tlx import Data, Learn, Recipe, Train, models, tasks, tuning

def recipe():
    return Recipe(
        data=Data(target="digits", shots=4), task=tasks.Classification(classes=10),
        model=models.Mlp(inputs=(8, 8, 1), widths=(8, 8)),
        tuning=tuning.Rules((r"stem/.*", None), (".*", Learn(lr=0.5))), train=Train(batch=8, eval_batch=64),
    )
'''


def test_the_command_tests_every_trainable_stage_separately(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tlx.report.available", lambda: False)
    (tmp_path / "tiny.py").write_text(CONFIG)
    result = CliRunner().invoke(main, ["lr-find", "tiny.py", "--steps", "4", "--per-group", "--quiet"])
    assert result.exit_code == 0, result.output
    assert [
        word for line in result.output.splitlines() for word in line.split() if word in ("head", "blocks/00", "stem")
    ]
    assert str(result.output).splitlines()[-1] == "runs/lr-find-tiny/lr_find.jsonl"
    lines = [json.loads(line) for line in (tmp_path / "runs/lr-find-tiny/lr_find.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(line["group"] for line in lines)) == ["head", "blocks/00"]
    # Both begin with the same state.
    assert len({line["loss"] for line in lines if line.get("step") == 1}) == 1
    result = CliRunner().invoke(main, ["lr-find", "tiny.py", "--start", "1", "--end", "0.1"])
    assert result.exit_code == 2
    assert result.output.startswith("tlx: start is 1 and end is 0.1; ")


def test_only_the_tested_group_moves():
    from tlx.training.lr_find import partitions_of
    from tlx.training.prepare import prepare

    groups = partitions_of(prepare(RECIPE))
    assert list(groups) == ["head", "stem"]
    for name, claimed in groups.items():
        assert {path for path, learn in claimed.items() if learn} == {f"{name}/kernel", f"{name}/bias"}
    # As in the last phase in which it is trainable.
    assert groups["stem"]["stem/kernel"] == Learn(lr=0.005, schedule="one-cycle")


def test_values_that_are_not_finite_are_null(tmp_path):
    write_lines(tmp_path / "lines", [Curve("all", [0.1], [float("nan")], [float("inf")], {"steep": None})])
    first, last = map(json.loads, (tmp_path / "lines").read_text().splitlines())
    assert first == {"group": "all", "step": 1, "rate": 0.1, "loss": None, "smoothed": None}
    assert last == {"group": "all", "suggestion": "steep", "rate": None}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((1, 1e-7, 10.0), "steps is 1; a range test needs 2 or more"),
        ((9, 0.0, 10.0), "start is 0 and end is 10; expected 0 < start < end"),
        ((9, 1.0, 1.0), "start is 1 and end is 1; expected 0 < start < end"),
    ],
)
def test_an_invalid_range_is_refused(inputs, message):
    with pytest.raises(ValueError) as error:
        check_range(*inputs)
    assert message in str(error.value)
