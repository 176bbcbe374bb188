"""Compare the training step of image networks with timm's on torch, eager and compiled.

    python benchmarks/vision.py [--networks resnet18 ...] [--settings full half head] [--batch 32 64] [--size 96 224]
                                [--pairs 6] [--steps 2] [--no-compile] [--out FOLDER]

Both sides do the same work in float32 on the same cores, from random weights: AdamW without weight decay on biases and
norms, a cross-entropy over 1,000 classes, the loss read at every step. `full` trains everything, `half` the later half
of the blocks, `head` the classifier. Frozen layers are in evaluation mode on both sides, without gradient and
optimiser state. torch has its images and weights with channels last. Each pair of sides takes turns in two processes
(`pairs.py`). The ratio of a pair is the seconds of torch divided by the seconds of tlx: above 1 tlx is faster; the
table has the ratio to the faster one of torch eager and `torch.compile`. Install timm and torchvision first:
make .venv/.networks.
"""

import argparse
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pairs import Side, keep, measured, parser_of, ratios, serve, step_function, turns

# Our architecture, and the name in timm.
NETWORKS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "resnet18": (
        lambda models: models.ResNet(widths=(64, 128, 256, 512), depths=(2, 2, 2, 2), bottleneck=False),
        "resnet18",
    ),
    "resnet50": (lambda models: models.ResNet(), "resnet50"),
    "convnext": (lambda models: models.ConvNeXt(), "convnext_tiny"),
    "lite0": (lambda models: models.efficientnet.VARIANTS["lite0"], "tf_efficientnet_lite0"),
    "mobilenet2": (lambda models: models.MobileNetV2(), "mobilenetv2_100"),
    "vit-s": (lambda models: models.Vit(width=384, heads=6, mlp=1536), "vit_small_patch16_224"),
}
SETTINGS = {"full": "all trainable", "half": "later half of the blocks", "head": "head only"}
CLASSES, COUNT, RATE, DECAY = 1000, 4, 1e-4, 0.05


def batches(batch: int, size: int) -> list[dict[str, np.ndarray]]:
    """Return batches of images and labels; both sides use the same batches."""
    random = np.random.default_rng(0)
    return [
        {
            "image": random.normal(size=(batch, size, size, 3)).astype(np.float32),
            "label": random.integers(0, CLASSES, batch).astype(np.int32),
            "index": np.arange(batch),
        }
        for _ in range(COUNT)
    ]


