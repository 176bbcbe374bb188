"""The parts of a plan that need no compiler of absent chips: tables, targets, counts, bounds, texts and the page."""

import json
import re
import tomllib
from collections import Counter
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner

from tlx import Data, Recipe, Train, config, models, sharding, tasks, terms, tuning
from tlx.cli import main
from tlx.cli.plan import best_lines
from tlx.plan import parse_target, read_chips
from tlx.plan.chips import TABLE
from tlx.plan.collectives import Collective, collective_bytes, collectives
from tlx.plan.compiling import CompiledProgram, refused
from tlx.plan.estimate import UTILISATION, Bound, bound_of, run_estimate
from tlx.plan.operations import OperationCounts, operations_of
from tlx.plan.planning import best, memory_parts, notes_on, raised
from tlx.plan.program_text import moved_bytes
from tlx.plan.shapes import opened, step_shapes
from tlx.plan.targets import target_config
from tlx.report import page
from tlx.report import plan as plan_page
from tlx.training.flops import make_state, shapes_of
from tlx.training.prepare import open_data, prepare, training_batches
from tlx.training.step import compile_step

CHIPS = read_chips()
GPU = dict(CHIPS["h100"].target)
SMALL = Recipe(
    data=Data(target="digits"),
    task=tasks.Classification(classes=10),
    model=models.Mlp(),
    train=Train(steps=10, batch=32),
)


@pytest.fixture(scope="module")
def source():
    """The opened recipe."""
    return opened(SMALL)


def run(*words):
    return CliRunner().invoke(main, ["plan", *words])


def test_every_chip_of_the_table_has_a_source_in_a_comment():
    rows = re.split(r"^\[(\w+)\]$", TABLE.read_text(), flags=re.MULTILINE)
    assert rows[1::2] == list(CHIPS)
    for key, row in zip(rows[1::2], rows[2::2], strict=True):
        assert row.count("https://") >= (3 if CHIPS[key].compiler == "cuda" else 2), key
    assert {chip.compiler for chip in CHIPS.values()} == {"tpu", "cuda"}


@pytest.mark.parametrize(
    ("row", "change", "parts"),
    [
        ("v5e", {"memory": -1}, ["'v5e'", "memory", "-1"]),
        ("v5e", {"memory": "16 GB"}, ["memory", "16 GB", "number"]),
        ("v5e", {"group": 1.5}, ["group", "1.5", "whole number"]),
        ("v5e", {"name": 5}, ["name", "5", "text"]),
        ("v5e", {"memory": 16e9}, ["memory", "whole number"]),
        ("h100", {"target": GPU | {"cores": 132.5}}, ["target.cores", "132.5", "whole number"]),
        ("h100", {"target": GPU | {"cache": "50 MB"}}, ["target.cache", "50 MB", "whole number"]),
        ("h100", {"target": GPU | {"units_per_core": True}}, ["target.units_per_core", "True", "whole number"]),
        ("v5e", {"wats": 100}, ["'wats'", "'watts'"]),
        ("v5e", {"compiler": "tpus"}, ["'tpus'", "'tpu'", "'cuda'"]),
        ("v5e", {"topologies": ["4x"]}, ["topologies", "4x"]),
        ("v5e", {"flops": {"bfloat16": 1e12}}, ["flops", "float32"]),
        ("v5e", {"usable_memory": 1.5}, ["usable_memory", "1.5", "at most 1"]),
        ("h100", {"target": {"cores": 1}}, ["target", "capability"]),
        ("h100", {"name": None}, ["'h100'", "lacks", "'name'"]),
    ],
)
def test_a_bad_row_of_the_table_is_one_line_with_the_row_and_the_field(tmp_path, row, change, parts):
    values = {
        name: value for name, value in (tomllib.loads(TABLE.read_text())[row] | change).items() if value is not None
    }
    path = tmp_path / "chips.toml"
    path.write_text(toml_of(row, values))
    result = run("recipe.py", "--on", "v5e:4x4", "--chips", str(path))
    assert result.exit_code == 2
    line = result.output.strip()
    assert "\n" not in line and str(path) in line
    assert all(part in line for part in parts), line


