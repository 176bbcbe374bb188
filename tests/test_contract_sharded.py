"""Every tuning and every term on a mesh that cuts the parameters: the same two steps as on one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_contract import (
    CLOSE,
    MAKE,
    OTHERS,
    PAIRS,
    PARTS,
    REFUSED_TERMS,
    TURNS,
    batch,
    build_step,
    compiled,
    saved,
    walk,
)  # fmt: skip

from tlx import Optim, sharding, terms
from tlx.optim import OPTIMISERS
from tlx.sharding import Mesh
from tlx.training.step import compile_step

__all__ = ["saved"]
pytestmark = pytest.mark.slow
GROUPS = [*(OTHERS[n::PARTS] for n in range(PARTS)), *zip(TURNS)]


@pytest.fixture(autouse=True)
def cut_all(monkeypatch):
    """Cut small parameters, too: the models of the tests have no others."""
    monkeypatch.setattr(sharding, "SMALLEST", 0)


def assert_sharded_equals_unsharded(name, parts, start):
    expected = walk(name, compiled(parts), start)
    placed = compile_step(parts, sharding.make_mesh(mesh=Mesh(data=2, fsdp=2, tensor=2)))
    state = placed.place(start)
    for _ in range(2):
        state, _ = placed.train(state, {stream: placed.put(arrays) for stream, arrays in batch(name).items()})
    leaves = jax.tree.leaves(expected)
    for (path, leaf), other in zip(jax.tree_util.tree_leaves_with_path(state), leaves, strict=True):
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            np.testing.assert_allclose(leaf, other, rtol=1e-4, atol=1e-5, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("how", sorted({how for _, how in PAIRS} - {"AdaBN"}))
def test_every_tuning(how, saved):
    name = "bert" if ("bert", how) in PAIRS else "cnn"
    objective = tuple(MAKE[term](saved / name) for term in CLOSE)
    assert_sharded_equals_unsharded(name, *build_step(name, how, objective, Optim("sgd", lr=0.1)))


@pytest.mark.parametrize("some", GROUPS, ids="-".join)
def test_every_term(some, saved):
    """Terms that compare examples compare those of all devices. The network has batch norm."""
    name = "cnn"
    several = tuple(MAKE[term](saved / name) for term in some if (name, term) not in REFUSED_TERMS)
    objective = (terms.Supervised(), *several)
    assert_sharded_equals_unsharded(name, *build_step(name, "Full", objective, Optim("sgd", lr=0.01)))


@pytest.mark.parametrize("optimiser", sorted(OPTIMISERS))
def test_every_optimiser(optimiser, saved):
    parts, start = build_step("mlp", "Full", (terms.Supervised(),), Optim(optimiser, lr=0.01, clip=1.0))
    assert_sharded_equals_unsharded("mlp", parts, start)
