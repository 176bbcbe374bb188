"""A LoRA step of MiniLM beside peft's on torch eager: seconds, memory, and its FLOPs beside those of a full step.

    python benchmarks/lora.py [--dropout 0.1 0] [--pairs 10] [--steps 2] [--out FOLDER]

Both do the same work in float32 on the same cores: LoRA of rank 8 and alpha 16 on query and value, batches of 32 x 64
tokens (some of them padding), AdamW at a constant rate on the adapter and the head, the gradient's norm clipped at 1,
the loss read every step. torch runs its default attention (sdpa) and fused AdamW.

Three numbers come out. Seconds: peft's over ours, in turns of two processes (`pairs.py`; quote quiet pairs). Memory:
what our compiled step says it needs, arguments and temporaries (`memory_analysis`), over the peak of peft's resident
memory during its steps: that above an empty process, so with the parameters on both sides; that above the loaded model,
with the parameters on ours alone; and our temporaries by themselves over the latter. FLOPs: those that the compiler
counts in our LoRA step over those in our step of full fine-tuning (`cost_analysis`).
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from pairs import Side, answer, batches, keep, measured, options_of, our_step, ratios, turns, walker

RATE, DECAY, STEPS = 1e-4, 0.01, 10_000
MIB = 2**20


def adapted(source: str, how: Any, dropout: float) -> tuple[Any, Any, list[Any]]:
    """Our side under a tuning (see `pairs.our_step`)."""
    from tlx import Optim

    optim = Optim("adamw", lr=RATE, weight_decay=DECAY, schedule="constant", clip=1.0)
    return our_step(source, how, dropout, optim, STEPS)


def ours(source: str, dropout: float) -> None:
    from tlx import tuning

    compiled, state, data = adapted(source, tuning.Lora(rank=8, alpha=16.0), dropout)
    analysis = compiled.train.lower(state, data[0]).compile().memory_analysis()
    told = {name: getattr(analysis, f"{name}_size_in_bytes") / MIB for name in ("argument", "temp")}
    answer(walker(compiled, state, data), lambda: told)


def flops(source: str, dropout: float) -> dict[str, float]:
    """The FLOPs of a LoRA step and of a full one, as the compiler counts them."""
    from tlx import tuning

    counted = {}
    for name, how in (("lora", tuning.Lora(rank=8, alpha=16.0)), ("full", tuning.Full())):
        compiled, state, data = adapted(source, how, dropout)
        counted[name] = compiled.train.lower(state, data[0]).compile().cost_analysis()["flops"]
    return counted | {"ratio": counted["lora"] / counted["full"]}


def resident(field: str) -> float:
    """`VmRSS` (now) or `VmHWM` (the peak since it was last reset) of this process in MiB (Linux)."""
    lines = Path("/proc/self/status").read_text().split("\n")
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def theirs(source: str, dropout: float) -> None:
    import peft
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    empty = resident("VmRSS")
    config = transformers.BertConfig.from_pretrained(
        source, num_labels=2, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout
    )
    base = transformers.BertForSequenceClassification.from_pretrained(source, config=config)
    lora = peft.LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules=["query", "value"])
    model = peft.get_peft_model(base, lora).train()
    params = [param for param in model.parameters() if param.requires_grad]
    groups = [
        {"params": [param for name, param in model.named_parameters() if param.requires_grad and "lora" in name]},
        {"params": [param for name, param in model.named_parameters() if param.requires_grad and "lora" not in name]},
    ]
    groups[0]["weight_decay"], groups[1]["weight_decay"] = 0.0, DECAY
    optimiser = torch.optim.AdamW(groups, lr=RATE, fused=True)
    data = [{name: torch.from_numpy(array).long() for name, array in batch.items()} for batch in batches()]
    loaded = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew

    def step(number: int) -> float:
        batch = dict(data[number % len(data)])
        loss = model(labels=batch.pop("label"), **batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0, foreach=True)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return loss.item()

    answer(step, lambda: {"whole": resident("VmHWM") - empty, "growth": resident("VmHWM") - loaded})


def compare(source: str, dropout: float, options: argparse.Namespace) -> dict[str, Any]:
    sides = {name: Side([__file__, "--work", name, source, str(dropout)]) for name in ("tlx", "peft")}
    pairs = turns(sides, options.pairs, options.steps, options.patience)
    own, other = pairs[-1]["tlx"], pairs[-1]["peft"]
    return {
        "dropout": dropout,
        "memory_mib": {"arguments": own["argument"], "temporaries": own["temp"]}
        | {"peft, with its parameters": other["whole"], "peft, above the loaded model": other["growth"]},
        "memory": (own["argument"] + own["temp"]) / other["whole"],
        "memory_to_growth": (own["argument"] + own["temp"]) / other["growth"],
        "temporaries": own["temp"] / other["growth"],
        "flops": flops(source, dropout),
        **measured(pairs),
    }


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| dropout | quiet pairs | min | median | max | all, median | memory | ours / growth | temporaries / growth "
        "| FLOPs, LoRA / full |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        lines.append(
            f"| {row['dropout']:g} | {ratios(row)} | {row['memory']:.2f} | {row['memory_to_growth']:.2f} "
            f"| {row['temporaries']:.2f} | {row['flops']['ratio']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    options = options_of(__doc__).parse_args()

    from tlx.assets import extract

    source = str(extract("minilm-l6"))
    rows = [compare(source, dropout, options) for dropout in options.dropout]
    for row in rows:
        print({name: {key: round(value, 3) for key, value in row[name].items()} for name in ("memory_mib", "flops")})
    print(f"\nseconds: peft / tlx; memory: tlx / peft\n\n{table(rows)}")
    keep(options.out, "lora", table(rows), rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        {"tlx": ours, "peft": theirs}[sys.argv[2]](sys.argv[3], float(sys.argv[4]))
    else:
        main()
