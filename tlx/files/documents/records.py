"""The forms of the files of runs, studies and searches: recipe.json, result.json, metrics.jsonl, study.json, ..."""

from tlx.files.documents.checks import (
    Anything,
    Either,
    Flag,
    Form,
    Mapped,
    Null,
    OneOf,
    Real,
    Record,
    Rows,
    Text,
    Whole,
    maybe,
)

RERUN = "restore the file, or run again with --overwrite"
# A measured number of a run, which may be NaN.
NUMBER = Real(finite=False)
MAYBE = maybe(NUMBER)
COUNT = Whole(0, 2**62)
NAMES = Rows(Text())
HASH = Text(r"\w{1,64}", "letters and digits")
KIND = Record({"kind": Text()})

# The page of a study reads no more of a recipe than this.
BRIEF = Record({"recipe": Record({}, {"task": KIND, "data": Record()})}, {"fingerprint": HASH})
# A finished run before it was lengthened.
SHORTER = Record({"steps": COUNT, "fingerprint": HASH}, {"metrics": Mapped(NUMBER), "command": Text()})
# Identifies the run that a folder belongs to.
OWNED = Record({"fingerprint": HASH}, {"lengthened": Rows(SHORTER)})
RECIPE = Record(
    {"fingerprint": HASH, "recipe": Record({"data": Record({"kind": Text(), "tokens": Whole(1)}), "task": KIND})},
    {
        "changes": Rows(Rows(Text(), 3, 3)),
        "command": Text(),
        "classes": Mapped(Text()),
        "git": maybe(Record({"commit": HASH}, {"dirty": maybe(Flag())})),
        "lengthened": Rows(SHORTER),
    },
)
# The part of a recipe that the page of a run reads.
DRAWN = Record(
    {
        "recipe": Record(
            {
                "data": Record(
                    {"target": Either((Text(), Record({"kind": Text()}))), "source": Anything(), "labels": Anything()}
                ),
                "task": KIND,
                "tuning": Either((KIND, Record({"repr": Text()}))),
                "weights": maybe(Record({"source": Text()})),
                "train": Record(),
                "optim": Record(),
                "objective": Rows(Record()),
            }
        ),
        "changes": Rows(Rows(Text(), 3, 3)),
        "command": Text(),
        "fingerprint": HASH,
    }
)

# The declaration of a metric by a task (see `tlx.functional.metrics.Metric`).
MEASURE = Record(
    {
        "better": OneOf(("max", "min")),
        "low": MAYBE,
        "high": MAYBE,
        "mean_of": Text(),
        "value": maybe(Text()),
        "interval": Flag(),
        "points": Flag(),
        "words": Text(),
    },
    {"main": Flag()},
)
FIELDS: dict[str, Form] = {
    "fingerprint": HASH,
    "seed": COUNT,
    "selection": Text(),
    "selected_step": COUNT,
    "rules": Mapped(Record({}, {"step": maybe(COUNT), "value": MAYBE, "gap": MAYBE})),
    "metrics": Mapped(NUMBER),
    "measures": Mapped(MEASURE),
    "label": Text(),
    "task": Mapped(Anything()),
    "columns": Mapped(Record({"kind": Text(), "rate": COUNT, "names": NAMES})),
    "parameters": Record({}, {"total": COUNT, "trainable": COUNT}),
    "steps": COUNT,
    "asked_steps": COUNT,
    "stopped": maybe(Text()),
    "lengthened": Rows(SHORTER),
    "seconds": Mapped(Real(0)),
    "examples_per_second": MAYBE,
    "flops": MAYBE,
    "peak_memory_bytes": maybe(COUNT),
    "examples": Mapped(COUNT),
    "classes": NAMES,
    "data": HASH,
    "notes": NAMES,
    "tests": NAMES,
    "members": Mapped(Record({"rate": Real(0, 1), "examples": Mapped(COUNT)})),
    "sha256": Mapped(Text(r"[0-9a-f]{64}", "64 hexadecimal digits")),
    "energy": maybe(Record({}, {"kwh": MAYBE, "co2e_kg": MAYBE, "how": maybe(Text())})),
    "pack": maybe(Record({}, {"arms": Whole(1), "place": COUNT})),
    "prefix": maybe(Rows(Record({}, {"phase": COUNT, "cut": maybe(Text()), "computed": COUNT, "told": Text()}))),
}
RESULT = Record({"metrics": FIELDS["metrics"]}, FIELDS)
# The part of a result that the page of a run, and the commands that open it again, need.
WHOLE = Record(
    {
        name: FIELDS[name]
        for name in (
            "fingerprint", "seed", "selection", "selected_step", "metrics", "parameters", "steps", "seconds",
            "examples", "classes", "data",
        )
    },
    FIELDS,
)  # fmt: skip
# The table of a study's results.
LISTED = Record(
    {name: FIELDS[name] for name in ("seed", "selection", "selected_step", "steps", "metrics", "seconds")}
    | {"parameters": Record({"trainable": COUNT})},
    FIELDS,
)
METRIC = Record({"step": COUNT, "name": Text(), "value": NUMBER}, {"time": Real()})
MISTAKES = Rows(
    Record(
        {
            "index": COUNT,
            "label": Either((Text(), NUMBER)),
            "answer": Either((Mapped(NUMBER), Text())),
            "loss": NUMBER,
        },
        {"text": Text(), "text_pair": Text(), "image": Text()},
    )
)
ROW = Record(
    {
        "path": Text(),
        "shape": Rows(COUNT),
        "group": Text(),
        "rate": MAYBE,
        "decay": MAYBE,
        "trainable": Flag(),
    }
)
PARAMETERS = Record({"phases": Rows(Record({"share": Real(0, 1), "rows": Rows(ROW), "totals": Mapped(COUNT)}), low=1)})
ENVIRONMENT = Record(
    {"python": Text(), "platform": Text(), "devices": NAMES, "packages": Mapped(Text())},
    {"processors": maybe(COUNT), "xla_flags": Text()},
)
WEIGHTS = Record({"source": maybe(Text()), "entries": Rows(Record({"action": Text()}, {}))})

