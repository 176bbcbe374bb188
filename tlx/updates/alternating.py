"""Several moves a step, each of some of the leaves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tlx.objectives import Term
from tlx.partition import Partition
from tlx.trees import Tree, flatten, nest
from tlx.types import Model, Tick, Turn
from tlx.updates.base import Aux, Descend, Point, Slope, Update


@dataclass(frozen=True, kw_only=True)
class Alternating(Update):
    """The turns of the term that takes some, one after another: in each the leaves that move in it go down what it
    asks, by a step of the optimiser with a gradient, a bound and noise of its own; to the other leaves and to what the
    optimiser knows of them nothing happens.

    Clock, average and checkpoints count all of it as one step. What is logged and the running statistics are those of
    the first turn, and a leaf's gradient is that of the first turn in which it moves.
    """

    alternates: ClassVar[bool] = True

    def step(self, slope: Slope, descend: Descend, point: Point, tick: Tick) -> tuple[Point, Tree, Aux]:
        [taker] = [place for place, turns in enumerate(slope.turns) if turns]
        told: list[tuple[Tree, Aux]] = []
        # Unrolled, for XLA's loops are slow on processors, and it would count the FLOPs of one round.
        for number, turn in enumerate(slope.turns[taker]):
            leaves = flatten(point.trainable)
            moving = {path: leaf for path, leaf in leaves.items() if path.startswith(turn.moves)}
            if not moving:
                continue
            held = nest({path: leaf for path, leaf in leaves.items() if path not in moving})
            weights = [float(turn.others or place == taker) for place in range(len(slope.terms))]
            told.append(slope.at(nest(moving), weights, number, held))
            point = descend(point, told[-1][0])
        gradients = {path: leaf for gradient, _ in reversed(told) for path, leaf in flatten(gradient).items()}
        return point, nest(dict(sorted(gradients.items()))), told[0][1]


def taker_of(update: Update, terms: Sequence[Term], model: Model) -> tuple[str, tuple[Turn, ...]] | None:
    """Return the one term that takes turns, by the name of its class, with its turns; None where none does.

    Raises ValueError for a term that takes turns under an update that does not, for the reverse, and for two such
    terms.
    """
    takers = [(type(term).__name__, turns) for term in terms if (turns := term.turns(model))]
    name = type(update).__name__
    if not update.alternates:
        if takers:
            raise ValueError(
                f"{takers[0][0]} takes turns, each a step of its own, and {name} takes one step for all terms: "
                "give update=Alternating()"
            )
        return None
    if not takers:
        raise ValueError(
            f"{name} is for a term that takes turns (one with a hook turns, such as Mcd or Adda), and the objective "
            "has none: leave it out"
        )
    if len(takers) > 1:
        raise ValueError(
            f"{name} is for one term that takes turns, and {' and '.join(taker for taker, _ in takers)} both do: "
            "keep one"
        )
    return takers[0]


def in_turns(
    update: Update, terms: Sequence[Term], model: Model, partitions: Sequence[Partition]
) -> tuple[Partition, ...]:
    """Return the partition of every phase without what moves in no turn, which does not learn; as they are where no
    term takes turns.

    Raises ValueError as `taker_of` does, and for a turn in which nothing would move.
    """
    if (taker := taker_of(update, terms, model)) is None:
        return tuple(partitions)
    who, turns = taker
    moves = tuple(prefix for turn in turns for prefix in turn.moves)
    found = []
    for phase, claimed in enumerate(partitions):
        own = {path: learn if path.startswith(moves) else None for path, learn in claimed.items()}
        learning = [path for path, learn in own.items() if learn is not None]
        for turn in turns:
            if not any(path.startswith(turn.moves) for path in learning):
                when = f" in phase {phase}" if len(partitions) > 1 else ""
                raise ValueError(
                    f"{who} moves {' and '.join(prefix + '*' for prefix in turn.moves)} in a turn of its own, of which "
                    f"the tuning lets nothing learn{when}"
                )
        found.append(own)
    return tuple(found)
