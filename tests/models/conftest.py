"""Common parts of the model tests."""

import jax
import pytest


@pytest.fixture
def quick():
    """Most of the time is compilation of small models, so the compiler optimises little."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