def toml_of(row, values):
    """Return a table with one row; a dict is written in one line."""

    def text(value):
        if isinstance(value, dict):
            return "{ " + ", ".join(f"{name} = {text(item)}" for name, item in value.items()) + " }"
        return json.dumps(value)

    return f"[{row}]\n" + "".join(f"{name} = {text(value)}\n" for name, value in values.items())


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("v5e:4x5", ["4x5", "v5e:4x4", "v5e:4x8"]),
        ("v5p:4x2x2", ["4x2x2", "v5p:2x2x4"]),
        ("v5e", ["TPU v5e", "4x4"]),
        ("v5ee:4x4", ["'v5ee'", "'v5e'"]),
        ("h100:12", ["12", "multiple of 8", "256"]),
        ("h100:four", ["four"]),
    ],
)
def test_an_unknown_topology_names_the_nearest(text, parts):
    with pytest.raises(ValueError) as error:
        parse_target(text, CHIPS)
    assert all(part in str(error.value) for part in parts), error.value


def test_an_unknown_chip_lists_the_chips_once():
    with pytest.raises(ValueError) as error:
        parse_target("TPU", CHIPS)
    assert all(str(error.value).count(key) == 1 for key in CHIPS), error.value


def test_a_target_knows_its_chips():
    assert [parse_target(text, CHIPS).chips for text in ("v5e:16x16", "v5p:2x2x4", "h100:8", "h100")] == [256, 16, 8, 1]


def test_a_row_that_the_compiler_refuses_is_one_line():
    target = parse_target("v5e:2x2", CHIPS)
    error = refused(target, jax.errors.JaxRuntimeError("INVALID_ARGUMENT: Topology layout\n  is not divisible."))
    assert "target v5e:2x2: the compiler refuses the chip's row: INVALID_ARGUMENT: Topology layout is not" in str(error)
    assert "\n" not in str(error) and str(TABLE) in str(error)


def test_the_name_of_a_gpu_may_have_quotes():
    named = target_config(replace(CHIPS["h100"], name='an "H100"'))
    assert 'device_description_str: "an \\"H100\\""' in named


def test_a_missing_compiler_names_its_extra():
    for target, extra in (("v5e:4x4", "tlx[plan-tpu]"), ("h100:8", "tlx[plan-gpu]")):
        result = run("recipe.py", "--on", target)
        assert result.exit_code == 2
        assert extra in result.output and result.output.count("\n") == 1


def test_operations_count_every_round_of_a_loop():
    kernel = jnp.ones((8, 8))

    def step(x):
        return jax.lax.scan(lambda carry, _: (carry @ kernel, None), x, None, length=5)[0]

    def unrolled(x):
        for _ in range(5):
            x = x @ kernel
        return x

    x = jnp.ones((4, 8))
    counts = [operations_of(jax.jit(function).trace(x).jaxpr) for function in (step, unrolled)]
    assert counts[0] == counts[1] == OperationCounts(products=5 * 2 * 4 * 8 * 8, others=0)


def test_operations_of_a_convolution_are_those_of_the_compiler():
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    traced = jax.jit(convolve).trace(jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5)))
    assert operations_of(traced.jaxpr).total == traced.lower().compile().cost_analysis()["flops"]


def test_a_batch_in_pieces_has_the_operations_of_the_whole(source):
    counts = []
    for pieces in (1, 4):
        recipe = replace(SMALL, train=replace(SMALL.train, accumulate=pieces))
        shapes = step_shapes(source, recipe)
        mesh = sharding.make_mesh(jax.devices()[:1])
        counts.append(operations_of(compile_step(shapes.parts, mesh).train.trace(*shapes.placed(mesh)).jaxpr))
    assert counts[0].products == counts[1].products
    assert counts[1].total == pytest.approx(counts[0].total, rel=0.1)


def test_the_operations_of_a_step_are_near_those_of_the_compiler(source):
    shapes = step_shapes(source, SMALL)
    mesh = sharding.make_mesh(jax.devices()[:1])
    traced = compile_step(shapes.parts, mesh).train.trace(*shapes.placed(mesh))
    counted = traced.lower().compile().cost_analysis()["flops"]
    assert operations_of(traced.jaxpr).total == pytest.approx(counted, rel=0.1)


PROGRAM = """HloModule step

%fused (p.0: f32[100,4], p.1: s32[]) -> f32[1,4] {
  %p.0 = f32[100,4]{1,0} parameter(0)
  %p.1 = s32[] parameter(1)
  ROOT %row = f32[1,4]{1,0} dynamic-slice(%p.0, %p.1, %p.1), dynamic_slice_sizes={1,4}
}

%body (c: (s32[], f32[100,4])) -> (s32[], f32[100,4]) {
  %c = (s32[], f32[100,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %table = f32[100,4]{1,0} get-tuple-element(%c), index=1
  %slice = f32[1,4]{1,0} fusion(%table, %i), kind=kLoop, calls=%fused
  %sum = f32[1,4]{1,0} all-reduce(%slice), replica_groups={{0,1},{2,3}}, to_apply=%add
  ROOT %t = (s32[], f32[100,4]{1,0}) tuple(%i, %table)
}

ENTRY %main (a: f32[100,4]) -> f32[100,4] {
  %a = f32[100,4]{1,0} parameter(0)
  %fast = f32[100,4]{1,0:S(1)} copy(%a)
  %doubled = f32[100,4]{1,0} add(%fast, %fast)
  %start = (s32[], f32[100,4]{1,0}) tuple(%zero, %doubled)
  %loop = (s32[], f32[100,4]{1,0}) while(%start), body=%body, backend_config={"known_trip_count":{"n":"10"}}
  ROOT %out = f32[100,4]{1,0} get-tuple-element(%loop), index=1
}
"""


