"""The contract between every tuning, every term and every architecture."""

import functools
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from tlx import Learn, Optim, models, partition, save_pretrained, tasks, terms, tuning
from tlx import optim as optimisers
from tlx.objectives import Preview, check_terms, inserted, load_references, structures
from tlx.training.checkpoint import Checkpoints, Saved
from tlx.training.step import Parts, initial_state, memories, train_step
from tlx.trees import flatten, map_named, nest
from tlx.tuning.base import parametric
from tlx.types import Setting, Variables
from tlx.updates import Alternating, Sum, in_turns
from tlx.weights import Manifest, Pretrained

# The classes of terms that the package exports.
EXPORTED = {
    name: kind for name in terms.__all__ if terms.Term in getattr(kind := getattr(terms, name), "__mro__", ())[1:]
}
CLASSES, BATCH = 3, 4


class Net(linen.Module):
    """A user-defined module."""

    @linen.compact
    def __call__(self, x, train=False):
        x = linen.Dropout(0.5, deterministic=not train)(linen.relu(linen.Dense(4)(x)))
        return linen.Dense(CLASSES)(x)


TEXT = {"vocabulary": 11, "width": 4, "depth": 1, "heads": 2, "mlp": 4, "positions": 8}
MODELS = {
    "bert": models.Bert(**TEXT),
    "vit": models.Vit(size=4, patch=2, channels=1, width=4, depth=1, heads=2, mlp=4, dropout=0.1),
    "cnn": models.Cnn(size=4, widths=(2, 2), dense=4),
    "mlp": models.Mlp(inputs=(4, 4, 1), widths=(3, 3), activation="tanh", dropout=0.5),
    "linen": models.Linen(module=Net(), shape=(16,), input="x"),
}
# The dense layers of each model, where LoRA and similar tunings may be inserted.
ON = {"cnn": "pool", "mlp": r"stem|blocks/\d+"}
# Some of these insert into convolutions, too.
CONVOLUTIONS = ON | {"cnn": r"pool|blocks/\d+"}
DENSE = r".*/attention/(query|value)"
TUNINGS = {
    "Full": lambda name, stages: tuning.Full(decay=0.5),
    "Probe": lambda name, stages: tuning.Probe(),
    "Freeze": lambda name, stages: tuning.Freeze(through=stages[0], decay=0.5),
    "Rules": lambda name, stages: tuning.Rules((r".*/bias", None), (r".*", Learn(lr=0.5, weight_decay=0.1))),
    "Lora": lambda name, stages: tuning.Lora(rank=2, on=CONVOLUTIONS.get(name, DENSE), dropout=0.5, plus=4.0),
    "Dora": lambda name, stages: tuning.Dora(rank=1, on=ON.get(name, DENSE), rank_stabilised=True),
    "Vera": lambda name, stages: tuning.Vera(rank=3, on=ON.get(name, DENSE)),
    "Ia3": lambda name, stages: tuning.Ia3(
        on=CONVOLUTIONS.get(name, DENSE), inputs=CONVOLUTIONS.get(name, r".*/mlp/down")
    ),
    "BitFit": lambda name, stages: tuning.BitFit(),
    "NormTuning": lambda name, stages: tuning.NormTuning(),
    "AdaBN": lambda name, stages: tuning.AdaBN(),
    "Adapter": lambda name, stages: tuning.Adapter(width=2, placement="houlsby"),
    "Prefix": lambda name, stages: tuning.Prefix(tokens=2),
    "Prompt": lambda name, stages: tuning.Prompt(tokens=2),
    "SideHead": lambda name, stages: tuning.SideHead(),
    "Bottleneck": lambda name, stages: tuning.Bottleneck(width=3),
    "Gradual": lambda name, stages: tuning.Gradual(last=0.5),
    "LinearThenFull": lambda name, stages: tuning.LinearThenFull(decay=0.5),
    "FineTune": lambda name, stages: tuning.FineTune(),
    "Episodes": lambda name, stages: tuning.Episodes(episodes=min(2, len(stages))),
    "InTurn": lambda name, stages: tuning.InTurn((0.5, TUNINGS["Lora"](name, stages)), (0.5, tuning.Full())),
}
# The combinations that a tuning refuses, with the reason.
REFUSED = {
    ("linen", "Probe"): "a stage below the head",
    ("linen", "BitFit"): "a stage below the head",
    ("linen", "LinearThenFull"): "a stage below the head",
    ("linen", "FineTune"): "a stage below the head",
    ("linen", "Freeze"): "freezes all parameters",
    ("cnn", "Adapter"): "requires transformer blocks",
    ("cnn", "Prefix"): "requires transformer blocks",
    ("cnn", "Prompt"): "a model that reads tokens",
    ("mlp", "Adapter"): "requires transformer blocks",
    ("mlp", "Prefix"): "requires transformer blocks",
    ("mlp", "Prompt"): "a model that reads tokens",
    ("mlp", "NormTuning"): "requires norm layers",
    ("linen", "NormTuning"): "requires norm layers",
    **{(name, "AdaBN"): "requires batch norm" for name in ("bert", "vit", "mlp", "linen")},
} | {
    ("linen", how): "which a bridged module (Linen) does not read"
    for how in ("Lora", "Dora", "Vera", "Ia3", "Adapter", "Prefix", "Prompt", "SideHead", "Bottleneck", "InTurn")
}
PAIRS = [pair for pair in itertools.product(MODELS, TUNINGS) if pair not in REFUSED]


