"""Compare a LoRA step of MiniLM with a step of peft on torch eager: seconds, memory and FLOPs.

    python benchmarks/lora.py [--dropout 0.1 0] [--pairs 10] [--steps 2] [--out FOLDER]

Both sides do the same work in float32 on the same cores: LoRA of rank 8 and alpha 16 on query and value; batches of
32 x 64 tokens, some of them padding; AdamW at a constant learning rate on the adapter and the head; gradient norm
clipped at 1; the loss is read at every step. torch uses its default attention (sdpa) and fused AdamW.

The script reports three kinds of ratios:

* Seconds, peft / tlx. Two processes take turns (`pairs.py`); quote quiet pairs only.
* Memory, tlx / peft. The memory of tlx is the sum of arguments and temporaries of the compiled step
  (`memory_analysis`). The memory of peft is the peak of its resident memory during its steps, measured in two ways:
  above an empty process ("memory": both sides include the parameters), and above the loaded model ("growth": only the
  tlx side includes the parameters). "temporaries / growth" leaves the arguments of the tlx step out.
* FLOPs of the LoRA step / FLOPs of the full fine-tuning step, both in tlx, as the compiler counts them
  (`cost_analysis`).
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from pairs import Side, batches, keep, measured, parser_of, ratios, serve, step_function, tlx_step, turns

RATE, DECAY, STEPS = 1e-4, 0.01, 10_000
MIB = 2**20


def lora_step(source: str, way: Any, dropout: float) -> tuple[Any, Any, list[Any]]:
    """Compile the tlx step for a tuning (see `pairs.tlx_step`)."""
    from tlx import Optim

    optim = Optim("adamw", lr=RATE, weight_decay=DECAY, schedule="constant", clip=1.0)
    return tlx_step(source, way, dropout, optim, STEPS)


def tlx_side(source: str, dropout: float) -> None:
    """Serve the steps of tlx and report the memory of the compiled step."""
    from tlx import tuning

    compiled, state, data = lora_step(source, tuning.Lora(rank=8, alpha=16.0), dropout)
    analysis = compiled.train.lower(state, data[0]).compile().memory_analysis()
    memory = {name: getattr(analysis, f"{name}_size_in_bytes") / MIB for name in ("argument", "temp")}
    serve(step_function(compiled, state, data), lambda: memory)


def flops(source: str, dropout: float) -> dict[str, float]:
    """Return the FLOPs of a LoRA step and of a full fine-tuning step, and their ratio."""
    from tlx import tuning

    counts = {}
    for name, way in (("lora", tuning.Lora(rank=8, alpha=16.0)), ("full", tuning.Full())):
        compiled, state, data = lora_step(source, way, dropout)
        counts[name] = compiled.train.lower(state, data[0]).compile().cost_analysis()["flops"]
    return counts | {"ratio": counts["lora"] / counts["full"]}


def resident(field: str) -> float:
    """Return the resident memory of this process in MiB: `VmRSS` is the present value, `VmHWM` the peak (Linux)."""
    lines = Path("/proc/self/status").read_text().split("\n")
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def peft_side(source: str, dropout: float) -> None:
    """Serve the steps of peft and report the memory of this process."""
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
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak

    def step(number: int) -> float:
        batch = dict(data[number % len(data)])
        loss = model(labels=batch.pop("label"), **batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0, foreach=True)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return loss.item()

    serve(step, lambda: {"whole": resident("VmHWM") - empty, "growth": resident("VmHWM") - loaded})


def compare(source: str, dropout: float, options: argparse.Namespace) -> dict[str, Any]:
    """Measure both sides at one dropout rate and return a row of the table."""
    sides = {name: Side([__file__, "--work", name, source, str(dropout)]) for name in ("tlx", "peft")}
    pairs = turns(sides, options.pairs, options.steps, options.patience)
    tlx, peft = pairs[-1]["tlx"], pairs[-1]["peft"]
    return {
        "dropout": dropout,
        "memory_mib": {"arguments": tlx["argument"], "temporaries": tlx["temp"]}
        | {"peft, with its parameters": peft["whole"], "peft, above the loaded model": peft["growth"]},
        "memory": (tlx["argument"] + tlx["temp"]) / peft["whole"],
        "memory_to_growth": (tlx["argument"] + tlx["temp"]) / peft["growth"],
        "temporaries": tlx["temp"] / peft["growth"],
        "flops": flops(source, dropout),
        **measured(pairs),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the Markdown table."""
    lines = [
        "| dropout | quiet pairs | min | median | max | median of all pairs | memory | memory / growth "
        "| temporaries / growth | FLOPs, LoRA / full |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        lines.append(
            f"| {row['dropout']:g} | {ratios(row)} | {row['memory']:.2f} | {row['memory_to_growth']:.2f} "
            f"| {row['temporaries']:.2f} | {row['flops']['ratio']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    options = parser_of(__doc__).parse_args()

    from tlx.assets import extract

    source = str(extract("minilm-l6"))
    rows = [compare(source, dropout, options) for dropout in options.dropout]
    for row in rows:
        print({name: {key: round(value, 3) for key, value in row[name].items()} for name in ("memory_mib", "flops")})
    print(f"\nseconds: peft / tlx; memory: tlx / peft\n\n{table(rows)}")
    keep(options.out, "lora", table(rows), rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        {"tlx": tlx_side, "peft": peft_side}[sys.argv[2]](sys.argv[3], float(sys.argv[4]))
    else:
        main()