def test_bytes_moved_by_a_program_worked_by_hand():
    # The copy into fast memory reads 1,600 bytes, the sum writes as many. A round of the loop reads the index and one
    # row and writes the row; the all-reduce reads and writes the row.
    assert moved_bytes(PROGRAM) == 1600 + 1600 + 10 * ((4 + 16 + 16) + (16 + 16))


def test_collectives_count_every_round_with_their_devices():
    assert collectives(PROGRAM) == Counter({Collective("all-reduce", ((0, 1), (2, 3))): 160})
    assert collective_bytes(PROGRAM) == {"all-reduce": 160}


def test_the_compiled_step_sends_the_gradients(source):
    shapes = step_shapes(source, SMALL)
    mesh = sharding.make_mesh(jax.devices()[:4])
    text = compile_step(shapes.parts, mesh).train.lower(*shapes.placed(mesh)).compile().as_text()
    groups = {collective.groups for collective in collectives(text)}
    assert groups == {((0, 1, 2, 3),)}
    assert sum(collective_bytes(text).values()) == pytest.approx(4 * shapes.trainable, rel=0.01)


def program(**more):
    fields = {
        "seconds": 1.0,
        "operations": OperationCounts(8e9, 0.0),
        "needed": 100,
        "arguments": 60,
        "temporaries": 40,
    }
    return CompiledProgram(True, **{**fields, **more})


def test_the_bound_is_the_largest_of_its_terms_worked_by_hand():
    target = parse_target("h100:8", CHIPS)
    many = program(
        operations=OperationCounts(8 * 494e12, 0),
        moved=int(3.35e11),
        sent={Collective("all-reduce", (tuple(range(8)),)): 45 * 10**9},
    )
    bound = bound_of(many, target, "float32", 8)
    assert bound.compute == pytest.approx(1.0)
    assert bound.memory == pytest.approx(0.1)
    assert bound.interconnect == pytest.approx(2 * 7 / 8 * 0.1)
    assert (bound.limit, bound.seconds) == ("compute", bound.compute)
    assert bound_of(many, target, "bfloat16", 8).compute == pytest.approx(494 / 989)


EIGHTS = (tuple(range(8)), tuple(range(8, 16)))
ACROSS = tuple((k, k + 8) for k in range(8))


@pytest.mark.parametrize(
    ("collective", "seconds"),
    [
        # Each of 8 ports carries an eighth of the array, and the interconnect 7/8 of it twice, which takes longer.
        (Collective("all-reduce"), 2 * 7 / 8 / 450e9),
        (Collective("all-reduce", EIGHTS), 2 * 7 / 8 / 450e9),
        (Collective("all-reduce", ACROSS), 2 * 1 / 2 / 50e9),
        (Collective("all-gather", ACROSS), 1 / 2 / 50e9),
        (Collective("reduce-scatter", ACROSS), 1 / 50e9),
        (Collective("all-reduce", ((0, 1, 8, 9),)), 2 * 1 / 2 / 2 / 50e9),
        (Collective("all-to-all"), 1 / 2 / 50e9),
        (Collective("collective-permute", ((0, 1), (1, 0))), 1 / 450e9),
        (Collective("collective-permute", ((0, 1), (7, 8))), 1 / 50e9),
        (Collective("collective-permute", ((0, 0),)), 0.0),
    ],
)
def test_the_network_carries_what_nodes_send_each_other_worked_by_hand(collective, seconds):
    size = 8 * 10**7
    bound = bound_of(program(sent={collective: size}), parse_target("h100:16", CHIPS), "float32", 16)
    assert bound.interconnect == pytest.approx(size * seconds)


def test_a_slice_of_tpus_has_no_network():
    sent = {Collective("all-reduce", ACROSS): 10**9}
    bound = bound_of(program(sent=sent), parse_target("v5e:4x4", CHIPS), "float32", 16)
    assert bound.interconnect == pytest.approx(10**9 / 200e9)


