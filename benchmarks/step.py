"""Compare the training step of MiniLM with `transformers` on torch eager.

    python benchmarks/step.py [--settings full blocks head] [--dropout 0.1 0] [--pairs 10] [--steps 2] [--out FOLDER]

There are three settings: full fine-tuning, embeddings and four blocks frozen, and head only. Both sides do the same
work in float32 on the same cores: 22.7 M parameters; batches of 32 x 64 tokens, some of them padding; AdamW with
warm-up, without weight decay on biases and norms; gradient norm clipped at 1; the loss is read at every step. On both
sides frozen layers are in evaluation mode and have neither gradient nor optimiser state. torch uses its default
attention (sdpa) and its fastest AdamW here (`--adamw fused`; the other choice is `foreach`).

The sides take turns in two processes (`pairs.py`). The ratio of a pair is the seconds of torch divided by the seconds
of tlx: above 1 tlx is faster. A busy machine slows torch more than tlx, because the threads of torch wait for each
other at every operation. So quote only the ratios of quiet pairs.
"""

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

from pairs import Side, batches, keep, measured, parser_of, ratios, serve, step_function, tlx_step, turns

STEPS = 10_000
PEAK, WARMUP, DECAY = 2e-5, 0.01, 0.01
SETTINGS = {"full": "all trainable", "blocks": "embeddings and four blocks frozen", "head": "head only"}


def tlx_side(source: str, setting: str, dropout: float, adamw: str) -> Callable[[int], float]:
    """Return the function `step(number) -> loss` of tlx. `adamw` is ignored; it concerns torch only."""
    from tlx import Optim, tuning

    way = {"full": tuning.Full(), "blocks": tuning.Freeze(through="blocks/03"), "head": tuning.Probe()}[setting]
    optim = Optim("adamw", lr=PEAK, weight_decay=DECAY, warmup=WARMUP, schedule="linear", clip=1.0)
    return step_function(*tlx_step(source, way, dropout, optim, STEPS))


def torch_side(source: str, setting: str, dropout: float, adamw: str) -> Callable[[int], float]:
    """Return the function `step(number) -> loss` of `transformers` on torch."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config = transformers.BertConfig.from_pretrained(
        source, num_labels=2, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout
    )
    model = transformers.BertForSequenceClassification.from_pretrained(source, config=config)
    bert = model.bert
    frozen = {"full": [], "blocks": [bert.embeddings, *bert.encoder.layer[:4]], "head": [bert]}[setting]
    model.train()
    for module in frozen:
        module.eval().requires_grad_(False)
    params = [param for param in model.parameters() if param.requires_grad]
    groups = [
        {"params": [param for param in params if param.ndim > 1], "weight_decay": DECAY},
        {"params": [param for param in params if param.ndim == 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=PEAK, **{adamw: True})
    warm = WARMUP * STEPS
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda n: min((n + 1) / warm, 1.0) * min(1.0, (STEPS - n) / (STEPS - warm))
    )
    data = [{name: torch.from_numpy(array).long() for name, array in batch.items()} for batch in batches()]

    def step(number: int) -> float:
        batch = dict(data[number % len(data)])
        loss = model(labels=batch.pop("label"), **batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0, foreach=True)
        optimiser.step()
        rate.step()
        optimiser.zero_grad(set_to_none=True)
        return loss.item()

    return step


def work(side: str, source: str, setting: str, dropout: float, adamw: str) -> None:
    """Serve the steps of one side."""
    serve({"tlx": tlx_side, "torch": torch_side}[side](source, setting, dropout, adamw))


def compare(source: str, setting: str, dropout: float, options: argparse.Namespace) -> dict[str, Any]:
    """Measure both sides in one setting and return a row of the table."""
    words = [setting, str(dropout), options.adamw]
    sides = {name: Side([__file__, "--work", name, source, *words], options.huge_pages) for name in ("tlx", "torch")}
    pairs = turns(sides, options.pairs, options.steps, options.patience)
    return {
        "setting": setting,
        "dropout": dropout,
        "peak_mib": {name: pairs[-1][name]["peak"] for name in sides},
        **measured(pairs),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the Markdown table."""
    lines = [
        "| setting | dropout | quiet pairs | min | median | max | median of all pairs | peak memory, tlx / torch |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        peak = row["peak_mib"]
        lines.append(
            f"| {SETTINGS[row['setting']]} | {row['dropout']:g} | {ratios(row)} "
            f"| {peak['tlx']:.0f} / {peak['torch']:.0f} MiB |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--settings", nargs="+", choices=tuple(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--adamw", choices=("fused", "foreach"), default="fused", help="AdamW implementation of torch")
    parser.add_argument("--huge-pages", action="store_true", help="set glibc.malloc.hugetlb=1 for both sides")
    options = parser.parse_args()

    from tlx.assets import extract

    source = str(extract("minilm-l6"))
    rows = []
    for setting in options.settings:
        for dropout in options.dropout:
            rows.append(compare(source, setting, dropout, options))
            print(table(rows).splitlines()[-1], flush=True)
    print(f"\nseconds of torch / seconds of tlx\n\n{table(rows)}")
    keep(options.out, "step", table(rows), rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(*sys.argv[2:5], float(sys.argv[5]), sys.argv[6])
    else:
        main()