TRANSFORMERS = ("bert", "vit")


def spread(pairs):
    """Test every tuning or term with one of the models that accept it, in turn; the slow tests use all models.

    Transformers compile longest, so they test what no other model accepts.
    """
    quick = [pair for pair in pairs if pair[0] != "bert" or pair[1] not in ELSEWHERE]
    names = {other: [name for name, value in quick if value == other] for _, other in quick}
    names = {other: [name for name in value if name not in TRANSFORMERS] or value for other, value in names.items()}
    near = {(value[n % len(value)], other) for n, (other, value) in enumerate(names.items())}
    return [pytest.param(*pair, marks=[] if pair in near else [pytest.mark.slow]) for pair in pairs]


@functools.cache
def initial(name):
    return jax.jit(partial(models.initialise, models.build(MODELS[name], CLASSES)))(jax.random.key(0))


def begin(name, how):
    """Return the model, the tuning, and the variables with its inserted parameters."""
    model = models.build(MODELS[name], CLASSES)
    way = TUNINGS[how](name, parametric(model))
    variables = initial(name)
    return model, way, variables._replace(params=way.insert(model, variables.params, jax.random.key(1)))


# Every term, given the folder of saved models; a source has CLASSES + 2 classes, like a teacher of another task.
BETWEEN = {"width": 4, "reversal": 0.5}
SEVERAL = ("source", "labelled")
PLAIN = (
    terms.Supervised(), terms.L2SP(), terms.Delta(), terms.Bss(k=3, weight=1.0), terms.Lwf(), terms.LabelSmoothing(),
    terms.Mixup(), terms.CutMix(), terms.RDrop(), terms.Entropy(), terms.Mmd(), terms.Coral(weight=1e4),
    terms.Dann(**BETWEEN), terms.Mcc(weight=1e4), terms.Cmd(weight=100.0), terms.Afn(weight=1.0), terms.Cdan(**BETWEEN),
    terms.Gate(**BETWEEN), terms.Jmmd(), terms.Mdd(**BETWEEN), terms.Bsp(weight=1.0),
    terms.Ot(weight=1.0, label_cost=0.5), terms.Mcd(repeats=1), terms.Adda(width=4), terms.PseudoLabel(threshold=0.0),
    terms.FixMatch(threshold=0.0), terms.MeanTeacher(weight=100.0), terms.Shot(), terms.M3sda(sources=SEVERAL),
    terms.Mdan(sources=SEVERAL, share=1.0, **BETWEEN), terms.Iwan(**BETWEEN), terms.Pada(**BETWEEN), terms.Kmm(),
    terms.Kliep(),
)  # fmt: skip
MAKE = {type(term).__name__: lambda at, term=term: term for term in PLAIN} | {
    "CoTuning": lambda at: terms.CoTuning(source=f"{at}/source"),
    "Distill": lambda at: terms.Distill(teacher=f"{at}/teacher"),
}
# An objective has one of these, under an update that takes its turns.
TURNS = ("Mcd", "Adda")
# Terms that read further streams; the batches of these streams update the running statistics too.
ELSEWHERE = (
    "Mmd", "Coral", "Dann", "Mcc", "Cmd", "Afn", "Cdan", "Gate", "Jmmd", "Mdd", "Bsp", "Ot", "PseudoLabel", "FixMatch",
    "MeanTeacher", "Shot", "M3sda", "Mdan", "Iwan", "Pada", "Kmm", "Kliep",
)  # fmt: skip
# Terms that read the input of the head.
FEATURES = (
    "Bss", "Mmd", "Coral", "Dann", "Cmd", "Afn", "Cdan", "Gate", "Jmmd", "Mdd", "Bsp", "Ot", "Adda", "M3sda", "Mdan",
    "Iwan", "Pada", "Kmm", "Kliep",
)  # fmt: skip
# The settings that a term refuses, with the reason.
REFUSED_TERMS = {
    ("bert", "Mixup"): "Mixup needs a model that reads 'image'; this model reads 'input_ids'",
    ("bert", "CutMix"): "CutMix needs a model that reads 'image'; this model reads 'input_ids'",
    ("linen", "Mixup"): "Mixup needs a model that reads 'image'; this model reads 'x'",
    ("linen", "CutMix"): "CutMix needs a model that reads 'image'; this model reads 'x'",
    ("linen", "Delta"): "Delta needs a stage with a hidden state; this model has ['module']",
    ("linen", "CoTuning"): "CoTuning needs a head on a stage below it; this model has ['module']",
    ("linen", "FixMatch"): "FixMatch needs a model that reads 'image' or 'input_ids'; this model reads 'x'",
    ("linen", "Shot"): "Shot needs a head on a stage below it; this model has ['module']",
    ("linen", "Lwf"): "Lwf needs a head on a stage below it; this model has ['module']",
    ("linen", "Mcd"): "Mcd needs a head on a stage below it; this model has ['module']",
} | {("linen", name): "the model returns neither 'pooled' nor 'hidden'" for name in FEATURES}
TERM_PAIRS = [pair for pair in itertools.product(MODELS, MAKE) if pair not in REFUSED_TERMS]
# Terms between streams do not depend on the blocks, so one transformer is enough.
STEPPED = [pair for pair in TERM_PAIRS if pair[0] != "vit" or pair[1] not in ELSEWHERE]
SUMMED = [pair for pair in STEPPED if pair[1] not in TURNS]
IN_TURNS = [pair for pair in STEPPED if pair[1] in TURNS]
# Tunings with only the head trainable in the first phase: a turn of the other parameters would move nothing.
HEAD_FIRST = ("Probe", "SideHead", "Bottleneck", "Gradual", "LinearThenFull", "FineTune")


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """For each model, a folder with a `source` and a `teacher`.

    A model that cannot be saved uses another with the same input.
    """
    folder = tmp_path_factory.mktemp("saved")
    for name, settings in MODELS.items():
        value = models.Mlp(inputs=(16,), widths=(3,), input="x") if name == "linen" else settings
        for kind, classes in (("source", CLASSES + 2), ("teacher", CLASSES)):
            built, random = models.build(value, classes), np.random.default_rng(classes)

            def random_leaf(path, leaf, random=random):
                return random.uniform(-0.5, 0.5, leaf.shape).astype(np.float32) + ("variance" in path)

            variables = Variables(map_named(random_leaf, built.params), map_named(random_leaf, built.stats))
            task = tasks.Classification(classes=classes)
            save_pretrained(Pretrained(built, variables, None, Manifest("", {}, ()), task), folder / name / kind)
    return folder