def test_a_run_costs_its_chips_times_its_hours(source):
    shapes = step_shapes(source, SMALL)
    target = parse_target("h100:8", CHIPS)
    bound = bound_of(program(), target, "float32", 8)
    estimate = run_estimate(bound, shapes, target)
    low, high = UTILISATION
    assert estimate.hours.low == pytest.approx(bound.seconds * 10 / 3600 / high)
    assert estimate.hours.high == pytest.approx(bound.seconds * 10 / 3600 / low)
    assert estimate.dollars.low == pytest.approx(estimate.hours.low * 8 * target.chip.dollars_per_hour)
    assert estimate.kilowatt_hours.low == pytest.approx(estimate.hours.low * 8 * 0.7)
    assert run_estimate(bound, shapes, parse_target("v5e:2x4", CHIPS)).kilowatt_hours is None


def test_shorter_texts_send_as_many_gradients(source):
    target = parse_target("h100:8", CHIPS)
    shapes = step_shapes(source, SMALL)._replace(share=0.25)
    hours = [
        run_estimate(bound, shapes, target).hours.low * UTILISATION[1] * 3600 / shapes.steps
        for bound in (Bound(4.0, 1.0, 2.0), Bound(1.0, 8.0, 1.0), Bound(1.0, 1.0, 3.0))
    ]
    assert hours == pytest.approx([2.0, 2.0, 3.0])


def test_the_parts_of_the_memory_sum_to_what_the_program_needs():
    held = {"parameters": 30, "frozen": 5, "optimiser": 10, "average": 0, "memory of terms": 0, "batch": 4, "other": 1}
    parts = memory_parts(program(arguments=60, temporaries=40, needed=120, code=15), held)
    assert sum(parts.values()) == 120
    assert (parts["gradients"], parts["activations"], parts["program"], parts["other"]) == (30, 10, 15, 16)


def test_shapes_are_those_of_the_real_state_and_batch(source):
    """Nothing of the weights exists: a plan has shapes in their place."""
    splits = open_data(SMALL, test=False)
    ready = prepare(SMALL, splits)
    shapes = step_shapes(source, SMALL)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(source.ready.variables))
    state = make_state(ready.parts(0), ready, 10, {"0": {}})
    assert jax.tree.structure(shapes.form) == jax.tree.structure(state)
    for planned, real in zip(jax.tree.leaves(shapes.form), jax.tree.leaves(state), strict=True):
        assert (planned.shape, planned.dtype) == (np.shape(real), real.dtype)
    assert shapes.batch == shapes_of(next(training_batches(ready, splits)))


def test_other_batches_share_what_is_opened(source):
    wide = step_shapes(source, replace(SMALL, train=replace(SMALL.train, batch=64, steps=None, epochs=1)))
    assert {shape[0] for _, shape, _ in wide.batch} == {64}
    assert wide.steps == -(-len(source.splits.train) // 64)


@dataclass(frozen=True, kw_only=True)
class ReadsNumbers(terms.Term):
    """Keep the positions of the weights above their mean, which the host computes."""

    def memory(self, setting):
        kernel = np.asarray(setting.variables.params["head"]["kernel"])
        return {"above": np.flatnonzero(kernel > kernel.mean())}

    def loss(self, view):
        return 0.0 * view.memory["above"].sum(), {}


def test_a_term_that_reads_numbers_is_planned_with_real_weights():
    recipe = replace(SMALL, objective=(terms.Supervised(), ReadsNumbers()))
    shapes = step_shapes(opened(recipe), recipe)
    assert 0 < shapes.form.memory["1"]["above"].shape[0] < 256 * 10
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(shapes.form))


def test_the_phase_that_trains_the_most_is_planned():
    recipe = replace(SMALL, tuning=tuning.LinearThenFull())
    shapes = step_shapes(opened(recipe), recipe)
    assert shapes.phases == 2 and shapes.trainable == shapes.total
    assert any("2 phases" in note for note in notes_on(shapes))


def test_a_large_batch_is_counted_and_not_made(source):
    large = step_shapes(source, replace(SMALL, train=replace(SMALL.train, batch=2**30)))
    made = step_shapes(source, replace(SMALL, train=replace(SMALL.train, batch=32)))
    assert [(path, (2**30, *shape[1:]), kind) for path, shape, kind in made.batch] == list(large.batch)


def test_a_batch_is_raised_to_the_next_that_the_devices_share():
    recipe = config.assign_all(SMALL, {"train.accumulate": 2})
    sizes = {"data": 12, "fsdp": 2, "tensor": 4}
    assert raised(recipe, sizes).train.batch == 48
    assert raised(recipe, sizes, training=False).train.batch == 32
    assert raised(SMALL, {"data": 8, "fsdp": 2, "tensor": 1}) == SMALL


