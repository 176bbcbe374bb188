"""The state of a run: the first state from the variables, the state of a later phase from the phase before."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tlx import optim as optimisers
from tlx import partition
from tlx.models.chain import Gather
from tlx.objectives import Term
from tlx.optim import Layout, Optim
from tlx.optim.hyperparameters import hyperparameters
from tlx.partition import EvaluationMode, Partition, evaluation_mode
from tlx.tasks import Task
from tlx.training.precision import Precision
from tlx.trees import Tree, flatten, merge, nest
from tlx.types import Array, Key, Model, Setting, Variables
from tlx.updates import Sum, Update


class TrainState(NamedTuple):
    """The whole state of a run, one pytree; checkpoints hold it.

    `optimiser` and `average` are by wave (see `tlx.optim`); `average` is empty unless `train.ema` is set. `numbers` are
    the recipe's floats as arrays, so that none is a constant of the compiled program.
    """

    step: Array
    trainable: Tree
    frozen: Tree
    stats: Tree
    optimiser: Any
    average: Tree
    memory: Tree
    numbers: Tree
    key: Key

    @property
    def variables(self) -> Variables:
        """Return the parameters, trainable and frozen, and the statistics."""
        return Variables(merge(self.trainable, self.frozen), self.stats)


class Parts(NamedTuple):
    """The static half of a step: everything except the arrays.

    `accumulate` is M, the number of pieces; with `twice` the whole batch takes the passes that M pieces take, to count
    its operations; `ema` None keeps no average; `remat` is as in `recipe.Train`; `joint` makes one pass of the streams
    of the data, `fixed_statistics` is as in `recipe.Train`. `start` names the stage at which the step begins where the
    features below it were computed before (see `tlx.training.feature_cache`): its batches then hold a carry in the
    place of inputs. With `features` an evaluation also returns the features that the head reads. `padded` is as in
    `Tuning`. `streams` are the streams of the data in a batch, `references` the structures of the models that the terms
    load. `gather` is as in `models.forward`. `precision` sets the types of the parameters. `layers` is "loop" where
    repeated stages run as one loop, else "unrolled".
    """

    model: Model
    task: Task
    terms: tuple[Term, ...]
    optim: Optim
    partition: Partition
    dtype: str = "float32"
    update: Update = Sum()
    layout: Layout = Layout()
    accumulate: int = 1
    twice: bool = False
    ema: float | None = None
    remat: str = "auto"
    joint: bool = False
    fixed_statistics: str = "stages"
    start: str | None = None
    features: bool = False
    padded: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()
    references: Mapping[str, Model] = MappingProxyType({})
    gather: Gather | None = None
    precision: Precision = Precision()
    layers: str = "unrolled"

    @property
    def in_pieces(self) -> bool:
        """Return whether a step processes its batch piece by piece."""
        return self.accumulate > 1 or self.twice

    @property
    def uncut(self) -> "Parts":
        """Return the same step in one piece, with as many operations: XLA counts only one round of a loop over
        pieces or stages."""
        second_pass = self.accumulate > 1 and any(term.needs(self.streams).features for term in self.terms)
        return self._replace(accumulate=1, twice=self.twice or second_pass, layers="unrolled")

    @property
    def loop(self) -> dict[str, frozenset[str]] | None:
        """Return the `loop` of `models.forward`: by stage the names of its trainable parameters, because a loop would
        compute gradients for all of its stages; None where every stage runs separately."""
        if self.layers != "loop":
            return None
        prefixes = [f"{stage.name}/" for stage in self.model.stages]
        return {
            prefix[:-1]: frozenset(path.removeprefix(prefix) for path in self.learning if path.startswith(prefix))
            for prefix in prefixes
        }

    @property
    def evaluation_mode(self) -> EvaluationMode:
        """Return the parts of the model that run as in evaluation."""
        stages = [stage.name for stage in self.model.stages]
        reads = {stage.name: stage.reads for stage in self.model.stages}
        return evaluation_mode(stages, self.model.stats, self.partition, self.fixed_statistics, reads)

    @property
    def learning(self) -> list[str]:
        """Return the paths of the trainable parameters."""
        return [path for path, learn in self.partition.items() if learn is not None]


def memories(terms: Sequence[Term], setting: Setting) -> Tree:
    """Return what each term remembers of the initial (pretrained) weights and of the data: the same in every phase."""
    return {str(n): term.memory(setting) for n, term in enumerate(terms)}


def initial_state(
    parts: Parts,
    variables: Variables,
    steps: int,
    key: Key,
    memory: Tree | None = None,
    clock: tuple[int, int] | None = None,
) -> TrainState:
    """Return the state before the first step.

    The state holds the arrays of `variables` without a copy; a step donates its buffers, and the function that places a
    state on devices copies it.

    Args:
        parts: The static half of the step.
        variables: The initial parameters and statistics.
        steps: The number of steps of the run.
        key: The key of the run.
        memory: The result of `memories`; by default what the terms remember of `variables` without any data.
        clock: The steps `(first, last)` over which the schedules run; by default all steps.
    """
    trainable, frozen = partition.split(variables.params, parts.partition)
    frozen = parts.precision.stored(frozen)
    first, last = clock or (0, steps)
    values: Tree = {
        "steps": float(steps),
        "clock": {"first": float(first), "steps": float(last - first)},
        "optim": hyperparameters(parts.optim),
        "task": hyperparameters(parts.task),
        "terms": {str(n): hyperparameters(term) for n, term in enumerate(parts.terms)},
        "update": hyperparameters(parts.update),
        "rates": optimisers.leaf_rates(parts.optim, variables.params, parts.partition),
    }
    average: Tree = {}
    if parts.ema is not None:
        values["ema"] = parts.ema
        waves = optimisers.by_wave(trainable, parts.layout)
        average = {name: {"weight": jnp.zeros(()), "mean": tree} for name, tree in waves.items()}
    if memory is None:
        memory = memories(parts.terms, Setting(parts.model, variables, parts.task, lambda stream: ()))
    zero = jnp.zeros((), jnp.int32)
    optimiser = optimisers.initial(parts.optim, trainable, parts.layout)
    # NumPy makes many small arrays, and stacks them for a group of runs, in a tenth of the time.
    values = jax.tree.map(lambda number: np.asarray(number, np.float32), values)
    return TrainState(zero, trainable, frozen, variables.stats, optimiser, average, memory, values, key)


def next_state(
    parts: Parts, state: TrainState, after: Parts, steps: int, clock: tuple[int, int] | None = None
) -> TrainState:
    """Return the state with which the phase `after` begins where the phase `parts` has ended in `state`.

    A wave that keeps learning keeps its parameters, its optimiser state and its average bit for bit; every other wave
    starts with a new optimiser state. Leaves that stop learning keep their evaluated values under a schedule-free
    optimiser, and their trained values otherwise.
    """
    waves = state.optimiser.keys() & {after.layout.wave(path) for path in after.partition if after.partition[path]}
    evaluated = optimisers.averaged(parts.optim, state.optimiser, state.trainable, parts.layout)
    continued = {
        path: leaf
        for path, leaf in flatten(state.trainable).items()
        if parts.layout.wave(path) in waves and after.partition[path] is not None
    }
    leaves = flatten(merge(evaluated, state.frozen)) | continued
    variables = Variables(nest(leaves), state.stats)
    fresh = initial_state(after, variables, steps, state.key, state.memory, clock)

    def carried(tree: Tree) -> Tree:
        return {name: tree[name] for name in sorted(waves & tree.keys())}

    return fresh._replace(
        step=state.step,
        optimiser=fresh.optimiser | carried(state.optimiser),
        average=fresh.average | carried(state.average),
    )


def answering(parts: Parts, trainable: Tree, optimiser: Any, average: Tree) -> Tree:
    """Return the trainable leaves that are evaluated, selected and saved: the exponential moving average where
    `train.ema` is set, the optimiser's average where it has one, else the trained leaves."""
    if parts.ema is not None:
        return optimisers.together({name: wave["mean"] for name, wave in average.items()})
    return optimisers.averaged(parts.optim, optimiser, trainable, parts.layout)
