"""Every tuning and every term on a mesh that cuts the parameters: the same two steps as on one device."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx import Optim, models, sharding, terms
from tlx.optim import OPTIMISERS
from tlx.sharding import Mesh
from tlx.training.step import compile_step

# The tables of the contract, and the fixture with its saved models.
spec = importlib.util.spec_from_file_location("contract", Path(__file__).with_name("test_contract.py"))
contract = importlib.util.module_from_spec(spec)
spec.loader.exec_module(contract)
saved = contract.saved

pytestmark = pytest.mark.slow
GROUPS = [*(contract.OTHERS[n :: contract.PARTS] for n in range(contract.PARTS)), *zip(contract.TURNS)]


@pytest.fixture(autouse=True)
def cut_all(monkeypatch):
    """Cut small parameters, too: the models of the tests have no others."""
    monkeypatch.setattr(sharding, "SMALLEST", 0)


def assert_sharded_equals_unsharded(name, parts, start):
    expected = contract.walk(name, contract.compiled(parts), start)
    placed = compile_step(parts, sharding.make_mesh(mesh=Mesh(data=2, fsdp=2, tensor=2)))
    state = placed.place(start)
    for _ in range(2):
        state, _ = placed.train(state, {stream: placed.put(arrays) for stream, arrays in contract.batch(name).items()})
    leaves = jax.tree.leaves(expected)
    for (path, leaf), other in zip(jax.tree_util.tree_leaves_with_path(state), leaves, strict=True):
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            np.testing.assert_allclose(leaf, other, rtol=1e-4, atol=1e-5, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("how", sorted({how for _, how in contract.PAIRS} - {"AdaBN"}))
def test_every_tuning(how, saved):
    name = "bert" if ("bert", how) in contract.PAIRS else "cnn"
    objective = tuple(contract.MAKE[term](saved / name) for term in contract.CLOSE)
    assert_sharded_equals_unsharded(name, *contract.build_step(name, how, objective, Optim("sgd", lr=0.1)))


@pytest.mark.parametrize("some", GROUPS, ids="-".join)
def test_every_term(some, saved):
    """Terms that compare examples compare those of all devices. The network has batch norm."""
    name = "cnn"
    several = tuple(contract.MAKE[term](saved / name) for term in some if (name, term) not in contract.REFUSED_TERMS)
    # Its weight in the contract makes rounding visible.
    several = tuple(replace(term, weight=10.0) if isinstance(term, terms.Mcc) else term for term in several)
    objective = (terms.Supervised(), *several)
    assert_sharded_equals_unsharded(name, *contract.build_step(name, "Full", objective, Optim("sgd", lr=0.01)))


@pytest.mark.parametrize("optimiser", sorted(OPTIMISERS))
def test_every_optimiser(optimiser, saved, monkeypatch):
    """Without a parameter whose gradient is only rounding, which Adam and its relatives would divide by its size."""
    model = models.Mlp(inputs=(4, 4, 1), widths=(4, 4), activation="tanh", dropout=0.5)
    monkeypatch.setitem(contract.MODELS, "mlp", model)
    contract.initial.cache_clear()
    optim = Optim(optimiser, lr=0.01, clip=1.0, momentum=0.9, schedule="constant")
    parts, start = contract.build_step("mlp", "Full", (terms.Supervised(),), optim)
    contract.initial.cache_clear()
    assert_sharded_equals_unsharded("mlp", parts, start)
