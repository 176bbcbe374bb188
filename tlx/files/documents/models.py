"""The form of config.json: the fields of every model, and those of each Hugging Face `model_type`."""

from tlx.files.documents.checks import (
    Either,
    Flag,
    Form,
    Mapped,
    OneOf,
    Real,
    Record,
    Rows,
    Text,
    Whole,
    maybe,
)

SHARE = Real(0, 1)
EPSILON = Real(0, 1, above=True)
SIZE = Whole(1)
SIDES = Either((Whole(1, 65536), Rows(Whole(1, 65536), 2, 2)))
NAME = Text(r"[\w-]+(\.[\w-]+)*", "a name")

COMMON: dict[str, Form] = {
    "architectures": maybe(Rows(Text())),
    "id2label": maybe(Mapped(Text(), Text(r"\d{1,9}", "a whole number in quotes"))),
    "num_labels": maybe(Whole(1, 10**5)),
    "problem_type": maybe(
        OneOf(("regression", "single_label_classification", "multi_label_classification")),
    ),
    "pad_token_id": maybe(Whole()),
}
TRANSFORMER: dict[str, Form] = {
    "initializer_range": maybe(Real(0)),
    "layer_norm_eps": maybe(EPSILON),
    "hidden_act": maybe(NAME),
    "hidden_size": maybe(SIZE),
    "num_hidden_layers": maybe(SIZE),
    "num_attention_heads": maybe(SIZE),
    "intermediate_size": maybe(SIZE),
    "hidden_dropout_prob": maybe(SHARE),
    "attention_probs_dropout_prob": maybe(SHARE),
}
WORDS: dict[str, Form] = {
    "vocab_size": maybe(SIZE),
    "max_position_embeddings": maybe(SIZE),
    "is_decoder": maybe(Flag()),
    "position_embedding_type": maybe(NAME),
    "tlx_pooling": OneOf(("first", "mean")),
}
BERT = TRANSFORMER | WORDS | {"type_vocab_size": maybe(Whole()), "classifier_dropout": maybe(SHARE)}
DEBERTA = (
    TRANSFORMER
    | WORDS
    | {
        **dict.fromkeys(("type_vocab_size", "conv_kernel_size"), maybe(Whole())),
        **dict.fromkeys(("max_relative_positions", "position_buckets"), maybe(Whole(-1))),
        **dict.fromkeys(("relative_attention", "share_att_key", "position_biased_input"), maybe(Flag())),
        **dict.fromkeys(("conv_act", "pooler_hidden_act"), maybe(NAME)),
        **dict.fromkeys(("pooler_dropout", "cls_dropout"), maybe(SHARE)),
        **dict.fromkeys(("conv_groups", "embedding_size", "attention_head_size", "pooler_hidden_size"), maybe(SIZE)),
        "pos_att_type": maybe(Either((Rows(NAME), Text()))),
        "norm_rel_ebd": maybe(Text()),
    }
)
ROPE = maybe(Record({}, {"rope_type": maybe(NAME), "rope_theta": maybe(Real(0, above=True))}))
MODERNBERT: dict[str, Form] = {
    field: TRANSFORMER[field]
    for field in ("initializer_range", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
}
MODERNBERT |= WORDS | {
    **dict.fromkeys(("hidden_activation", "classifier_activation"), maybe(NAME)),
    **dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), maybe(Flag())),
    **dict.fromkeys(("embedding_dropout", "attention_dropout", "mlp_dropout", "classifier_dropout"), maybe(SHARE)),
    **dict.fromkeys(("local_attention", "global_attn_every_n_layers"), maybe(SIZE)),
    **dict.fromkeys(("global_rope_theta", "local_rope_theta"), maybe(Real(0, above=True))),
    "norm_eps": maybe(EPSILON),
    "classifier_pooling": maybe(NAME),
    "layer_types": maybe(Rows(NAME)),
    "rope_parameters": maybe(Record({}, {"full_attention": ROPE, "sliding_attention": ROPE})),
}
T5: dict[str, Form] = {
    **dict.fromkeys(("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers"), maybe(SIZE)),
    **dict.fromkeys(("num_heads", "relative_attention_num_buckets", "relative_attention_max_distance"), maybe(SIZE)),
    **dict.fromkeys(("dropout_rate", "classifier_dropout"), maybe(SHARE)),
    **dict.fromkeys(("tie_word_embeddings", "scale_decoder_outputs", "is_encoder_decoder"), maybe(Flag())),
    **dict.fromkeys(("eos_token_id", "decoder_start_token_id"), maybe(Whole())),
    "layer_norm_epsilon": maybe(EPSILON),
    "initializer_factor": maybe(Real(0)),
    "feed_forward_proj": maybe(NAME),
}
WORD = maybe(Whole())
BART: dict[str, Form] = {
    **dict.fromkeys(("vocab_size", "d_model", "encoder_layers", "decoder_layers", "encoder_ffn_dim"), maybe(SIZE)),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_attention_heads", "decoder_attention_heads"), maybe(SIZE)),
    **dict.fromkeys(("dropout", "attention_dropout", "activation_dropout", "classifier_dropout"), maybe(SHARE)),
    **dict.fromkeys(("encoder_layerdrop", "decoder_layerdrop"), maybe(SHARE)),
    **dict.fromkeys(("tie_word_embeddings", "is_encoder_decoder", "is_decoder", "scale_embedding"), maybe(Flag())),
    **dict.fromkeys(("eos_token_id", "decoder_start_token_id"), WORD),
    **dict.fromkeys(("forced_bos_token_id", "forced_eos_token_id"), WORD),
    "max_position_embeddings": maybe(SIZE),
    "activation_function": maybe(NAME),
    "init_std": maybe(Real(0)),
}
# The fields of generation_config.json that a model reads.
GENERATION = Record({}, dict.fromkeys(("decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id"), WORD))
GPT2: dict[str, Form] = {
    **dict.fromkeys(("vocab_size", "n_embd", "n_layer", "n_head", "n_inner", "n_positions"), maybe(SIZE)),
    **dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop", "classifier_dropout"), maybe(SHARE)),
    **dict.fromkeys(("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "add_cross_attention"), maybe(Flag())),
    "tie_word_embeddings": maybe(Flag()),
    "activation_function": maybe(NAME),
    "layer_norm_epsilon": maybe(EPSILON),
    "initializer_range": maybe(Real(0)),
}
SCALING: dict[str, Form] = {
    **dict.fromkeys(("rope_type", "type"), maybe(NAME)),
    **dict.fromkeys(
        ("rope_theta", "factor", "attention_factor", "beta_fast", "beta_slow", "low_freq_factor", "high_freq_factor"),
        maybe(Real(0, above=True)),
    ),
    **dict.fromkeys(("mscale", "mscale_all_dim", "partial_rotary_factor"), maybe(Real(0))),
    "original_max_position_embeddings": maybe(SIZE),
    "truncate": maybe(Flag()),
}
LLAMA: dict[str, Form] = {
    field: TRANSFORMER[field]
    for field in (
        "initializer_range", "hidden_act", "hidden_size", "num_hidden_layers", "num_attention_heads",
        "intermediate_size",
    )
} | {
    **dict.fromkeys(("vocab_size", "max_position_embeddings", "num_key_value_heads", "head_dim"), maybe(SIZE)),
    **dict.fromkeys(("sliding_window", "sliding_window_pattern", "query_pre_attn_scalar"), maybe(SIZE)),
    **dict.fromkeys(("attention_bias", "mlp_bias", "tie_word_embeddings", "use_sliding_window"), maybe(Flag())),
    **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping"), maybe(Real(0, above=True))),
    **dict.fromkeys(("attention_dropout", "classifier_dropout"), maybe(SHARE)),
    **dict.fromkeys(("rope_theta", "rope_local_base_freq"), maybe(Real(0, above=True))),
    "use_bidirectional_attention": maybe(Flag()),
    "hidden_activation": maybe(NAME),
    "rms_norm_eps": maybe(EPSILON),
    "max_window_layers": maybe(Whole()),
    "layer_types": maybe(Rows(NAME)),
    "rope_parameters": maybe(
        Record({}, SCALING | dict.fromkeys(("full_attention", "sliding_attention"), maybe(Record({}, SCALING))))
    ),
    "rope_scaling": maybe(Record({}, SCALING)),
}  # fmt: skip
VIT = TRANSFORMER | {"image_size": SIDES, "patch_size": SIDES, "num_channels": maybe(Whole(1, 1024))}
VIT |= {"qkv_bias": maybe(Flag())}
SIGLIP = VIT | {"attention_dropout": maybe(SHARE), "vision_use_head": maybe(Flag())}
IMAGE: dict[str, Form] = {
    "image_size": SIDES,
    "patch_size": SIDES,
    "num_channels": maybe(Whole(1, 1024)),
    "hidden_act": maybe(NAME),
    "initializer_range": maybe(Real(0)),
    "layer_norm_eps": maybe(EPSILON),
    "drop_path_rate": maybe(SHARE),
}
CONVNEXT = IMAGE | {"hidden_sizes": maybe(Rows(SIZE)), "depths": maybe(Rows(Whole(1, 1000)))}
SWIN = IMAGE | {
    "embed_dim": maybe(SIZE),
    "depths": maybe(Rows(Whole(1, 1000))),
    "num_heads": maybe(Rows(SIZE)),
    "window_size": maybe(Whole(1, 65536)),
    "mlp_ratio": Real(0, 1024, above=True),
    "qkv_bias": maybe(Flag()),
    "hidden_dropout_prob": maybe(SHARE),
    "attention_probs_dropout_prob": maybe(SHARE),
    "use_absolute_embeddings": maybe(Flag()),
}
FIELDS: dict[str, dict[str, Form]] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert"), BERT),
    "electra": BERT | {"embedding_size": maybe(SIZE)},
    "albert": BERT
    | dict.fromkeys(("embedding_size", "num_hidden_groups", "inner_group_num"), maybe(SIZE))
    | {"classifier_dropout_prob": maybe(SHARE)},
    "deberta-v2": DEBERTA,
    "modernbert": MODERNBERT,
    **dict.fromkeys(("t5", "mt5"), T5),
    **dict.fromkeys(("bart", "mbart"), BART),
    "gpt2": GPT2,
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"), LLAMA),
    "mpnet": TRANSFORMER | WORDS | {"relative_attention_num_buckets": maybe(SIZE)},
    "distilbert": WORDS
    | {
        "initializer_range": maybe(Real(0)),
        "dim": maybe(SIZE),
        "n_layers": maybe(SIZE),
        "n_heads": maybe(SIZE),
        "hidden_dim": maybe(SIZE),
        "activation": maybe(NAME),
        "dropout": maybe(SHARE),
        "attention_dropout": maybe(SHARE),
        "seq_classif_dropout": maybe(SHARE),
    },
    **dict.fromkeys(("vit", "deit"), VIT | {"pooler_act": maybe(NAME), "pooler_output_size": maybe(SIZE)}),
    "dinov2": VIT
    | {
        "mlp_ratio": Real(0, 1024, above=True),
        "use_swiglu_ffn": Flag(),
        "layerscale_value": Real(),
        "drop_path_rate": SHARE,
    },
    "dinov2_with_registers": VIT
    | {
        "mlp_ratio": Real(0, 1024, above=True),
        "use_swiglu_ffn": Flag(),
        "layerscale_value": Real(),
        "drop_path_rate": SHARE,
        "num_register_tokens": Whole(0, 10000),
    },
    "dinov3_vit": VIT
    | {
        **dict.fromkeys(("query_bias", "key_bias", "value_bias", "proj_bias", "mlp_bias", "use_gated_mlp"), Flag()),
        "attention_dropout": maybe(SHARE),
        "layerscale_value": Real(),
        "drop_path_rate": SHARE,
        "num_register_tokens": Whole(0, 10000),
        "rope_theta": Real(0, above=True),
    },
    "siglip_vision_model": SIGLIP,
    "siglip": {"vision_config": maybe(Record({}, SIGLIP))},
    "resnet": {
        "image_size": SIDES,
        "num_channels": maybe(Whole(1, 1024)),
        "embedding_size": maybe(SIZE),
        "hidden_sizes": maybe(Rows(SIZE)),
        "depths": maybe(Rows(Whole(1, 1000))),
        "layer_type": maybe(OneOf(("basic", "bottleneck"))),
        "hidden_act": maybe(NAME),
        "downsample_in_first_stage": maybe(Flag()),
        "downsample_in_bottleneck": maybe(Flag()),
    },
    "convnext": CONVNEXT | {"layer_scale_init_value": maybe(Real(0))},
    "convnextv2": CONVNEXT,
    "swin": SWIN,
    "swinv2": SWIN | {"pretrained_window_sizes": maybe(Rows(Whole(0, 65536)))},
    "bit": {
        "image_size": SIDES,
        "num_channels": maybe(Whole(1, 1024)),
        "embedding_size": maybe(SIZE),
        "hidden_sizes": maybe(Rows(SIZE)),
        "depths": maybe(Rows(Whole(1, 1000))),
        "layer_type": maybe(OneOf(("preactivation", "bottleneck"))),
        "hidden_act": maybe(NAME),
        "global_padding": maybe(Text()),
        "num_groups": maybe(SIZE),
        "drop_path_rate": maybe(SHARE),
        "embedding_dynamic_padding": maybe(Flag()),
        "output_stride": maybe(SIZE),
        "width_factor": maybe(SIZE),
    },
    "efficientnet": {
        "image_size": SIDES,
        "num_channels": maybe(Whole(1, 1024)),
        "width_coefficient": maybe(Real(0, 100, above=True)),
        "depth_coefficient": maybe(Real(0, 100, above=True)),
        "depth_divisor": maybe(SIZE),
        **dict.fromkeys(("kernel_sizes", "in_channels", "out_channels", "strides", "expand_ratios"), maybe(Rows(SIZE))),
        "num_block_repeats": maybe(Rows(Whole(1, 1000))),
        "depthwise_padding": maybe(Rows(Whole())),
        "squeeze_expansion_ratio": maybe(Real(0, 100, above=True)),
        "hidden_act": maybe(NAME),
        "hidden_dim": maybe(SIZE),
        "pooling_type": maybe(NAME),
        "batch_norm_eps": maybe(EPSILON),
        "batch_norm_momentum": maybe(SHARE),
        "dropout_rate": maybe(SHARE),
        "drop_connect_rate": maybe(SHARE),
        "tlx_padding": OneOf(("same",)),
        "tlx_expand_momentum": SHARE,
    },
    "mobilenet_v2": {
        "image_size": SIDES,
        "num_channels": maybe(Whole(1, 1024)),
        **dict.fromkeys(("depth_multiplier", "expand_ratio"), maybe(Real(0, 100, above=True))),
        **dict.fromkeys(("depth_divisible_by", "min_depth", "output_stride"), maybe(SIZE)),
        **dict.fromkeys(("first_layer_is_expansion", "finegrained_output", "tf_padding"), maybe(Flag())),
        "hidden_act": maybe(NAME),
        "layer_norm_eps": maybe(EPSILON),
        "classifier_dropout_prob": maybe(SHARE),
        "tlx_momentum": SHARE,
        "tlx_stochastic_depth": SHARE,
    },
    # Our own form: the architecture's record.
    "tlx": {"outputs": maybe(Whole(1))},
}
OWN: dict[str, Form] = {"model": Either((Record({"kind": Text()}), Record({"repr": Text()})))}
# The config.json of timm, which has no model_type.
CLASSES = maybe(Whole(0, 10**5))
TIMM = Record(
    {"architecture": Text(r"[\w.-]+", "the name of an architecture")},
    COMMON
    | {
        "num_classes": CLASSES,
        "label_names": maybe(Rows(Text())),
        "global_pool": maybe(Text()),
        "model_args": maybe(
            Record({}, {"in_chans": maybe(Whole(1, 1024)), "num_classes": CLASSES, "img_size": maybe(SIDES)})
        ),
        "pretrained_cfg": maybe(
            Record(
                {},
                {
                    "input_size": maybe(Rows(Whole(1, 65536), 3, 3)),
                    "interpolation": maybe(Text()),
                    "crop_pct": maybe(Real(0, 4, above=True)),
                    "crop_mode": maybe(Text()),
                    "mean": maybe(Rows(Real(), 1, 1024)),
                    "std": maybe(Rows(Real(), 1, 1024)),
                    "num_classes": CLASSES,
                },
            )
        ),
    },
)
ANY = Record({"model_type": Text(r"[\w.-]+", "the name of an architecture")}, COMMON)


def form(kind: str) -> Record:
    """Return the form of the config.json of `model_type` `kind`; the common form where the type is unknown."""
    required = dict(ANY.required) | (OWN if kind == "tlx" else {})
    return Record(required, COMMON | FIELDS.get(kind, {}))
