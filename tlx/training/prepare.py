"""Prepare a recipe for training: open data, build the model, load weights, insert leaves, divide into phases."""

import dataclasses
import itertools
import zlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from tlx import config, models, objectives, optim, partition, updates, weights
from tlx.data import Splits, load, train_batches
from tlx.functional.selection import CRITERIA, read_by
from tlx.optim import Optim
from tlx.optim.hyperparameters import hyperparameters
from tlx.partition import Partition
from tlx.processors.columns import LABEL
from tlx.recipe import Recipe, check_select
from tlx.tasks import Task
from tlx.tasks.writing import check_writing
from tlx.training import precision
from tlx.training.precision import Precision, fixed_kernels, looked_up, on_grid
from tlx.training.pretrained import drawn, fitted, notes_on, pretrained_model, redrawn, same_weights
from tlx.training.shares import shared
from tlx.training.step import Parts
from tlx.training.tuning_checks import check_shares, check_statistics, check_tuning
from tlx.trees import Tree, flatten, near_miss
from tlx.tuning import merging
from tlx.types import Field, Key, Model, Phase, Turn, Variables
from tlx.weights import Manifest


class Prepared(NamedTuple):
    """A prepared recipe: the model with its variables, and a partition for each of its `phases`. `pretrained` are the
    variables before a tuning or a term added any, `term_notes` the notes of the run on its terms and processor,
    `references` the structures of the models that the terms load, `stored_processor` the processor of the weights
    before it was fitted to the data."""

    recipe: Recipe
    task: Task
    model: Model
    variables: Variables
    processor: Any
    manifest: Manifest
    phases: tuple[Phase, ...]
    partitions: tuple[Partition, ...]
    pretrained: Variables
    term_notes: tuple[str, ...] = ()
    references: Mapping[str, Model] = MappingProxyType({})
    stored_processor: Any = None

    @property
    def trainable(self) -> frozenset[str]:
        """Return the paths of the parameters that learn in some phase."""
        return frozenset(path for parts in self.partitions for path, learn in parts.items() if learn is not None)

    @property
    def new(self) -> frozenset[str]:
        """Return the paths of the model's own parameters that no checkpoint holds."""
        return new_paths(self.recipe, self.model, self.manifest)

    @property
    def notes(self) -> list[str]:
        """Return notes on the initial head and pooler (drawn at random, reordered by class name, or kept although the
        class names cannot be compared) and those of the terms."""
        return [*weights.sentences(self.model, self.manifest.entries, self.trainable), *self.term_notes]

    @property
    def streams(self) -> list[str]:
        """Return the streams of the data that a step gets a batch of: those that some term reads."""
        return objectives.batch_streams(self.recipe.objective, self.recipe.data.stream_names)

    @property
    def targets(self) -> Task | None:
        """Return the task where it computes label arrays; None where the label of an example is its label array."""
        overrides = type(self.task).targets is not Task.targets
        fields = self.task.fields()
        plain = fields.keys() == {"label"} and not fields["label"].shape
        return None if plain and not overrides else self.task

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Return the moves of one step, where it has several."""
        return tuple(turn for term in self.recipe.objective for turn in term.turns(self.model))

    def parts(self, phase: int) -> Parts:
        """Return the static half of the step of one phase."""
        recipe = self.recipe
        return Parts(
            self.model,
            self.task,
            recipe.objective,
            self.optim(phase),
            self.partitions[phase],
            recipe.train.dtype,
            update=recipe.update,
            layout=optim.layout(self.model, self.partitions, phase, self.turns),
            accumulate=recipe.train.accumulate,
            ema=recipe.train.ema,
            remat=recipe.train.remat,
            features=any(CRITERIA[name].features for name in recipe.train.measured),
            joint=recipe.train.statistics == "joint",
            fixed_statistics=recipe.train.fixed_statistics,
            padded=recipe.tuning.padded,
            streams=tuple(self.streams),
            references=self.references,
            gather=None if self.precision.is_plain else self.precision.gather,
            precision=self.precision,
        )

    @property
    def precision(self) -> Precision:
        """Return the types of the parameters of a step."""
        train = self.recipe.train
        fixed = fixed_kernels(self.model, self.trainable)
        return Precision(train.parameter_dtype, train.frozen_dtype, fixed, looked_up(self.model))

    def optim(self, phase: int) -> Optim:
        """Return the recipe's optimiser with the numbers of one phase."""
        return changed(self.recipe.optim, self.phases[phase])


def open_data(recipe: Recipe, test: bool = True) -> Splits:
    """Open the splits of the recipe's data.

    The subset is drawn with the recipe's seed unless the data have a seed. Streams that no term reads are left out;
    those that a term reads once, before the first step, are in `looked`.

    Args:
        recipe: The recipe.
        test: False seals the test split.

    Raises:
        ValueError: The terms do not fit the streams or the task; raised before anything is opened.
    """
    check_objective(recipe)
    splits = load(recipe.data, recipe.seed, test, read_by(recipe.train.measured))
    streams = tuple(splits.streams)
    read = objectives.batch_streams(recipe.objective, streams)
    looked = objectives.read_once(recipe.objective, streams) & splits.streams.keys() - set(read)
    return dataclasses.replace(
        splits,
        streams={name: splits.streams[name] for name in read},
        looked={name: splits.streams[name] for name in sorted(looked)},
    )


