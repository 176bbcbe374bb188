"""Check adapter_config.json of peft: the allowed values of each field, and unknown fields."""

from collections.abc import Iterator
from pathlib import Path

from tlx.files.documents import check, format_value, read_json
from tlx.files.documents.checks import Either, Flag, Form, Mapped, OneOf, Real, Record, Rows, Text, Whole, maybe
from tlx.files.patterns import compile_pattern
from tlx.trees import Json, near_miss

TLX = "TLX"
BASE, CLASSES = "tlx_base", "tlx_classes"
REMEDY = "save the adapter again with the library that wrote it"
NAMES = Either((Rows(Text()), Text(description="a regular expression")))
PLAIN = Text(r"\w+(\.\w+)*", "the name of a list of layers")
# The class of the base, for peft; the hash of the base and the class names, for tlx.
MAPPING = Record(optional={BASE: Text(), CLASSES: Rows(Text())})

COMMON: dict[str, Form] = {
    "peft_type": Text(),
    "task_type": maybe(Text()),
    "auto_mapping": maybe(MAPPING),
    "base_model_name_or_path": maybe(Text()),
    "revision": maybe(Text()),
    "peft_version": maybe(Text()),
    "inference_mode": maybe(Flag()),
    "modules_to_save": maybe(Rows(Text())),
}
LAYERS: dict[str, Form] = {
    "exclude_modules": maybe(NAMES),
    "fan_in_fan_out": maybe(Flag()),  # for Conv1D layers; peft also ignores it for all others
    "bias": OneOf(("none",)),
    "layers_to_transform": maybe(Either((Rows(Whole()), Whole()))),
    "layers_pattern": maybe(Either((Rows(PLAIN), PLAIN))),
}
TOKENS: dict[str, Form] = {
    "token_dim": maybe(Whole(1)),
    "num_layers": maybe(Whole(1)),
    "num_attention_heads": maybe(Whole(1)),
    "num_transformer_submodules": maybe(OneOf((1,))),
}
FORMS: dict[str, Record] = {
    "LORA": Record(
        {"r": Whole(1), "lora_alpha": Real(), "target_modules": NAMES},
        COMMON
        | LAYERS
        | {
            "lora_dropout": Real(0, 0.9999),
            "use_rslora": maybe(Flag()),
            "use_dora": maybe(Flag()),
            "rank_pattern": maybe(Mapped(Whole(1))),
            "alpha_pattern": maybe(Mapped(Real())),
            "init_lora_weights": maybe(Either((Flag(), Text()))),
        },
    ),
    "IA3": Record(
        {"target_modules": NAMES},
        COMMON
        | {name: LAYERS[name] for name in ("exclude_modules", "fan_in_fan_out")}
        | {"feedforward_modules": maybe(NAMES)},
    ),
    "VERA": Record({"r": Whole(1), "target_modules": NAMES}, COMMON | LAYERS | {"save_projection": maybe(Flag())}),
    "PREFIX_TUNING": Record({"num_virtual_tokens": Whole(1)}, COMMON | TOKENS),
    "PROMPT_TUNING": Record({"num_virtual_tokens": Whole(1)}, COMMON | TOKENS),
    TLX: Record({"auto_mapping": Record({BASE: Text()}, {CLASSES: Rows(Text())})}, COMMON),
}
# Fields that do not change the outputs of a trained adapter: its initialisation, its training, how peft runs it.
WITHOUT_EFFECT = {
    "LORA": (
        "corda_config", "ensure_weight_tying", "eva_config", "loftq_config", "lora_ga_config", "megatron_core",
        "merge_weights", "qalora_group_size", "runtime_config", "velora_config",
    ),
    "IA3": ("init_ia3_weights",),
    "VERA": ("d_initial", "init_weights", "projection_prng_key", "vera_dropout"),
    "PREFIX_TUNING": ("encoder_hidden_size", "init_weights", "prefix_projection"),
    "PROMPT_TUNING": (
        "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_kwargs", "tokenizer_name_or_path",
    ),
    TLX: (),
}  # fmt: skip
# Allowed initialisations of the LoRA matrices. With any other (PiSSA, OLoRA, CorDA, LoRA-GA, LoftQ), peft subtracts the
# initial matrices from the kernels of the base each time that it opens the adapter.
BEGUN = (None, True, False, "gaussian", "eva", "orthogonal", "mica")


def read_config(path: Path) -> Json:
    """Read and check an `adapter_config.json`.

    Raises:
        ValueError: The document does not describe an adapter, tlx does not know the kind of adapter, or a field has
            another type or a value that tlx does not know. The message has the file and the field.
    """
    document: Json = read_json(path, Record({"peft_type": Text()}), remedy=REMEDY)
    kind = document["peft_type"]
    if kind not in FORMS:
        raise ValueError(f"{path}: tlx does not support peft_type {kind!r}{near_miss(str(kind), FORMS)}")
    check_known(document, kind, path)
    check(document, FORMS[kind], path, REMEDY)
    if kind == "LORA":
        check_begun(document, path)
    check_layers(document, path)
    for field, expression in expressions(document):
        compile_pattern(expression, f"{path}: {field}")
    return document


def expressions(document: Json) -> Iterator[tuple[str, str]]:
    """Yield the regular expressions of a config, each with its field."""
    for field in ("target_modules", "exclude_modules", "feedforward_modules"):
        if isinstance(document.get(field), str):
            yield field, document[field]
    for field in ("modules_to_save", "rank_pattern", "alpha_pattern"):
        yield from ((field, expression) for expression in document.get(field) or ())


def check_known(document: Json, kind: str, path: Path) -> None:
    """Raise ValueError if an unknown field is set: it may change the outputs of the adapter."""
    form = FORMS[kind]
    fields = {*form.required, *form.optional, *WITHOUT_EFFECT[kind]}
    for name, value in document.items():
        if name not in fields and value not in (None, False, "", [], {}):
            near = near_miss(name, {*form.required, *form.optional})
            raise ValueError(
                f"{path} sets {name} to {format_value(value)}, but tlx does not know this field"
                f"{near if 'close' in near else ''}. If the field does not change the outputs of the adapter, remove "
                "it from the file"
            )


def check_begun(document: Json, path: Path) -> None:
    """Raise ValueError if peft changes the weights of the base when it opens the adapter."""
    initialisation = document.get("init_lora_weights")
    if (initialisation.lower() if isinstance(initialisation, str) else initialisation) not in BEGUN:
        raise ValueError(
            f"{path} sets init_lora_weights to {initialisation!r}, which changes the base weights in peft; tlx does "
            "not change them. Save the adapter as plain LoRA: save_pretrained(..., "
            "path_initial_model_for_weight_conversion=...) of peft"
        )


def check_layers(document: Json, path: Path) -> None:
    """Raise ValueError for a choice of layers that peft refuses too."""
    layers, lists = document.get("layers_to_transform"), document.get("layers_pattern")
    if isinstance(document.get("target_modules"), str) and (layers is not None or lists is not None):
        name = "layers_pattern" if layers is None else "layers_to_transform"
        raise ValueError(
            f"{path} sets {name} to {format_value(document[name])} and target_modules to a regular expression; "
            "expected a list of names in target_modules, or the layer numbers within the expression"
        )
    if lists and layers is None:
        raise ValueError(f"{path} sets layers_pattern to {format_value(lists)} without layers_to_transform; {REMEDY}")
