"""Compare single convolutions of tlx with those of XLA and of torch, forward and with both gradients.

    python benchmarks/convolutions.py [--shapes stem dw3 ...] [--batch 8] [--rounds 12] [--place plain scan vmap]

The shapes are those of usual networks. The three sides take turns within one process, in float32 on all cores; the
number is the seconds of torch divided by those of the side, each the least of all rounds: above 1 the side is faster.
`scan` runs eight convolutions one after another in a loop, `vmap` four kernels at once over the same images; torch
runs them one after another. A busy machine slows torch most, because its threads wait for each other.
"""

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import lax

from tlx.layers.cpu_conv import Window, convolve, native

# Side of the image, channels before and after, size of the kernel, stride, whether each channel is separate.
SHAPES = {
    "stem7": (112, 3, 64, 7, 2, False),
    "stem3": (112, 3, 32, 3, 2, False),
    "patch4": (96, 3, 96, 4, 4, False),
    "patch2": (28, 192, 384, 2, 2, False),
    "3x3, 64": (56, 64, 64, 3, 1, False),
    "3x3, 128": (28, 128, 128, 3, 1, False),
    "3x3, 256": (14, 256, 256, 3, 1, False),
    "3x3, 512": (7, 512, 512, 3, 1, False),
    "3x3 at a stride": (56, 64, 128, 3, 2, False),
    "1x1": (28, 256, 512, 1, 1, False),
    "1x1 at a stride": (28, 256, 512, 1, 2, False),
    "depthwise 3x3": (56, 96, 96, 3, 1, True),
    "depthwise 3x3 at a stride": (56, 96, 96, 3, 2, True),
    "depthwise 5x5": (28, 240, 240, 5, 1, True),
    "depthwise 7x7": (28, 192, 192, 7, 1, True),
}
ROUNDS, LOOPS, KERNELS = 12, 8, 4


def window_of(name: str) -> Window:
    """Return how the kernel of a shape moves."""
    _, channels, _, size, stride, depthwise = SHAPES[name]
    zeros = (0, 0) if size == stride else (size // 2, size // 2)
    return Window((size, size), (stride, stride), (zeros, zeros), groups=channels if depthwise else 1)


def in_place(place: str, convolution: Callable[..., Any]) -> Callable[..., Any]:
    """Return the convolution, or several of them in a loop or over several kernels."""

    def loop(x: Any, kernels: Any) -> Any:
        start = jnp.zeros(jax.eval_shape(convolution, x, kernels[0]).shape)
        return lax.scan(lambda total, kernel: (total + convolution(x, kernel), None), start, kernels)[0]

    return {"plain": convolution, "scan": loop, "vmap": jax.vmap(convolution, (None, 0))}[place]


def jax_side(place: str, way: Callable[..., Any], window: Window, x: Any, kernel: Any) -> dict[str, Callable[[], Any]]:
    """Return the two functions to measure: the forward pass, and a pass with both gradients."""
    run = in_place(place, partial(way, window))
    once = jax.jit(run)
    slope = jnp.ones(jax.eval_shape(run, x, kernel).shape)
    both = jax.jit(lambda x, kernel: jax.vjp(run, x, kernel)[1](slope))
    return {
        "forward": lambda: jax.block_until_ready(once(x, kernel)),
        "gradients": lambda: jax.block_until_ready(both(x, kernel)),
    }


def torch_side(window: Window, x: np.ndarray, kernels: list[np.ndarray]) -> dict[str, Callable[[], Any]]:
    """Return the two functions to measure of torch, with channels last."""
    image = torch.tensor(x.transpose(0, 3, 1, 2)).to(memory_format=torch.channels_last).requires_grad_()
    weights = [torch.tensor(kernel.transpose(3, 2, 0, 1).copy()).requires_grad_() for kernel in kernels]
    run = partial(torch.nn.functional.conv2d, stride=window.stride, padding=window.padding[0][0], groups=window.groups)

    def forward() -> None:
        with torch.no_grad():
            for weight in weights:
                run(image, weight)

    def gradients() -> None:
        for weight in weights:
            outputs = run(image, weight)
            torch.autograd.grad(outputs, (image, weight), torch.ones_like(outputs))

    return {"forward": forward, "gradients": gradients}


def measure(name: str, place: str, batch: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return the least seconds of each side, forward and with gradients."""
    side, inputs, outputs, size, _, depthwise = SHAPES[name]
    random, window = np.random.default_rng(0), window_of(name)
    x = random.normal(size=(batch, side, side, inputs)).astype("f4")
    count = {"plain": 1, "scan": LOOPS, "vmap": KERNELS}[place]
    kernels = random.normal(size=(count, size, size, 1 if depthwise else inputs, outputs)).astype("f4")
    arrays = jnp.array(x), jnp.array(kernels[0] if place == "plain" else kernels)
    sides = {
        "torch": torch_side(window, x, list(kernels)),
        "XLA": jax_side(place, native, window, *arrays),
        "tlx": jax_side(place, convolve, window, *arrays),
    }
    seconds: dict[str, dict[str, float]] = {name: {} for name in sides}
    for number in range(rounds + 1):
        for label, functions in sides.items():
            for part, function in functions.items():
                begin = time.perf_counter()
                function()
                passed = time.perf_counter() - begin
                # The first round compiles.
                if number:
                    seconds[label][part] = min(passed, seconds[label].get(part, passed))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=tuple(SHAPES), default=list(SHAPES), metavar="NAME")
    parser.add_argument("--place", nargs="+", choices=("plain", "scan", "vmap"), default=["plain"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    print("| convolution | place | torch, ms | XLA | tlx | torch with gradients, ms | XLA | tlx |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for place in options.place:
        for name in options.shapes:
            seconds, cells = measure(name, place, options.batch, options.rounds), []
            for part in ("forward", "gradients"):
                base = seconds["torch"][part]
                cells += [f"{1000 * base:.2f}", *(f"{base / seconds[side][part]:.2f}" for side in ("XLA", "tlx"))]
            print(f"| {name} | {place} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