def tlx_side(network: str, setting: str, batch: int, size: int) -> Callable[[int], float]:
    """Return the function `step(number) -> loss` of tlx."""
    from dataclasses import replace

    import jax

    from tlx import Optim, models, partition, sharding, tasks, tuning
    from tlx.objectives import Supervised
    from tlx.training.step import Parts, compile_step, initial_state

    config = replace(NETWORKS[network][0](models), size=size)
    task = tasks.Classification(classes=CLASSES)
    model = models.build(config, task.outputs)
    variables = jax.jit(lambda key: models.initialise(model, key))(jax.random.key(0))
    blocks = [stage.name for stage in model.stages if stage.name.startswith("blocks/")]
    way = {"full": tuning.Full(), "half": tuning.Freeze(through=blocks[len(blocks) // 2 - 1]), "head": tuning.Probe()}
    params = way[setting].insert(model, variables.params, jax.random.key(1))
    rules = way[setting].phases(model)[0].rules
    optim = Optim("adamw", lr=RATE, weight_decay=DECAY)
    parts = Parts(model, task, (Supervised(),), optim, partition.partition(params, rules))
    compiled = compile_step(parts, sharding.make_mesh())
    state = compiled.place(initial_state(parts, variables._replace(params=params), 10_000, jax.random.key(0)))
    return step_function(compiled, state, [{"labelled": compiled.put(data)} for data in batches(batch, size)])


def torch_side(network: str, setting: str, batch: int, size: int, compiled: bool) -> Callable[[int], float]:
    """Return the function `step(number) -> loss` of timm on torch."""
    import torch

    timm = timm_package()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    name = NETWORKS[network][1]
    model = timm.create_model(name, num_classes=CLASSES, **({"img_size": size} if name.startswith("vit") else {}))
    model = model.to(memory_format=torch.channels_last).train()
    freeze(model, setting)
    trained = [param for param in model.parameters() if param.requires_grad]
    groups = [
        {"params": [param for param in trained if param.ndim > 1], "weight_decay": DECAY},
        {"params": [param for param in trained if param.ndim <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=RATE, fused=True)
    run = torch.compile(model) if compiled else model
    data = [
        (
            torch.from_numpy(arrays["image"].transpose(0, 3, 1, 2)).to(memory_format=torch.channels_last),
            torch.from_numpy(arrays["label"]).long(),
        )
        for arrays in batches(batch, size)
    ]

    def step(number: int) -> float:
        images, labels = data[number % len(data)]
        loss = torch.nn.functional.cross_entropy(run(images), labels)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return loss.item()

    return step


def timm_package() -> Any:
    """Return timm from the folder of the parity tests; torchvision's own operators do not load beside a torch for CPUs
    only, and are declared."""
    import warnings

    import torch

    sys.path.append(str(Path(sys.prefix) / "networks"))
    operators = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    globals()["operators"] = operators
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import timm
    return timm


def freeze(model: Any, setting: str) -> None:
    """Freeze all but the classifier, or the first half of the blocks with everything before them."""
    if setting == "full":
        return
    head = set(model.get_classifier().parameters())
    blocks = [module for module in model.modules() if type(module).__name__.endswith(("Block", "Bottleneck"))]
    blocks += [
        module for module in model.modules() if type(module).__name__ in ("InvertedResidual", "DepthwiseSeparableConv")
    ]
    later = blocks[len(blocks) // 2 :] if setting == "half" else []
    moving = head | {param for block in later for param in block.parameters()}
    order = list(model.named_parameters())
    if setting == "half":
        # What comes after the blocks is trained, too.
        last = max(n for n, (_, param) in enumerate(order) if param in set(blocks[-1].parameters()))
        moving |= {param for _, param in order[last:]}
    for param in model.parameters():
        param.requires_grad_(param in moving)
    for module in model.modules():
        own = list(module.parameters())
        if own and not any(param in moving for param in own):
            module.eval()


def compare(network: str, setting: str, batch: int, size: int, options: argparse.Namespace) -> dict[str, Any]:
    """Measure tlx against torch eager and compiled, and return the row against the faster one."""
    words = [network, setting, str(batch), str(size)]
    rows = []
    for other in ("eager",) if options.no_compile else ("eager", "compiled"):
        sides = {name: Side([__file__, "--work", name, *words]) for name in ("tlx", other)}
        pairs = turns(sides, options.pairs, options.steps, options.patience)
        row = {"network": network, "setting": setting, "batch": batch, "size": size, "torch": other}
        rows.append(row | {"peak_mib": {name: pairs[-1][name]["peak"] for name in sides}} | measured(pairs))
    return min(rows, key=lambda row: row["all"]["median"])


def table(rows: list[dict[str, Any]]) -> str:
    """Return the Markdown table."""
    lines = [
        "| network | setting | batch | pixels | torch | quiet pairs | min | median | max | median of all pairs "
        "| peak memory, tlx / torch |",
        "| --- | --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        peak = row["peak_mib"]
        lines.append(
            f"| {row['network']} | {SETTINGS[row['setting']]} | {row['batch']} | {row['size']} | {row['torch']} "
            f"| {ratios(row)} | {peak['tlx']:.0f} / {peak[row['torch']]:.0f} MiB |"
        )
    return "\n".join(lines)


def processor_name() -> str:
    """Return the name of the processor."""
    path = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in path.read_text().splitlines() if line.startswith("model name")]
    return f"{names[0]}, {len(os.sched_getaffinity(0))} cores" if names else platform.processor()


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--networks", nargs="+", choices=tuple(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--settings", nargs="+", choices=tuple(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--batch", nargs="+", type=int, default=[32, 64])
    parser.add_argument("--size", nargs="+", type=int, default=[96, 224])
    parser.add_argument("--no-compile", action="store_true", help="compare with torch eager only")
    options = parser.parse_args()
    rows = []
    print(processor_name())
    for network in options.networks:
        for setting in options.settings:
            for batch in options.batch:
                for size in options.size:
                    rows.append(compare(network, setting, batch, size, options))
                    print(table(rows).splitlines()[-1], flush=True)
    print(f"\nseconds of torch / seconds of tlx\n\n{table(rows)}")
    keep(options.out, "vision", table(rows), rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        side, network, setting, batch, size = sys.argv[2:7]
        arguments = (network, setting, int(batch), int(size))
        serve(tlx_side(*arguments) if side == "tlx" else torch_side(*arguments, side == "compiled"))
    else:
        main()