STREAMS = ("labelled", "source", "unlabelled")


def batch(name):
    actual = {"labelled": stream(name, 0), "source": stream(name, 1), "unlabelled": stream(name, 2)}
    del actual["unlabelled"]["label"]
    return actual


def stream(name, seed):
    random = np.random.default_rng(seed)
    inputs = {
        "bert": {
            "input_ids": random.integers(1, 11, (BATCH, 5)).astype(np.int32),
            "attention_mask": np.ones((BATCH, 5), np.int32),
        },
        "linen": {"x": random.normal(size=(BATCH, 16)).astype(np.float32)},
    }.get(name, {"image": random.normal(size=(BATCH, 4, 4, 1)).astype(np.float32)})
    labels = random.integers(0, CLASSES, BATCH).astype(np.int32)
    return inputs | {"label": labels, "index": np.arange(BATCH, dtype=np.int32)}


def build_step(name, how, objective, optim=Optim(lr=0.1)):
    """Return the static half of a step and its initial state, as a run builds them."""
    model, way, variables = begin(name, how)
    params, learn = inserted(objective, model, variables.params, jax.random.key(1))
    variables = variables._replace(params=params)
    (phase, *_) = way.phases(model)
    turns = tuple(turn for term in objective for turn in term.turns(model))
    update = Alternating() if turns else Sum()
    [claimed] = in_turns(update, objective, model, [partition.partition(params, (*learn, *phase.rules))])
    layout = optimisers.layout(model, [claimed], turns=turns)
    references = structures(load_references(objective, STREAMS))
    task, ema = (
        tasks.Classification(classes=CLASSES),
        0.9 if any(term.needs(STREAMS).average for term in objective) else None,
    )
    parts = Parts(model, task, objective, optim, claimed, update=update, layout=layout, ema=ema, references=references)
    moving = frozenset(path for path, value in claimed.items() if value is not None)

    def batches_of(stream):
        return [batch(name)[stream]]

    memory = memories(objective, Setting(model, variables, parts.task, batches_of, trainable=moving, inputs=batches_of))
    return parts, initial_state(parts, variables, 2, jax.random.key(3), memory)


