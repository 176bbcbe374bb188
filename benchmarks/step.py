"""The train step of MiniLM beside `transformers` on torch eager: full fine-tuning, four blocks frozen, head only.

    python benchmarks/step.py [--settings full blocks head] [--dropout 0.1 0] [--pairs 10] [--steps 2] [--out FOLDER]

Both do the same work in float32 on the same cores: 22.7 M parameters, batches of 32 x 64 tokens (some of them padding),
AdamW with warm-up, decoupled decay off biases and norms, the gradient's norm clipped at 1, the loss read every step.
What is frozen is in evaluation mode on both sides and has neither gradient nor optimiser state. torch runs its default
attention (sdpa) and its quickest AdamW here (`--adamw fused`; `foreach` is the other choice).

The sides take turns in two processes (`pairs.py`); printed is the ratio of torch's seconds to ours, pair by pair, so
above 1 we are the quicker. A busy machine hurts torch more than us (its threads wait for each other at every
operation) and would flatter us: only the ratios of quiet pairs are to be quoted.
"""

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

from pairs import Side, answer, batches, keep, measured, options_of, our_step, ratios, turns, walker

STEPS = 10_000
PEAK, WARMUP, DECAY = 2e-5, 0.01, 0.01
SETTINGS = {"full": "everything learns", "blocks": "embeddings and four blocks frozen", "head": "head only"}


def ours(source: str, setting: str, dropout: float, adamw: str) -> Callable[[int], float]:
    """`step(number) -> loss` of tlx; `adamw` is torch's affair."""
    from tlx import Optim, tuning

    how = {"full": tuning.Full(), "blocks": tuning.Freeze(through="blocks/03"), "head": tuning.Probe()}[setting]
    optim = Optim("adamw", lr=PEAK, weight_decay=DECAY, warmup=WARMUP, schedule="linear", clip=1.0)
    return walker(*our_step(source, how, dropout, optim, STEPS))


def theirs(source: str, setting: str, dropout: float, adamw: str) -> Callable[[int], float]:
    """`step(number) -> loss` of `transformers` on torch."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config = transformers.BertConfig.from_pretrained(
        source, num_labels=2, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout
    )
    model = transformers.BertForSequenceClassification.from_pretrained(source, config=config)
    bert = model.bert
    still = {"full": [], "blocks": [bert.embeddings, *bert.encoder.layer[:4]], "head": [bert]}[setting]
    model.train()
    for module in still:
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
    answer({"tlx": ours, "torch": theirs}[side](source, setting, dropout, adamw))


def compare(source: str, setting: str, dropout: float, options: argparse.Namespace) -> dict[str, Any]:
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
    parser = options_of(__doc__)
    parser.add_argument("--settings", nargs="+", choices=tuple(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--adamw", choices=("fused", "foreach"), default="fused", help="torch's implementation")
    parser.add_argument("--huge-pages", action="store_true", help="both sides with glibc.malloc.hugetlb=1")
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