def prepare(
    recipe: Recipe, splits: Splits | None = None, like: Prepared | None = None, mesh: Mesh | None = None
) -> Prepared:
    """Prepare everything except the data.

    Args:
        recipe: The recipe.
        splits: The data, where open; they set the classes and the processor.
        like: Another prepared recipe; its weights are shared, without a copy, where this recipe loads the same.
        mesh: The devices that train; where they cut the parameters, no host gets all of them (see `load_pretrained`).

    Raises:
        ValueError, TypeError: The parts of the recipe do not fit together; raised before anything is compiled.
    """
    check_objective(recipe)
    task = recipe.task if splits is None else task_of(recipe, splits)
    task.head()
    if recipe.weights is None:
        assert recipe.model is not None
        model = models.build(recipe.model, task.head())
        processor, manifest = None, Manifest("from scratch", {}, ())
        term_notes, references = check_fit(recipe, model, task, manifest, model.params)
        variables = drawn(model, recipe.seed, mesh)
    elif like is not None and same_weights(recipe, task, like):
        model, processor, manifest = like.model, like.stored_processor, like.manifest
        variables = redrawn(like, recipe.seed)
    else:
        model, variables, processor, manifest, _ = pretrained_model(recipe, task, mesh)
    if recipe.weights is not None:
        term_notes, references = check_fit(recipe, model, task, manifest, variables.params)
    pretrained, stored_processor = variables, processor
    term_notes += notes_on(recipe, stored_processor)
    if splits is not None:
        processor = task.reader(fitted(recipe, splits, model, processor))
        task = task.suited(model, processor)
    key = jax.random.fold_in(jax.random.key(recipe.seed), 1)
    params = recipe.tuning.insert(model, variables.params, key)
    model = merging(model, recipe.tuning)
    params, learn = objectives.inserted(recipe.objective, model, params, key)
    models.check_tokens(model, params, max(recipe.data.lengths))
    phases = tuple(phase._replace(rules=(*learn, *phase.rules)) for phase in recipe.tuning.phases(model))
    check_shares(phases)
    claimed = [partition.partition(params, phase.rules) for phase in phases]
    partitions = updates.in_turns(recipe.update, recipe.objective, model, claimed)
    for number, phase in enumerate(phases):
        changed(recipe.optim, phase)
        optim.layout(model, partitions, number)
    ready = Prepared(
        recipe,
        task,
        model,
        Variables(params, variables.stats),
        processor,
        manifest,
        phases,
        partitions,
        pretrained,
        term_notes,
        references,
        stored_processor,
    )
    return ready if recipe.train.frozen_dtype is None else on_its_grid(ready, key)


def on_its_grid(ready: Prepared, key: Key) -> Prepared:
    """Return the prepared recipe with the frozen base that its numbers of 8 bits mean, and with leaves that are
    inserted into this base."""
    recipe, model = ready.recipe, ready.model
    base = on_grid(ready.pretrained.params, ready.precision.fixed)
    params = recipe.tuning.insert(model, base, key)
    params, _ = objectives.inserted(recipe.objective, model, params, key)
    return ready._replace(variables=ready.variables._replace(params=params))


def task_of(recipe: Recipe, splits: Splits) -> Task:
    """Return the recipe's task with everything that follows from its data.

    Raises:
        ValueError: The data do not fit the task or the sampling, or the task does not measure the metric of
            `train.select` on these classes.
    """
    if LABEL not in splits.columns and not recipe.task.self_supervised:
        raise ValueError(
            f"the data have the columns {', '.join(splits.columns)}; expected a column {LABEL!r} with the target value"
        )
    kind = splits.columns[LABEL].kind if LABEL in splits.columns else "missing"
    if recipe.data.sampling == "balanced" and kind != "class":
        raise ValueError(
            f"data.sampling is 'balanced', but the label of {recipe.data.target!r} is a {kind}; expected one class for "
            "each example"
        )
    task: Task = recipe.task.resolve(splits.columns).fitted(training_labels(splits))
    task = task.at_length(recipe.data.tokens)
    check_select(recipe.train.select, task)
    return task


def training_labels(splits: Splits) -> Iterator[Any]:
    """Yield the label of each labelled training example, as the data have it; none if no example has one."""
    if not any(examples.labelled for examples in splits.streams.values()):
        return
    examples = splits.labelled
    if examples.scalar:
        yield from examples.labels().tolist()
        return
    for position in range(len(examples)):
        yield examples.light(position)[LABEL]


def check_objective(recipe: Recipe) -> None:
    """Raise the errors of the terms that the recipe alone shows, before data or weights are opened."""
    config.check(recipe)
    objectives.check_needs(recipe.objective, recipe.data.stream_names, recipe.task)


