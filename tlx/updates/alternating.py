"""Take several moves in one step, each for some of the leaves."""

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
    """Take the turns of one term in sequence.

    In each turn the leaves that move in it minimise the loss of that turn, by one optimiser step with a separate
    gradient, clipping and noise. The other leaves and their optimiser state are unchanged.

    Clock, average and checkpoints count all turns together as one step. The logged numbers and the running statistics
    are those of the first turn. The reported gradient of a leaf is that of the first turn in which it moves.
    """

    alternates: ClassVar[bool] = True

    def step(self, slope: Slope, descend: Descend, point: Point, tick: Tick) -> tuple[Point, Tree, Aux]:
        [taker] = [place for place, turns in enumerate(slope.turns) if turns]
        results: list[tuple[Tree, Aux]] = []
        # Unrolled, because XLA's loops are slow on CPUs, and XLA would count the FLOPs of a single iteration.
        for number, turn in enumerate(slope.turns[taker]):
            leaves = flatten(point.trainable)
            moving = {path: leaf for path, leaf in leaves.items() if path.startswith(turn.moves)}
            if not moving:
                continue
            fixed = nest({path: leaf for path, leaf in leaves.items() if path not in moving})
            weights = [float(turn.others or place == taker) for place in range(len(slope.terms))]
            results.append(slope.at(nest(moving), weights, number, fixed))
            point = descend(point, results[-1][0])
        gradients = {path: leaf for gradient, _ in reversed(results) for path, leaf in flatten(gradient).items()}
        return point, nest(dict(sorted(gradients.items()))), results[0][1]


def taker_of(update: Update, terms: Sequence[Term], model: Model) -> tuple[str, tuple[Turn, ...]] | None:
    """Return the class name and the turns of the term that takes turns; None where no term does.

    Raises:
        ValueError: a term takes turns but the update does not, the update takes turns but no term does, or two terms
            take turns.
    """
    takers = [(type(term).__name__, turns) for term in terms if (turns := term.turns(model))]
    name = type(update).__name__
    if not update.alternates:
        if takers:
            raise ValueError(
                f"{takers[0][0]} takes several moves in each step, but {name} takes one step for all terms: set "
                "update=Alternating()"
            )
        return None
    if not takers:
        raise ValueError(
            f"{name} needs a term with several moves in each step (a term that defines turns, such as Mcd or "
            "Adda), but the objective has no such term: leave the update out"
        )
    if len(takers) > 1:
        raise ValueError(
            f"{name} supports one term with several moves in each step, but the objective has "
            f"{' and '.join(taker for taker, _ in takers)}: keep one of them"
        )
    return takers[0]


def in_turns(
    update: Update, terms: Sequence[Term], model: Model, partitions: Sequence[Partition]
) -> tuple[Partition, ...]:
    """Return the partition of every phase, with the leaves that move in no turn frozen.

    Where no term takes turns, the partitions are unchanged.

    Raises:
        ValueError: as for `taker_of`, or a turn would move nothing.
    """
    if (taker := taker_of(update, terms, model)) is None:
        return tuple(partitions)
    who, turns = taker
    moves = tuple(prefix for turn in turns for prefix in turn.moves)
    moved_partitions = []
    for phase, claimed in enumerate(partitions):
        moved = {path: learn if path.startswith(moves) else None for path, learn in claimed.items()}
        learning = [path for path, learn in moved.items() if learn is not None]
        for turn in turns:
            if not any(path.startswith(turn.moves) for path in learning):
                when = f" in phase {phase}" if len(partitions) > 1 else ""
                raise ValueError(
                    f"{who} moves {' and '.join(prefix + '*' for prefix in turn.moves)} in a turn, but the tuning "
                    f"freezes all these parameters{when}"
                )
        moved_partitions.append(moved)
    return tuple(moved_partitions)
