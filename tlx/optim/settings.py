"""The optimiser's part of a recipe."""

from dataclasses import KW_ONLY, dataclass
from typing import Literal, get_args

from tlx.optim.directions import BY_NAME, Optimiser
from tlx.trees import near_miss

Schedule = Literal[
    "cosine", "linear", "constant", "rsqrt", "inverse", "steps", "one-cycle", "slanted-triangular", "plateau"
]
SCHEDULES = get_args(Schedule)
OPTIMISERS = tuple(BY_NAME)


@dataclass(frozen=True)
class Optim:
    """An optimiser with its learning rate, schedule, decay and clipping.

    `lr` is the peak learning rate. `warmup` is the share of all steps in which the rate rises; `schedule` is the course
    of the rate after it.

    `weight_decay` is decoupled (multiplied by the rate), and skips biases, norms and other one-dimensional leaves
    unless a rule's `Learn(weight_decay=...)` changes this. With `coupled` it is added to the clipped gradient instead,
    before the momentum or the moments (L2 regularisation, the weight decay of SGD and Adam in torch). `clip` bounds the
    global norm of the trainable gradient; None does not clip. `momentum` applies to `sgd` and `muon`; None is no
    momentum. With `nesterov` the step of `sgd` looks ahead along the momentum (Sutskever et al., 2013, in the form of
    torch). `beta1`, `beta2` and `epsilon` apply to Adam and related optimisers (the papers use beta2 0.99 for `lion`,
    epsilon 1e-6 for `lamb`, momentum 0.95 for `muon`).

    "inverse" falls from lr to lr / (1 + `inverse_scale`) ** `inverse_power` (Ganin and Lempitsky, 2015). "steps"
    divides the rate by `boundary_divisor` at each of the shares `boundaries` of all steps, the warm-up included.

    The one-cycle rises from lr / `cycle_start` to lr in the share `cycle_peak`, and falls to lr / `cycle_end`. `beta1`
    (`momentum` for `sgd` and `muon`) goes from the first number of `cycle_momentum` to the second, where the rate is at
    its peak, and back; (0, 0) leaves it unchanged. The slanted triangle rises from lr / `slant_ratio` in the share
    `slant_peak` and falls back. "plateau" is constant until `train.patience` validations pass without a better
    measurement; then the rate is divided by `plateau_divisor`, at most `plateau_falls` times, and after the last time
    the run ends early instead. The schedule-free optimisers need schedule="constant"; their averaged parameters are
    evaluated and saved.

    For a new optimiser, write a frozen subclass whose `optimiser` returns an `Optimiser`. Rate, schedule, decay and
    clipping work as for every other optimiser.
    """

    name: Literal[
        "adamw", "adam", "sgd", "adafactor", "lamb", "lion", "muon", "schedule-free-adamw", "schedule-free-sgd"
    ] = "adamw"
    _: KW_ONLY
    lr: float = 1e-3
    weight_decay: float = 0.0
    warmup: float = 0.0
    schedule: Schedule = "cosine"
    clip: float | None = None
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    momentum: float | None = 0.9
    nesterov: bool = False
    coupled: bool = False
    cycle_peak: float = 0.25
    cycle_start: float = 25.0
    cycle_end: float = 1e5
    cycle_momentum: tuple[float, float] = (0.0, 0.0)
    inverse_scale: float = 10.0
    inverse_power: float = 0.75
    boundaries: tuple[float, ...] = (0.3, 0.6, 0.9)
    boundary_divisor: float = 10.0
    slant_peak: float = 0.1
    slant_ratio: float = 32.0
    plateau_divisor: int = 10
    plateau_falls: int = 2

    def __post_init__(self) -> None:
        if type(self).optimiser is Optim.optimiser and self.name not in OPTIMISERS:
            raise ValueError(
                f"there is no optimiser {self.name!r}{near_miss(str(self.name), OPTIMISERS)}{elsewhere(self.name)}"
            )
        check_schedule(self.schedule)
        if self.lr < 0 or self.weight_decay < 0:
            raise ValueError(f"lr is {self.lr} and weight_decay is {self.weight_decay}; both must be 0 or more")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is {self.warmup}; expected a share of the run in [0, 1)")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(
                f"clip is {self.clip}; expected a bound above 0 for the gradient norm, or None for no clipping"
            )
        for name in ("beta1", "beta2", "momentum"):
            if (share := getattr(self, name)) is not None and not 0 <= share < 1:
                raise ValueError(f"{name} is {share}; expected a decay in [0, 1)")
        if self.epsilon < 0:
            raise ValueError(f"epsilon is {self.epsilon}; expected 0 or more")
        self._check_course()
        if self.optimiser().needs_momentum and self.momentum is None:
            raise ValueError(
                f"{self.name} needs a momentum, because it makes the momentum orthogonal and not the gradient; set "
                "momentum=0.9, for example"
            )
        if self.nesterov and (self.momentum is None or self.name != "sgd"):
            raise ValueError(
                f"nesterov=True with name={self.name!r} and momentum={self.momentum}; it changes the momentum of 'sgd' "
                "only: remove it, or choose 'sgd' with a momentum"
            )
        if self.averages and not 0 < self.beta1 < 1:
            raise ValueError(
                f"beta1 is {self.beta1}; {self.name} needs beta1 in (0, 1), because it interpolates with it"
            )
        if self.averages and self.schedule != "constant":
            raise ValueError(
                f"{self.name} averages the parameters and needs schedule='constant', not {self.schedule!r}"
            )

    def _check_course(self) -> None:
        """Raise ValueError for numbers that no schedule can have."""
        for name in ("cycle_peak", "slant_peak"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a share of the schedule in (0, 1)")
        if not all(0 < share < 1 for share in self.boundaries) or list(self.boundaries) != sorted(set(self.boundaries)):
            raise ValueError(f"boundaries is {self.boundaries}; expected rising shares of the run in (0, 1)")
        for name in ("cycle_start", "cycle_end", "slant_ratio", "boundary_divisor"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; expected 1 or more, because it divides the peak learning rate"
                )
        if self.inverse_scale < 0 or self.inverse_power < 0:
            raise ValueError(
                f"inverse_scale is {self.inverse_scale} and inverse_power is {self.inverse_power}; both must be 0 or "
                "more"
            )
        if self.plateau_divisor < 2 or self.plateau_falls < 0:
            raise ValueError(
                f"plateau_divisor is {self.plateau_divisor} and plateau_falls is {self.plateau_falls}; expected a "
                "divisor of 2 or more, and 0 falls or more"
            )
        if not all(0 <= number < 1 for number in self.cycle_momentum):
            raise ValueError(
                f"cycle_momentum is {self.cycle_momentum}; expected two numbers in [0, 1): the momentum at the ends "
                "and at the peak"
            )

    def optimiser(self) -> Optimiser:
        """Return the way gradients become steps; a subclass returns another `Optimiser`."""
        return BY_NAME[self.name]

    @property
    def averages(self) -> bool:
        """Return whether the evaluated parameters are an average of the trained parameters."""
        return self.optimiser().averages

    @property
    def elementwise(self) -> bool:
        """Return whether the step of a number depends on its own history alone (see `Optimiser`)."""
        return self.optimiser().elementwise


def elsewhere(name: object) -> str:
    """Return a hint for a name that belongs to another part of a recipe; empty for other names."""
    return (
        "; SAM is an update, which works with each optimiser: Recipe(update=Sam())"
        if str(name).lower() == "sam"
        else ""
    )


def check_schedule(name: object) -> None:
    """Raise ValueError for a schedule that does not exist."""
    if name not in SCHEDULES:
        raise ValueError(f"there is no schedule {name!r}{near_miss(str(name), SCHEDULES)}")
