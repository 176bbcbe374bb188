"""Standardise rows of numbers, such as the measurements of a table. Shapes: F numbers of an example."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tlx.processors.base import Inputs, Processor, format_source
from tlx.trees import Example

if TYPE_CHECKING:
    from tlx.processors.columns import Columns
    from tlx.types import Field


@dataclass(frozen=True, kw_only=True)
class NumberProcessor(Processor):
    """Turns the column `numbers` into float32[F]: each number minus its `mean`, divided by its `deviation`.

    Args:
        width: F.
        mean: One number for each of F, or one for all.
        deviation: Likewise; each is above 0.
    """

    width: int
    mean: tuple[float, ...] = (0.0,)
    deviation: tuple[float, ...] = (1.0,)

    reads: ClassVar[tuple[str, ...]] = ("numbers",)
    noun: ClassVar[str] = "a processor of numbers"

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width={self.width}; expected at least 1 number")
        for name in ("mean", "deviation"):
            numbers = getattr(self, name)
            if len(numbers) not in (1, self.width) or not np.isfinite(numbers).all():
                raise ValueError(f"{name} has {len(numbers)} numbers; expected 1 or {self.width} finite numbers")
        if not min(self.deviation) > 0:
            raise ValueError(f"deviation={min(self.deviation)}; expected numbers above 0, which divide the inputs")

    @classmethod
    def of(cls, rows: np.ndarray) -> NumberProcessor:
        """Return the processor that gives each column of `rows` [N, F] a mean of 0 and a deviation of 1.

        A column with a single value is left at 0.
        """
        numbers = np.asarray(rows, np.float64)
        mean, deviation = numbers.mean(0), numbers.std(0)
        # A deviation that is only rounding would turn rounding into signal.
        constant = deviation <= 1e-7 * np.maximum(1.0, np.abs(mean))
        deviation = np.where(constant, 1.0, deviation)
        return cls(width=numbers.shape[1], mean=tuple(mean.tolist()), deviation=tuple(deviation.tolist()))

    @property
    def fields(self) -> Mapping[str, Field]:
        from tlx.types import Field

        return {"numbers": Field((self.width,), "float32")}

    def __call__(self, example: Example) -> Inputs:
        """Return `{"numbers": float32[F]}` of `{"numbers": F numbers}`."""
        numbers = np.asarray(example["numbers"], np.float64)
        if numbers.shape != (self.width,):
            raise ValueError(f"an example has the shape {list(numbers.shape)}; expected [{self.width}], its numbers")
        return {"numbers": ((numbers - self.mean) / self.deviation).astype(np.float32)}

    @classmethod
    def fit(
        cls,
        base: Processor | None,
        data: Any,
        columns: Columns,
        shape: tuple[int, ...] | None = None,
        example: Callable[[], Example] | None = None,
    ) -> Processor:
        """Return `base`, else a processor that leaves the numbers unchanged.

        Raises ValueError for weights with another kind of processor.
        """
        if base is not None and not set(cls.reads) & set(base.reads):
            raise ValueError(f"{format_source(data.target)} has lists of numbers, but the weights have {base.noun}")
        if base is not None or example is None:
            return super().fit(base, data, columns)
        return cls(width=len(example()["numbers"]))

    def read(self, argument: str) -> dict[str, Any]:
        """Return the example of numbers with commas between them."""
        try:
            return {"numbers": [float(part) for part in argument.split(",")]}
        except ValueError:
            raise ValueError(
                f"{argument!r:.60} is no list of numbers; expected {self.width} numbers with commas between them"
            ) from None

    def trials(self) -> list[dict[str, Any]]:
        return [{"numbers": np.linspace(-1.0, 1.0, self.width)}]
