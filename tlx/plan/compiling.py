"""Compile a step for chips that this machine does not have, with their own compiler."""

import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from tlx import sharding
from tlx.plan.chips import TABLE, Chip
from tlx.plan.collectives import Collective, collectives
from tlx.plan.operations import OperationCounts, operations_of
from tlx.plan.program_text import moved_bytes
from tlx.plan.shapes import StepShapes
from tlx.plan.targets import Target, target_config
from tlx.training.layers import choose_layers
from tlx.training.step import compile_step

# The packages of each compiler, of which one is enough, and the extra that installs it.
PACKAGES = {"tpu": ("libtpu",), "cuda": ("jax_cuda13_plugin", "jax_cuda12_plugin")}
EXTRAS = {"tpu": "plan-tpu", "cuda": "plan-gpu"}
# XLA chooses the kernels of Triton by running them, which needs the GPU; cuBLAS is the other choice of each of them.
OPTIONS: dict[str, dict[str, Any] | None] = {"tpu": None, "cuda": {"xla_gpu_enable_triton_gemm": False}}
# libtpu shall ask no metadata server which TPU this machine is, and take no lock of TPUs that it does not use.
LIBTPU = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
# The two forms in which the compiler says how much it needs: "Used 20.5G of 15.75G" and "(20.5G) exceeds".
NEEDED = re.compile(r"Used ([\d.]+)([KMGT]?) of |\(([\d.]+)([KMGT]?)\) exceeds")
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class CompiledProgram(NamedTuple):
    """What the compiler says of a step on one device.

    `fits` is False where it found no program within the memory; then only `needed`, the bytes that its best one needs,
    and `operations`, those of all devices, are known. Bytes: `arguments` and `outputs`, of which `aliased` lie in the
    same place, `temporaries`, `code`, and `moved` between the memory and the units. `flops` are the operations of the
    compiled program, with one round of each loop, None where the compiler does not count them. `sent` are the bytes
    that collectives produce.
    """

    fits: bool
    seconds: float
    operations: OperationCounts
    needed: int
    arguments: int = 0
    outputs: int = 0
    aliased: int = 0
    temporaries: int = 0
    code: int = 0
    moved: int = 0
    flops: float | None = None
    sent: Mapping[Collective, int] = MappingProxyType({})


def check_compilers(targets: list[Target]) -> None:
    """Raise ImportError, with the extra, where the compiler of a target is not installed."""
    for target in targets:
        compiler = target.chip.compiler
        if not any(find_spec(package) for package in PACKAGES[compiler]):
            extra = EXTRAS[compiler]
            raise ImportError(
                f"target {target.name!r} needs the compiler of {target.chip.name} ({PACKAGES[compiler][0]}): "
                f"pip install 'tlx[{extra}]'"
            )


def devices_of(target: Target) -> list[Any]:
    """Return the devices of a target, for which a program can be compiled and on which none can run.

    Raises:
        ValueError: The compiler knows no such devices.
    """
    chip = target.chip
    try:
        return described(chip.compiler, target.form, target.chips, chip.group, *compiler_text(chip))
    except jax.errors.JaxRuntimeError as error:
        raise refused(target, error) from error


def refused(target: Target, error: Exception) -> ValueError:
    """Return the error of a target that the compiler refuses, in one line."""
    reason = " ".join(str(error).split()).rstrip(".")
    return ValueError(
        f"target {target.name}: the compiler refuses the chip's row: {reason}; see the comments of {TABLE} for the "
        "fields of a row"
    )


def compiler_text(chip: Chip) -> tuple[str, str]:
    """Return the key of a chip and, for a GPU, its description for the compiler."""
    return chip.key, target_config(chip) if chip.compiler == "cuda" else ""


@cache
def described(compiler: str, form: str, chips: int, group: int, key: str, text: str) -> list[Any]:
    """Return the devices of a form of chips; the arguments are the parts of a target that they depend on."""
    for name, value in LIBTPU.items():
        os.environ.setdefault(name, value)
    with quiet():
        if compiler == "cuda":
            hosts = max(1, chips // group)
            topology = topologies.get_topology_desc(
                key, platform="cuda", target_config=text, topology=f"1x{hosts}x{chips // hosts}"
            )
        else:
            single = {"chips_per_host_bounds": (1, 1, 1)} if chips == 1 else {}
            topology = topologies.get_topology_desc(f"{key}:{form}", platform="tpu", **single)
    return list(topology.devices)


def compile_for(shapes: StepShapes, target: Target, mesh: sharding.Mesh) -> CompiledProgram:
    """Compile the training step for a target.

    The step is the function that training compiles, with the same shardings and donation; arrays are shapes only.

    Args:
        shapes: The shapes of the step.
        target: The chips.
        mesh: How many of them along each axis.

    Raises:
        ValueError: The compiler refuses the chips.
    """
    devices = sharding.make_mesh(devices_of(target), mesh)
    begin = time.perf_counter()
    platform = "gpu" if target.chip.compiler == "cuda" else target.chip.compiler
    chosen, _ = choose_layers("auto", shapes.parts, shapes.form.variables, platform)
    step = compile_step(shapes.parts._replace(layers=chosen), devices).train
    traced = step.trace(*shapes.placed(devices))  # type: ignore[attr-defined]
    operations = operations_of(traced.jaxpr)
    try:
        with quiet():
            program = traced.lower().compile(compiler_options=OPTIONS[target.chip.compiler])
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise refused(target, error) from error
        return CompiledProgram(False, time.perf_counter() - begin, operations, bytes_in(str(error)))
    seconds = time.perf_counter() - begin
    memory, text = program.memory_analysis(), program.as_text()
    cost = program.cost_analysis() or {}
    arguments, outputs = memory.argument_size_in_bytes, memory.output_size_in_bytes
    aliased, temporaries = memory.alias_size_in_bytes, memory.temp_size_in_bytes
    code = memory.generated_code_size_in_bytes
    needed = arguments + outputs - aliased + temporaries + code
    return CompiledProgram(
        needed <= target.chip.usable,
        seconds,
        operations,
        needed,
        arguments,
        outputs,
        aliased,
        temporaries,
        code,
        moved_bytes(text),
        float(cost["flops"]) if "flops" in cost else None,
        collectives(text),
    )


def bytes_in(message: str) -> int:
    """Return the bytes that the compiler says a program needs, 0 where it does not say.

    >>> bytes_in("Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm.")
    22011707392
    >>> bytes_in("the total memory required for HLO temporaries (1.5G) exceeds available HBM (1G).")
    1610612736
    """
    match = NEEDED.search(message)
    if match is None:
        return 0
    size, unit = match.group(1, 2) if match[1] else match.group(3, 4)
    return int(float(size) * UNITS[unit])


@contextmanager
def quiet() -> Iterator[None]:
    """Hide what the compiler writes to the standard error, in which no option of it hides the warnings of a machine
    without its chips. An error of Python is raised as always."""
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:
        # There is no standard error to hide.
        yield
        return
    with tempfile.TemporaryFile() as hidden:
        os.dup2(hidden.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
