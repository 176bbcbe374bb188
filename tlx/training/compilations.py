"""Count the seconds of the compilations of a group, show them, and remember them for the next start."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from tlx.recipe import Recipe
from tlx.records.compile_times import CompileTimes
from tlx.records.progress import Clock, Progress
from tlx.training.grouping import signature
from tlx.training.programs import Shapes


class Compilations:
    """The compilations of the programs of a group; those of a `quiet` one are counted only."""

    def __init__(self, clock: Clock, progress: Progress, quiet: bool):
        self.clock, self.progress, self.quiet = clock, progress, quiet
        self.times, self.identity = CompileTimes(), ""

    def begin_phase(self, recipe: Recipe, runs: int, phase: int) -> None:
        """Take the programs of a phase."""
        if not self.quiet:
            self.identity = identity_of(recipe, runs, phase)

    @contextmanager
    def announce(self, program: str, shapes: Shapes) -> Iterator[None]:
        """Count the seconds in which a program is compiled; show how long it took last time, and remember it."""
        if self.quiet:
            with self.clock("compile"):
                yield
            return
        key = digest_of(self.identity, program, shapes)
        start = time.perf_counter()
        with self.clock("compile"), self.progress.compiling(program, self.times.last(key)):
            yield
        self.times.note(key, time.perf_counter() - start)


def identity_of(recipe: Recipe, runs: int, phase: int) -> str:
    """Return a text that is equal for phases whose programs compile alike; it costs no tracing."""
    device = jax.devices()[0]
    versions = jax.__version__, device.platform, device.device_kind, str(jax.device_count())
    return digest_of(signature(recipe), runs, phase, *versions)


def digest_of(*parts: object) -> str:
    """Return sixteen hexadecimal digits for some values."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