# These programs run for a moment only, so compiling them quickly is faster overall.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def compiled(parts):
    return jax.jit(partial(train_step, parts), donate_argnums=0, compiler_options=QUICK)


def walk(name, train, start):
    """Return the state after two steps; their losses must be finite."""
    state = jax.tree.map(jnp.copy, start)
    for _ in range(2):
        state, metrics = train(state, batch(name))
        assert np.isfinite(float(metrics["loss"]))
    return state


def as_in_checkpoint(state):
    """Return a state with its key as numbers, as in a checkpoint."""
    return state._replace(key=jax.random.key_data(state.key))._asdict()


def test_everything_in_the_tables_is_tested():
    kinds = [getattr(tuning, name) for name in tuning.__all__ if name[0].isupper()]
    assert TUNINGS.keys() == {kind.__name__ for kind in kinds if issubclass(kind, tuning.Tuning)} - {"Tuning"}
    assert MAKE.keys() == EXPORTED.keys()
    assert set(TURNS) == {name for name, kind in EXPORTED.items() if kind.turns is not terms.Term.turns}
    # Nnx is one stage on the bridge of Linen and refuses the same; models/test_bridge.py tests its steps. The layers of
    # the larger networks are those of the small network, Cnn, of Bert and of Vit.
    larger = {models.ResNet, models.BiT, models.ConvNeXt, models.Swin}
    larger |= {models.Vgg, models.AlexNet, models.DenseNet, models.InceptionV3}
    larger |= {models.DebertaV2, models.MPNet, models.ModernBert, models.Albert, models.T5, models.Bart}
    larger |= {models.Gpt2, models.Llama}
    larger |= {models.EfficientNet, models.MobileNetV2, models.MobileNetV3}
    assert {type(settings) for settings in MODELS.values()} == {*models.architectures()} - {models.Nnx} - larger


# Terms that read or add parameters without a separate forward pass: their steps compile quickly.
CLOSE = ("Supervised", "L2SP", "CoTuning")
# The other terms, in turn for each model and tuning; the complete product is traced below.
OTHERS = tuple(name for name in MAKE if name not in (*TURNS, *CLOSE))
PARTS = 6


