"""Types that all packages share: named tuples without logic."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax

from tlx.trees import Tree

Array = jax.Array
Key = jax.Array
Carry = dict[str, Any]
# ArrayMap by name: the examples of a batch, the inputs of a model or its outputs. A value may be a dict of arrays.
ArrayMap = Mapping[str, Any]


class Param(NamedTuple):
    """Declare a parameter: everything except its value.

    `axes` are logical names, one for each dimension (`"width"`, `"heads"`, `"mlp"`, `"vocabulary"`, ...; None where
    sharding makes no sense). `init(key, shape)` returns a float32 array.
    """

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    init: Callable[[Key, tuple[int, ...]], Array]


class Field(NamedTuple):
    """One array of an example, as a processor or a task returns it for a batch.

    `shape` excludes the batch axis; None is a ragged axis, which a batch pads with `pad` to a common length.
    """

    shape: tuple[int | None, ...]
    dtype: str
    pad: float = 0


class Column(NamedTuple):
    """One column of a data set, as its source describes it.

    `kind` is the type of a cell: a "text", an "image", the samples of a sound ("audio"), a "number" or several
    ("numbers"), one of the `classes` ("class"), any number of them ("classes"), one class for each word of a list of
    words ("tags", "words"), or the "answers" to a question about a text, as SQuAD has them. `rate` is the sampling rate
    of a sound in samples per second.
    """

    kind: Literal["text", "words", "image", "audio", "number", "numbers", "class", "classes", "tags", "answers"]
    classes: tuple[str, ...] = ()
    rate: int = 0


class Variables(NamedTuple):
    """The arrays of a model: `params` learn by gradient, `stats` are running statistics (batch norm)."""

    params: Tree
    stats: Tree


class Context(NamedTuple):
    """The information that a stage has besides its own parameters.

    `key` is the stage's own key, None when nothing is random; `train` is False in a completely frozen stage too,
    unless it updates its running statistics (`Train.fixed_statistics`).
    `dtype` is the type of the activations; parameters, reductions and losses stay float32. `offset` is the position of
    this device's first example in the global batch and `axis` the mapped axis over devices, both for `jax.pmap` alone.
    `prefix` is the number of learned keys before the tokens in the attention of the blocks, `prompt` the number of
    learned tokens before the tokens of the text.
    """

    key: Key | None = None
    train: bool = False
    dtype: Any = "float32"
    offset: Any = 0
    axis: str | None = None
    prefix: int = 0
    prompt: int = 0


Apply = Callable[[Tree, Tree, Carry, Context], tuple[Carry, Tree]]


class Stage(NamedTuple):
    """One link of a model's chain: `apply(params, stats, carry, context) -> (carry, stats)`, a pure function.

    `name` is also the path prefix of its parameters. `output` names the entry of the carry that is the stage's tap, and
    `others` the further entries that it writes; each is a tap as well. `depth` is the depth of the stage for tunings
    that freeze, slow down or unfreeze stages by depth (None: its position in the chain); stages of several branches may
    share one depth. `joins` is for a stage that does not count as a layer where learning rates fall layer by layer: it
    counts with the stage "before" it (a ViT's last norm) or "after" it (BERT's pooler, a part of the head in its
    relatives). `reads` are paths of parameters of other stages, which `apply` receives too, under `params["shared"]`: a
    head whose kernel is the embedding of the words reads `stem/words`.
    """

    name: str
    apply: Apply
    output: str = "hidden"
    joins: Literal["before", "after"] | None = None
    others: tuple[str, ...] = ()
    depth: int | None = None
    reads: tuple[str, ...] = ()


class Model(NamedTuple):
    """A chain of named stages with the parameters and statistics they declare (trees of `Param`).

    `config` is the architecture and `head` the head of the model (None: the bare backbone): the same model can be built
    again from the two. `inserts` is True where the layers read leaves that a tuning adds to their sub-dicts; the layers
    of a bridged module do not.
    """

    stages: tuple[Stage, ...]
    params: Tree
    stats: Tree
    config: Any = None
    head: Any = None
    inserts: bool = True

    @property
    def outputs(self) -> int | None:
        """Return the width of the head, None without a head."""
        return None if self.head is None else self.head.outputs

    @property
    def depths(self) -> dict[str, int]:
        """Return the depth of every stage, by its name (see `Stage`)."""
        return {stage.name: n if stage.depth is None else stage.depth for n, stage in enumerate(self.stages)}


class Learn(NamedTuple):
    """How fast a parameter moves: `lr` multiplies the schedule; `weight_decay` None is the optimiser's decay, which
    skips biases and norms; `schedule` None is the optimiser's schedule, a name selects another."""

    lr: float = 1.0
    weight_decay: float | None = None
    schedule: str | None = None


Rule = tuple[str, Learn | None]


class Phase(NamedTuple):
    """A part of the training (a share of all steps) with one partition of the parameters.

    With `restart` the schedules run over this phase alone, else over the whole run. `optim` are numbers of the
    optimiser, or pairs of them, that differ in this phase: `(("warmup", 0.1),)`.
    """

    share: float
    rules: tuple[Rule, ...]
    restart: bool = False
    optim: tuple[tuple[str, float | tuple[float, float]], ...] = ()


class Turn(NamedTuple):
    """One of the moves of which a step may consist (see `tlx.updates`): the leaves that move in it, by the prefixes of
    their paths, and whether it also uses the `others`, the terms that take no turns."""

    moves: tuple[str, ...]
    others: bool = True


class Tick(NamedTuple):
    """The only clock: `progress` runs from 0 to 1 over the whole run; `key` is the key of the step."""

    progress: Array
    key: Key


class Setting(NamedTuple):
    """The information that a term may read once, before the first step.

    `model` and `variables` are the model with its initial (pretrained) numbers, `task` is the task. `batches` returns
    the training examples of a labelled stream once, in batches of host arrays as the model reads them, with `label` and
    `weight` (0 for the copies that fill the last batch). `inputs` returns the batches of any stream, always without
    labels. `new` are the paths of the parameters that were drawn at random, `trainable` those of the parameters that
    are trainable in some phase (None: all).
    """

    model: Model
    variables: Variables
    task: Any
    batches: Callable[[str], Iterable[ArrayMap]]
    new: frozenset[str] = frozenset()
    trainable: frozenset[str] | None = None
    inputs: Callable[[str], Iterable[ArrayMap]] = lambda stream: ()


class View(NamedTuple):
    """The information that a term of the objective reads at each step.

    `batch` and `taps` are by stream: `taps["labelled"]["logits"]`; `model`, `params` and `stats` are for an extra pass
    of the term (in `dtype`), `memory` is what it remembered. `axis` is the mapped axis over devices, for `jax.pmap`
    alone: a loss that is not a mean over examples gathers over it. `turn` is the number of the move in its step, 0
    where there is one. `average` are the parameters with moving averages in the place of the trainable ones, None where
    `train.ema` keeps no average. `references` are the structures of the models that a term loads (`Needs.models`);
    their numbers are in its memory. `whole` is the batch of which `batch` is a piece, None where the batch is not cut.
    """

    model: Model
    params: Tree
    stats: Tree
    memory: Tree
    batch: Mapping[str, Mapping[str, Array]]
    taps: Mapping[str, ArrayMap]
    task: Any
    tick: Tick
    dtype: Any = "float32"
    axis: str | None = None
    turn: int = 0
    average: Tree | None = None
    references: Mapping[str, Model] = MappingProxyType({})
    whole: Mapping[str, Mapping[str, Array]] | None = None