def check_fit(
    recipe: Recipe, model: Model, task: Task, manifest: Manifest, params: Tree
) -> tuple[tuple[str, ...], dict[str, Model]]:
    """Check the tuning, the update and the terms on the shapes of the model, before anything is drawn or compiled.

    Args:
        recipe: the recipe.
        model: the model.
        task: the task, with its classes.
        manifest: where the parameters come from.
        params: the parameters of the model, or only what it declares of them.

    Returns:
        The notes of the run on its terms, and the structures of the models that they load.

    Raises:
        ValueError: something does not fit the model.
    """
    terms, streams = recipe.objective, tuple(recipe.data.stream_names)
    taker = updates.taker_of(recipe.update, terms, model)
    shapes, trainable = check_tuning(recipe.tuning, model, params)
    check_statistics(recipe.train.fixed_statistics, model)
    precision.check(recipe.train.frozen_dtype, recipe.tuning, model, trainable)
    if taker is not None:
        trainable = {path for path in trainable if path.startswith(tuple(p for turn in taker[1] for p in turn.moves))}
    references = objectives.load_references(terms, streams)
    preview = objectives.Preview(model, shapes, task, streams, new_paths(recipe, model, manifest), references)
    objectives.check_terms(terms, preview)
    objectives.check_frozen_head(terms, model, trainable, streams)
    notes = tuple(note for term in terms for note in term.notes(preview)) + check_writing(task, model, shapes)
    return notes, objectives.structures(references)


def new_paths(recipe: Recipe, model: Model, manifest: Manifest) -> frozenset[str]:
    """Return the paths of the model's own parameters that no checkpoint holds."""
    if recipe.weights is None:
        return frozenset(flatten(model.params))
    return frozenset(entry.path for entry in manifest.entries if entry.action == "reset")


def changed(whole: Optim, phase: Phase) -> Optim:
    """Return the optimiser with the numbers of one phase; raise ValueError for a number that it does not have."""
    numbers = hyperparameters(whole)
    if unknown := [name for name, _ in phase.optim if name not in numbers]:
        raise ValueError(
            f"a phase changes optim.{unknown[0]}, which is not a numeric setting{near_miss(unknown[0], numbers)}"
        )
    return config.replace(whole, **dict(phase.optim))


def training_batches(
    ready: Prepared,
    splits: Splits,
    readers: Mapping[str, Any] | None = None,
    first: int = 0,
    mesh: Mesh | None = None,
) -> Iterator[dict[str, Any]]:
    """Return the endless iterator of the recipe's training batches, this process's share of each (see `tlx.data`).

    Args:
        ready: The prepared recipe.
        splits: Its data.
        readers: The readers of the streams; by default the recipe's processor.
        first: The step of the first batch.
        mesh: The devices that share each batch, those of several processes; by default this process reads all rows.

    Returns:
        By step a dict of batches by stream.
    """
    recipe, by_stream = ready.recipe, {}
    for name, examples in splits.streams.items():
        by_stream[name] = train_batches(
            examples,
            readers[name] if readers else ready.processor,
            batch=recipe.batch_of(name),
            seed=stream_seed(recipe, name),
            buckets=recipe.data.lengths,
            group=recipe.data.group,
            augment=recipe.data.augment,
            views=recipe.data.views,
            first=first,
            **shared(mesh, recipe.batch_of(name)),
            targets=ready.targets,
            draws=len(examples) if recipe.train.steps is None else recipe.train.steps * recipe.batch_of(name),
            sampling=recipe.data.sampling,
        )
    fields = {**ready.processor.fields, **(ready.targets.fields() if ready.targets is not None else {})}
    return (levelled({name: next(batches) for name, batches in by_stream.items()}, fields) for _ in itertools.count())


def levelled(batches: dict[str, dict[str, Any]], fields: Mapping[str, Field]) -> dict[str, dict[str, Any]]:
    """Pad batches of ragged examples to one length with the padding of their fields, because otherwise each combination
    of the streams' lengths would need its own program."""
    if len(batches) == 1:
        return batches
    longest: dict[Any, int] = {}
    for path, array in (item for batch in batches.values() for item in jax.tree.leaves_with_path(batch)):
        if array.ndim > 1:
            longest[path] = max(longest.get(path, 0), array.shape[1])

    def padded(path: Any, array: np.ndarray) -> np.ndarray:
        missing = longest[path] - array.shape[1] if array.ndim > 1 else 0
        wide = [(0, 0), (0, missing)] + [(0, 0)] * (array.ndim - 2)
        name = path[0].key if len(path) == 1 else ""
        return np.pad(array, wide, constant_values=fields[name].pad if name in fields else 0) if missing else array

    return {name: jax.tree.map_with_path(padded, batch) for name, batch in batches.items()}


def stream_seed(recipe: Recipe, name: str) -> int:
    """Return the seed of a stream's order: the recipe's seed, with a different offset for each stream except
    `labelled`, so that no two streams use the same order."""
    return recipe.seed if name == "labelled" else recipe.seed + (zlib.crc32(name.encode()) << 32)