@pytest.mark.parametrize("more", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["close", "more"])
@pytest.mark.parametrize(("name", "how"), spread(PAIRS))
def test_two_steps_of_many_terms_at_once(name, how, more, saved, tmp_path):
    together = (*CLOSE, *(OTHERS[PAIRS.index((name, how)) % PARTS :: PARTS] if more else ()))
    objective = tuple(MAKE[term](saved / name) for term in together if (name, term) not in REFUSED_TERMS)
    parts, start = build_step(name, how, objective)
    final = walk(name, compiled(parts), start)

    before, after = flatten(start.variables.params), flatten(final.variables.params)
    assert before.keys() == after.keys() == parts.partition.keys()
    moved = {path for path in before if not np.array_equal(before[path], after[path])}
    assert moved and not moved & {path for path, learn in parts.partition.items() if learn is None}
    # AdamW has two moments per trainable number and a count, and nothing for frozen parameters.
    learning = sum(leaf.size for leaf in jax.tree.leaves(start.trainable))
    assert learning == sum(before[path].size for path, learn in parts.partition.items() if learn is not None)
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(start.optimiser)) == 8 * learning + 4
    # Parameters added by a term are trainable for every tuning.
    assert name == "linen" or "cotuning" in {path.split("/")[0] for path in moved}
    jax.tree.map(np.testing.assert_array_equal, start.memory, final.memory)

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(2, Saved(as_in_checkpoint(final), {}, {"best": False}))
    checkpoints.wait()
    second = checkpoints.restore(as_in_checkpoint(start), {}).state
    checkpoints.close()
    assert jax.tree.structure(second) == jax.tree.structure(as_in_checkpoint(final))
    jax.tree.map(np.testing.assert_array_equal, second, as_in_checkpoint(final))


# Changes that give a term the weight zero.
NOTHING = {kind: {"weight": 0.0} for kind in EXPORTED.values()} | {terms.L2SP: {"weight": 0.0, "head": 0.0}}


@functools.cache
def alone(name):
    """Run two steps of the supervised loss alone."""
    parts, start = build_step(name, "Full", (terms.Supervised(),), Optim("sgd", lr=0.1))
    return walk(name, compiled(parts), start)


@pytest.mark.parametrize(("name", "term"), spread(SUMMED))
def test_two_steps_of_each_term_and_a_weight_of_0_equals_leaving_it_out(name, term, saved):
    elsewhere = term in ELSEWHERE
    term = MAKE[term](saved / name)
    parts, start = build_step(name, "Full", (terms.Supervised(), term), Optim("sgd", lr=0.1))
    train = compiled(parts)
    # A weight is an array of the state: one program serves both.
    weightless = start.numbers["terms"] | {"1": start.numbers["terms"]["1"] | NOTHING[type(term)]}
    with_it = walk(name, train, start)
    without = walk(name, train, start._replace(numbers=start.numbers | {"terms": weightless}))
    expected = alone(name)
    actual = flatten(without.variables.params)
    for path, leaf in flatten(expected.variables.params).items():
        np.testing.assert_allclose(actual[path], leaf, rtol=1e-6, atol=1e-6, err_msg=path)
    for path, leaf in flatten({} if elsewhere else expected.stats).items():
        np.testing.assert_allclose(flatten(without.stats)[path], leaf, rtol=1e-6, atol=1e-6, err_msg=path)
    heard = flatten(with_it.variables.params)
    assert any(not np.allclose(heard[path], leaf, rtol=1e-6, atol=1e-7) for path, leaf in actual.items())


@pytest.mark.parametrize(("name", "term"), spread(IN_TURNS))
def test_two_steps_of_a_term_that_takes_turns(name, term, saved):
    parts, start = build_step(name, "Full", (terms.Supervised(), MAKE[term](saved / name)))
    final = walk(name, compiled(parts), start)
    before, after = flatten(start.variables.params), flatten(final.variables.params)
    moved = {path for path in before if not np.array_equal(before[path], after[path])}
    # The bias of a key has no gradient except rounding, which plain arithmetic may leave at 0.
    assert moved | {path for path in before if path.endswith("key/bias")} >= set(parts.learning) >= moved
    assert term.lower() in {path.split("/")[0] for path in moved}
    learning = sum(leaf.size for leaf in jax.tree.leaves(start.trainable))
    # One count for each of the two groups of parameters that move together.
    assert len(start.optimiser) == 2
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(start.optimiser)) == 8 * learning + 4 * 2
    jax.tree.map(np.testing.assert_array_equal, start.memory, final.memory)


