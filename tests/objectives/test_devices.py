"""The division of a batch among devices changes no term."""

import jax
import numpy as np
import pytest

from tlx import Optim, models, partition, sharding, tasks, terms, tuning
from tlx.objectives import inserted, load_references, structures
from tlx.training.step import Parts, compile_step, initial_state, memories
from tlx.trees import flatten
from tlx.types import Setting

CNN = models.Cnn(size=4, widths=(4, 6), dense=None, dropout=0.2)


@pytest.fixture(scope="module")
def walked(mlp, tmp_path_factory):
    """Two steps of all terms at once, for each way to compile them."""
    folder = tmp_path_factory.mktemp("saved")
    mlp.save(folder / "source", CNN, 5, seed=8)
    mlp.save(folder / "teacher", CNN, 3, seed=9)
    pretrained, teacher = str(folder / "source"), str(folder / "teacher")
    objective = (
        terms.Supervised(weight=terms.Ramp(0.5, 1.0)), terms.L2SP(), terms.Delta(attention=True), terms.Bss(k=2),
        terms.CoTuning(source=pretrained), terms.Distill(teacher=teacher), terms.Lwf(), terms.LabelSmoothing(),
        terms.Distill(teacher=teacher, what="hidden"), terms.Mixup(), terms.CutMix(), terms.RDrop(), terms.Entropy(),
        terms.Mmd(), terms.Coral(weight=100.0), terms.Dann(width=4), terms.Mcc(), terms.Cmd(), terms.Afn(),
        terms.Cdan(width=4), terms.Gate(width=4, normalised=True), terms.Jmmd(), terms.Mdd(width=4),
        terms.Bsp(k=2, weight=1e-3), terms.Ot(label_cost=0.5, weight=0.01),
        terms.PseudoLabel(threshold=0.3), terms.FixMatch(threshold=0.3), terms.MeanTeacher(weight=10.0), terms.Shot(),
        terms.M3sda(sources=("source", "labelled")),
        terms.Mdan(sources=("source", "labelled"), width=4, share=1.0, reversal=0.5),
        terms.Iwan(width=4), terms.Pada(width=4), terms.Kmm(), terms.Kliep(),
    )  # fmt: skip
    model, batch = models.build(CNN, 3), mlp.labelled(CNN, rows=16)
    source, unlabelled = (mlp.labelled(CNN, rows=16, seed=seed) for seed in (2, 3))
    del unlabelled["label"]
    streams = {"labelled": batch, "source": source, "unlabelled": unlabelled}
    variables = jax.jit(lambda key: models.initialise(model, key))(jax.random.key(0))
    params, learn = inserted(objective, model, variables.params, jax.random.key(1))
    variables, task = variables._replace(params=params), tasks.Classification(classes=3)
    claimed = partition.partition(params, (*learn, *tuning.Full().phases(model)[0].rules))
    memory = memories(
        objective, Setting(model, variables, task, lambda stream: [batch], inputs=lambda stream: [streams[stream]])
    )
    assert all(np.ptp(memory[str(number)]["counts"]) > 0.1 for number in (-2 % len(objective), -1 % len(objective)))
    references = structures(load_references(objective, tuple(streams)))
    parts = Parts(model, task, objective, Optim("sgd", lr=0.1), claimed, ema=0.9, references=references)
    results = {}
    for how, devices in (("jit", 8), ("pmap", 8)):
        compiled = compile_step(parts, sharding.make_mesh(jax.devices()[:devices]), how)
        state = compiled.place(initial_state(parts, variables, 4, jax.random.key(3), memory))
        for _ in range(2):
            state, metrics = compiled.train(state, {name: compiled.put(value) for name, value in streams.items()})
        results[how, devices] = compiled.fetch(state), jax.device_get(metrics)
    return results


@pytest.mark.slow
def test_pmap_and_jit_agree(walked):
    (state, metrics), (full, recorded) = walked["pmap", 8], walked["jit", 8]
    assert recorded["bss/squares"] > 1e-4
    for name, value in recorded.items():
        assert np.isfinite(value).all(), name
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    actual = flatten(state.variables.params) | flatten(state.stats)
    for path, leaf in (flatten(full.variables.params) | flatten(full.stats)).items():
        np.testing.assert_allclose(actual[path], leaf, rtol=1e-4, atol=1e-5, err_msg=path)
