"""Facts about each leaf for the optimiser: its rate, its schedule, its wave, whether Muon may update it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tlx.optim.settings import Optim, check_schedule
from tlx.partition import Partition
from tlx.trees import flatten, subtree
from tlx.types import Model, Turn

FIRST = "0"


class Layout(NamedTuple):
    """The static facts about the leaves, by path.

    Attributes:
        waves: the wave of a leaf (`FIRST` where it has no entry).
        schedules: the schedule of a leaf where it differs from the optimiser's.
        hidden: the kernels that Muon makes orthogonal.
    """

    waves: Mapping[str, str] = {}
    schedules: Mapping[str, str] = {}
    hidden: frozenset[str] = frozenset()

    def wave(self, path: str) -> str:
        return self.waves.get(path, FIRST)

    def schedule(self, paths: Iterable[str]) -> str | None:
        """Return the schedule that all these leaves share where it is not the optimiser's; else None."""
        names = {self.schedules.get(path) for path in paths}
        return names.pop() if len(names) == 1 else None


def leaf_rates(optim: Optim, params: Mapping[str, Any], parts: Partition) -> dict[str, dict[str, float]]:
    """Return `{path: {"lr": multiplier, "weight_decay": decay}}` of the leaves that learn."""
    rates = {}
    for path, leaf in flatten(params).items():
        learn = parts[path]
        if learn is None:
            continue
        decays = len(leaf.shape) > 1
        decay = (optim.weight_decay if decays else 0.0) if learn.weight_decay is None else learn.weight_decay
        rates[path] = {"lr": learn.lr, "weight_decay": decay}
    return rates


def wave_names(partitions: Sequence[Partition]) -> dict[str, str]:
    """Return the wave of every leaf that ever learns: the numbers of the phases in which it learns, joined.

    >>> from tlx.types import Learn
    >>> wave_names([{"stem": None, "head": Learn()}, {"stem": Learn(), "head": Learn()}])
    {'head': '0_1', 'stem': '1'}
    """
    names: dict[str, str] = {}
    for number, parts in enumerate(partitions):
        for path in sorted(path for path, learn in parts.items() if learn is not None):
            names[path] = f"{names[path]}_{number}" if path in names else str(number)
    return names


def turn_names(turns: Sequence[Turn], path: str) -> str:
    """Return the numbers of the turns of a step in which a leaf moves, joined; a repeated turn counts once.

    >>> turns = (Turn(("",)), Turn(("head/",)), Turn(("stem/",)), Turn(("stem/",)))
    >>> turn_names(turns, "head/bias"), turn_names(turns, "stem/bias")
    ('0_1', '0_2')
    """
    return "_".join(str(n) for n, turn in enumerate(dict.fromkeys(turns)) if path.startswith(turn.moves))


def layout(model: Model, partitions: Sequence[Partition], phase: int = 0, turns: Sequence[Turn] = ()) -> Layout:
    """Return the layout of one phase.

    Args:
        model: the model that trains.
        partitions: the partition of each phase.
        phase: the number of the phase.
        turns: the turns of a step; leaves of one wave then move in the same turns.

    Raises:
        ValueError: a rule has a schedule that does not exist.
    """
    schedules = {path: learn.schedule for path, learn in partitions[phase].items() if learn and learn.schedule}
    for name in sorted(set(schedules.values())):
        check_schedule(name)
        if name == "plateau":
            raise ValueError(
                "a rule has schedule='plateau', but that schedule lowers the rate of all parameters together: set it "
                "in Optim(schedule='plateau')"
            )
    names = wave_names(partitions)
    if turns:
        names = {path: f"{name}-{turn_names(turns, path)}" for path, name in names.items()}
    learning = {path: names[path] for path, learn in partitions[phase].items() if learn is not None}
    return Layout(learning, schedules, hidden_kernels(model, learning))


def hidden_kernels(model: Model, paths: Mapping[str, Any]) -> frozenset[str]:
    """Return the kernels between the shallowest and the deepest stages with parameters.

    Adam updates the first and the last layers (Jordan et al., 2024).
    """
    depths = {name: depth for name, depth in model.depths.items() if subtree(model.params, name)}
    ends = (min(depths.values(), default=0), max(depths.values(), default=0))
    prefixes = tuple(f"{name}/" for name, depth in depths.items() if depth not in ends)
    return frozenset(path for path in paths if path.endswith("/kernel") and path.startswith(prefixes))