@pytest.mark.slow
@pytest.mark.parametrize("some", [*(OTHERS[n::PARTS] for n in range(PARTS)), *zip(TURNS)], ids="-".join)
@pytest.mark.parametrize("name", ["bert", "cnn", "linen"])
def test_every_term_is_traced_with_every_tuning(name, some, saved):
    inputs = tuple(MAKE[term](saved / name) for term in some if (name, term) not in REFUSED_TERMS)
    for how in TUNINGS if inputs else ():
        if (name, how) in REFUSED:
            continue
        objective = (terms.Supervised(), *inputs)
        if some[0] in TURNS and how in HEAD_FIRST:
            with pytest.raises(ValueError, match="but the tuning freezes all these parameters"):
                build_step(name, how, objective)
            continue
        parts, start = build_step(name, how, objective)
        state, metrics = jax.eval_shape(partial(train_step, parts), start, batch(name))
        assert metrics["loss"].shape == ()
        assert jax.tree.structure(state) == jax.tree.structure(start)


@pytest.mark.parametrize(("name", "term"), REFUSED_TERMS)
def test_unsupported_terms_are_refused(name, term, saved):
    model = models.build(MODELS[name], CLASSES)
    with pytest.raises(ValueError) as error:
        check_terms(
            (MAKE[term](saved / name),), Preview(model, model.params, tasks.Classification(classes=CLASSES), STREAMS)
        )
    assert REFUSED_TERMS[name, term] in str(error.value)


@pytest.mark.parametrize(("name", "how"), REFUSED)
def test_invalid_combinations_are_refused(name, how):
    with pytest.raises(ValueError) as error:
        begin(name, how)[1].phases(models.build(MODELS[name], CLASSES))
    assert REFUSED[name, how] in str(error.value)


ADDED = [pair for pair in PAIRS if getattr(tuning, pair[1]).insert is not tuning.Tuning.insert]


@pytest.mark.parametrize(("name", "how"), spread(ADDED))
def test_inserted_parameters_start_as_the_identity_and_affect_the_logits(name, how):
    """Prompt and Prefix add tokens, which change the logits at once; everything else starts as the identity."""
    model = models.build(MODELS[name], CLASSES)
    way, random = TUNINGS[how](name, parametric(model)), np.random.default_rng(0)
    plain = initial(name)
    # Large weights, because small weights would hide a parameter without effect.
    plain = plain._replace(
        params=jax.tree.map(lambda leaf: np.asarray(leaf) + random.normal(size=leaf.shape).astype("f4"), plain.params)
    )
    variables = plain._replace(params=way.insert(model, plain.params, jax.random.key(1)))
    inputs = {name: array for name, array in batch(name)["labelled"].items() if name not in ("label", "index")}

    @jax.jit
    def logits(params):
        return models.forward(model, plain._replace(params=params), inputs)[0]["logits"]

    before, after = logits(plain.params), logits(variables.params)
    if how not in ("Prefix", "Prompt"):
        np.testing.assert_allclose(before, after, rtol=0, atol=1e-6)
    new = flatten(variables.params).keys() - flatten(plain.params).keys()
    # Away from the initial values, every trainable parameter affects the logits.
    leaves = flatten(variables.params)
    for path in sorted(new):
        leaves[path] = np.asarray(leaves[path]) + random.normal(scale=0.5, size=leaves[path].shape).astype("f4")
    params = nest(leaves)
    assert not np.allclose(logits(params), after, atol=1e-4)
    actual = flatten(jax.jit(jax.grad(lambda params: (logits(params) ** 2).sum()))(params))
    claimed = partition.partition(variables.params, way.phases(model)[0].rules)
    deaf = [path for path in new if claimed[path] is not None and not np.abs(actual[path]).max() > 0]
    assert not deaf
