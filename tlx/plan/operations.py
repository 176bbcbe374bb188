"""Count the floating-point operations of a step from its trace; each round of a loop counts."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from jax.extend.core import ClosedJaxpr, Jaxpr

# Operations with one floating-point operation for each number of their result.
BY_NUMBER = frozenset(
    [
        "add",
        "sub",
        "mul",
        "div",
        "max",
        "min",
        "neg",
        "exp",
        "exp2",
        "log",
        "log1p",
        "expm1",
        "tanh",
        "logistic",
        "erf",
        "erf_inv",
        "erfc",
        "rsqrt",
        "sqrt",
        "cbrt",
        "pow",
        "integer_pow",
        "sin",
        "cos",
        "abs",
        "sign",
        "floor",
        "ceil",
        "round",
        "add_any",
        "square",
    ]
)
# Operations with one for each number that they read.
REDUCING = frozenset(
    [
        "reduce_sum",
        "reduce_max",
        "reduce_min",
        "reduce_prod",
        "argmax",
        "argmin",
        "cumsum",
        "cumprod",
        "cummax",
        "cumlogsumexp",
        "scatter-add",
        "scatter_add",
    ]
)


class OperationCounts(NamedTuple):
    """Floating-point operations: the `products` of matrices and convolutions, and `others`, number by number."""

    products: float = 0.0
    others: float = 0.0

    @property
    def total(self) -> float:
        """Return all operations."""
        return self.products + self.others

    def plus(self, other: "OperationCounts", times: float = 1.0) -> "OperationCounts":
        """Return the sum of these operations and `times` the others."""
        return OperationCounts(self.products + times * other.products, self.others + times * other.others)


def operations_of(jaxpr: Any) -> OperationCounts:
    """Return the operations of a traced function.

    A product of matrices has two operations for each multiplication; a convolution, too. A loop with a fixed number of
    rounds counts every round, one with an unknown number counts one round; of the branches of a condition the most
    expensive one counts, and of those for each kind of device the one for chips.

    Args:
        jaxpr: `jax.jit(function).trace(...).jaxpr`.
    """
    total = OperationCounts()
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name = equation.primitive.name
        inner = [operations_of(body) for body in bodies(equation.params)]
        if name == "cond" and (platforms := equation.params.get("branches_platforms")):
            # A choice by the kind of device. A plan is for a chip, never for a CPU.
            total = total.plus(inner[platforms.index(None)])
        elif name == "cond":
            total = total.plus(max(inner, key=lambda branch: branch.total, default=OperationCounts()))
        elif inner:
            rounds = equation.params.get("length", 1) if name == "scan" else 1
            for body in inner:
                total = total.plus(body, rounds)
        else:
            total = total.plus(of_equation(equation))
    return total


def bodies(params: dict[str, Any]) -> Iterator[Any]:
    """Yield the traced functions among the parameters of an equation."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, Jaxpr | ClosedJaxpr):
                yield item


def of_equation(equation: Any) -> OperationCounts:
    """Return the operations of an equation without traced functions."""
    name, results = equation.primitive.name, equation.outvars
    size = sum(math.prod(getattr(result.aval, "shape", ())) for result in results)
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return OperationCounts(products=2.0 * size * math.prod(left[axis] for axis in contracted))
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
        return OperationCounts(products=2.0 * size * math.prod(kernel) / outputs)
    if name in BY_NUMBER:
        return OperationCounts(others=float(size))
    if name in REDUCING:
        return OperationCounts(others=float(math.prod(equation.invars[0].aval.shape)))
    return OperationCounts()
