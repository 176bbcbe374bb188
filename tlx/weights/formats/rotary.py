"""The rotary frequencies of decoders in the config.json of `transformers`: `rope_parameters`, or older fields."""

from typing import Any

from tlx.layers import yarn_factor
from tlx.models.llama import Llama
from tlx.trees import Json, near_miss

SCALINGS = ("default", "linear", "dynamic", "llama3", "yarn")
FULL, SLIDING = "full_attention", "sliding_attention"
# Our fields of a scaling by foreign name.
FURTHER = {
    "default": {},
    "linear": {"factor": "factor"},
    "dynamic": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "low": "low_freq_factor",
        "high": "high_freq_factor",
        "original": "original_max_position_embeddings",
    },
    "yarn": {
        "factor": "factor",
        "fast": "beta_fast",
        "slow": "beta_slow",
        "whole": "truncate",
        "turned": "attention_factor",
        "original": "original_max_position_embeddings",
    },
}


def read_rotary(document: Json, family: str, values: Json) -> Json:
    """Return our fields of the rotary frequencies.

    Args:
        document: The content of config.json.
        family: The `model_type`.
        values: Our other fields, with the defaults of the family.

    Raises:
        ValueError: tlx does not know the scaling.
    """
    rope: dict[str, Any] = dict(document.get("rope_parameters") or {})
    local: Json = {}
    if family == "gemma3_text":
        short = rope.get(SLIDING) or {}
        rope = dict(rope.get(FULL) or {})
        check_kind(short, ("default",))
        local["local_base"] = short.get("rope_theta", document.get("rope_local_base_freq", values["local_base"]))
    elif FULL in rope or SLIDING in rope:
        raise ValueError("config.json has rope_parameters for kinds of blocks; tlx reads these for 'gemma3_text' only")
    rope |= document.get("rope_scaling") or {}
    kind = check_kind(rope, SCALINGS)
    part = rope.get("partial_rotary_factor", document.get("partial_rotary_factor"))
    if part not in (None, 1):
        raise ValueError(f"config.json has partial_rotary_factor {part}; tlx supports 1 only")
    base = rope.get("rope_theta", document.get("rope_theta"))
    fields: Json = {ours: rope[foreign] for ours, foreign in FURTHER[kind].items() if rope.get(foreign) is not None} | {
        "scaling": kind,
        "base": float(values.get("base", Llama.base) if base is None else base),
    }
    if kind in ("llama3", "yarn"):
        positions = values.get("positions", Llama.positions)
        fields["original"] = document.get("original_max_position_embeddings", fields.get("original", positions))
        fields.setdefault("factor", positions / fields["original"])
    if kind == "yarn" and "turned" not in fields and rope.get("mscale") and rope.get("mscale_all_dim"):
        ends = (yarn_factor(fields["factor"], rope[name]) for name in ("mscale", "mscale_all_dim"))
        fields["turned"] = next(ends) / next(ends)
    return fields | local


def check_kind(rope: Json, kinds: tuple[str, ...]) -> str:
    """Return the kind of scaling. Raises ValueError for one that is not among `kinds`."""
    kind = str(rope.get("rope_type", rope.get("type", "default")))
    if kind not in kinds:
        raise ValueError(
            f"config.json scales rotary frequencies by {kind!r}; tlx supports {', '.join(kinds)}"
            f"{near_miss(kind, kinds)}"
        )
    return kind


def write_rotary(config: Llama) -> Json:
    """Return `rope_parameters`."""
    rope: Json = {"rope_type": config.scaling, "rope_theta": config.base}
    rope |= {foreign: getattr(config, ours) for ours, foreign in FURTHER[config.scaling].items()}
    if "original_max_position_embeddings" in rope:
        rope["original_max_position_embeddings"] = config.original or config.positions
    if config.family != "gemma3_text":
        return {name: value for name, value in rope.items() if value is not None}
    return {FULL: rope, SLIDING: {"rope_type": "default", "rope_theta": config.local_base}}
