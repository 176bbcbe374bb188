"""What the tests of models share."""

import jax
import pytest


@pytest.fixture
def quick():
    """Small models run each operation once: most of the time is compiling, so the compiler does little."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