SPLIT = Record({"count": COUNT, "of": COUNT}, {"indices": Rows(COUNT)})
NORMS = Record({"change": MAYBE, "before": MAYBE, "after": MAYBE, "count": COUNT, "relative": MAYBE})
SPECTRUM = Record({"effective_rank": NUMBER, "singular_values": Rows(NUMBER)})
PROBE = Record({"measure": Text(), "value": MAYBE, "method": maybe(Text())}, {"low": MAYBE, "high": MAYBE})
MOVED = Record(
    {
        "before": Record({"source": Text(), "scratch": Flag(), "fresh_stages": NAMES}, {"fresh": NAMES}),
        "after": Record({"selection": Text(), "step": COUNT}),
        "examples": Record({"train": SPLIT, "validation": SPLIT}),
        "stages": Rows(
            Record(
                {"name": Text(), "weights": Mapped(NORMS)},
                {
                    "similarity": Record({"cka": MAYBE, "plain": MAYBE}),
                    "probe": Record({"before": PROBE, "after": PROBE}),
                },
            )
        ),
        "kernels": Rows(
            Record(
                {
                    "path": Text(),
                    "stage": Text(),
                    "matrix": Rows(COUNT),
                    "before": SPECTRUM,
                    "after": SPECTRUM,
                    "change": SPECTRUM,
                }
            )
        ),
        "line": Rows(Record({"share": NUMBER}, {}, Record({"value": MAYBE}, {"low": MAYBE, "high": MAYBE}))),
        "notes": NAMES,
    }
)

FAILED = Record({"error": Text(), "time": Real()}, {"traceback": Text()})
NAME = Either((Text(), Real(), Flag(), Null()))
CELL = Record(
    {"fingerprint": Text(r"\w+", "letters and digits"), "names": Mapped(NAME)},
    {"changes": Rows(Rows(Anything(), 3, 3))},
)
STUDY = Record(
    {"cells": Rows(CELL)},
    {
        "name": maybe(Text()),
        "question": maybe(Text()),
        "metric": maybe(Text()),
        "command": maybe(Text()),
        "file": maybe(Text()),
        "baseline": maybe(Mapped(NAME)),
        "smallest": maybe(Real(0)),
    },
)
PLAN = Record()
EXECUTION = Record({"cell": Text(), "time": Real(), "host": Text(), "process": COUNT})
SEARCH = Record(
    {
        "fingerprint": HASH,
        "recipe": Record(),
        "space": Mapped(Text()),
        "sampler": Text(),
        "pruner": Text(),
        "metric": Text(),
        "direction": OneOf(("maximize", "minimize")),
        "seed": COUNT,
    }
)
# The attributes of a trial that a worker writes to Optuna's journal.
TRIAL = Record({}, {"seconds": maybe(Real(0)), "value": MAYBE, "error": maybe(Text())})
OPERATIONS = Mapped(Record({"total": NUMBER, "steps": COUNT, "how": Text()}))
DOMAINS = Record({"of": HASH, "sources": Rows(Anything()), "eps": Rows(NUMBER), "rows": Rows(Record())})

# By the name of the file in a run's folder.
FORMS: dict[str, Form] = {
    "recipe.json": RECIPE,
    "result.json": WHOLE,
    "mistakes.json": MISTAKES,
    "parameters.json": PARAMETERS,
    "environment.json": ENVIRONMENT,
    "weights.json": WEIGHTS,
    "moved.json": MOVED,
}