def planned(target="v5e:4x4", fits=True, examples=32, hours=(1.0, 2.0), **more):
    memory = dict.fromkeys(("parameters", "gradients", "activations"), 10**9)
    bound = {"compute": 1e-3, "memory": 2e-3, "interconnect": 0.0, "seconds": 2e-3, "limit": "memory"}
    return {
        "target": target, "chip": "TPU v5e", "chips": 16, "mesh": "data=16", "settings": {}, "changes": [],
        "batch": examples, "examples": examples, "fits": fits, "needed": 3 * 10**9, "usable": 16 * 10**9,
        "memory": memory, "steps": 10, "compile_seconds": 2.0, "notes": [], "flops": 1e9, "moved": 10**9,
        "collectives": {"all-reduce": 400}, "bound": bound, "hours": hours and list(hours), "kilowatt_hours": None,
        "dollars": [1.0, 2.0], **more,
    }  # fmt: skip


def test_the_best_of_a_sweep_fits():
    plans = [
        planned(examples=32, hours=(3.0, 6.0)),
        planned(examples=64, hours=(2.0, 4.0)),
        planned(examples=128, fits=False, hours=(1.0, 2.0)),
        {"target": "v5e:4x4", "settings": {}, "error": "a mesh does not divide"},
        planned("h100:8", fits=False),
    ]
    assert best(plans) == [
        {"target": "v5e:4x4", "largest": 1, "fastest_per_example": 1},
        {"target": "h100:8", "largest": None, "fastest_per_example": None},
    ]


def test_a_smaller_batch_is_not_faster_because_it_trains_with_fewer_examples():
    """All runs have 10 steps; the one with batch 64 needs less time per example and more in all."""
    plans = [planned(examples=32, hours=(1.0, 2.0)), planned(examples=64, hours=(1.5, 3.0), settings={"a": "64"})]
    plans += [planned(examples=128, hours=(3.5, 7.0), settings={"a": "128"})]
    (row,) = best(plans)
    assert (row["largest"], row["fastest_per_example"]) == (2, 1)
    document = {"name": "small", "utilisation": [0.2, 0.7], "plans": plans, "best": [row]}
    assert "the bound per example is lowest with a=64" in plan_page.draw(document)
    (line,) = best_lines(document)
    assert "the bound per example is lowest with a=64" in line


def test_a_page_of_errors_alone_has_their_reasons():
    plans = [{"target": "v5e:4x4", "settings": {"train.batch": "7"}, "error": "7 cannot be shared"}]
    drawn = plan_page.draw({"name": "small", "utilisation": [0.2, 0.7], "plans": plans, "best": best(plans)})
    assert "7 cannot be shared" in drawn and 'id="step"' not in drawn


def test_the_page_shows_every_plan_its_bytes_and_its_reason():
    unknown = dict.fromkeys(("flops", "moved", "collectives", "bound", "hours", "kilowatt_hours", "dollars"))
    plans = [
        planned(settings={"train.batch": "32"}),
        planned(settings={"train.batch": "<b>64</b>"}, fits=False, needed=30 * 10**9, **unknown),
        {"target": "v5e:4x4", "settings": {"train.batch": "7"}, "error": "7 cannot be shared"},
    ]
    drawn = plan_page.draw({"name": "small", "utilisation": [0.2, 0.7], "plans": plans, "best": best(plans)})
    assert "does not fit" in drawn and "7 cannot be shared" in drawn and "&lt;b&gt;64" in drawn
    figures = page.specification(drawn)
    bars = figures["memory"]["datasets"]["table"]
    assert sum(row["bytes"] for row in bars) == 2 * 3 * 10**9
    assert [row["bytes"] for row in figures["memory"]["datasets"]["limits"]] == [16 * 10**9] * 2
    assert {row["term"] for row in figures["bounds"]["datasets"]["table"]} == {"operations", "memory"}


def test_the_page_of_a_study_shows_its_totals():
    total = {"fits": True, "hours": [10.0, 20.0], "kilowatt_hours": None, "dollars": [3.0, 4.0]}
    target = {"target": "v5e:4x4", "chips": 16, "programs": [planned(runs=7)], "total": total}
    document = {"name": "labels", "question": "How many?", "runs": 7, "groups": 2, "programs": 1}
    drawn = plan_page.draw({**document, "utilisation": [0.2, 0.7], "targets": [target]})
    assert "7 runs in 2 groups on 16 chips" in drawn and "$3.00 – $4.00" in drawn
