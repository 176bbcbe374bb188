"""The forms of the files of tokenizers and preprocessors, which turn raw examples into inputs."""

from tlx.files.documents.checks import Either, Flag, Form, Mapped, OneOf, Real, Record, Rows, Text, Whole, maybe

# Far above any image that a model reads, and small enough to hold in memory.
SIDE = Whole(1, 16384)
TYPED = Record({"type": Text()})
# A token as text, or with its flags beside it.
TOKEN = Either((Text(), Record({"content": Text()})))
FLAGS: dict[str, Form] = {name: Flag() for name in ("single_word", "lstrip", "rstrip", "normalized", "special")}

TOKENIZER = Record(
    {
        "model": Record(
            {"vocab": Either((Mapped(Whole()), Rows(Rows(Either((Text(), Real())), 2, 2))))},
            {
                "type": maybe(OneOf(("WordPiece", "BPE", "Unigram", "WordLevel"))),
                "unk_token": maybe(Text()),
                "unk_id": maybe(Whole()),
                "merges": Rows(Either((Text(), Rows(Text(), 2, 2)))),
                "continuing_subword_prefix": maybe(Text()),
                "max_input_chars_per_word": maybe(Whole()),
            },
        )
    },
    {
        "version": maybe(Text()),
        "truncation": maybe(
            Record(
                {"max_length": Whole()},
                {
                    "direction": OneOf(("Left", "Right")),
                    "strategy": OneOf(("LongestFirst", "OnlyFirst", "OnlySecond")),
                    "stride": Whole(),
                },
            )
        ),
        "padding": maybe(Record({}, {"pad_id": Whole(), "pad_token": Text()})),
        "added_tokens": maybe(Rows(Record({"id": Whole(), "content": Text()}, FLAGS))),
        "normalizer": maybe(TYPED),
        "pre_tokenizer": maybe(TYPED),
        "post_processor": maybe(TYPED),
        "decoder": maybe(TYPED),
    },
)
TOKENIZER_CONFIG = Record(
    {},
    {
        "tokenizer_class": maybe(Text()),
        "do_lower_case": maybe(Flag()),
        "strip_accents": maybe(Flag()),
        "tokenize_chinese_chars": maybe(Flag()),
        "add_bos_token": maybe(Flag()),
        "add_eos_token": maybe(Flag()),
        "add_prefix_space": maybe(Flag()),
        "truncation_side": OneOf(("left", "right")),
        "padding_side": OneOf(("left", "right")),
        "model_max_length": maybe(Real(1)),
        "model_input_names": maybe(Rows(Text())),
        "added_tokens_decoder": maybe(
            Mapped(Record({"content": Text()}, FLAGS), Text(r"\d{1,9}", "a whole number in quotes"))
        ),
        **{f"{name}_token": maybe(TOKEN) for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")},
    },
)
SPECIAL_TOKENS = Mapped(Either((maybe(TOKEN), Rows(TOKEN))))
VOCABULARY = Mapped(Whole())

LENGTHS = Record(
    {},
    {"height": SIDE, "width": SIDE, "shortest_edge": SIDE, "longest_edge": SIDE},
)
SIZE = maybe(Either((SIDE, LENGTHS)))
COLOURS = Either((Real(), Rows(Real(), 1, 4)))
PREPROCESSOR = Record(
    {},
    {
        "image_processor_type": maybe(Text()),
        "feature_extractor_type": maybe(Text()),
        "do_resize": maybe(Flag()),
        "do_center_crop": maybe(Flag()),
        "do_rescale": maybe(Flag()),
        "do_normalize": maybe(Flag()),
        "rescale_offset": maybe(Flag()),
        "include_top": maybe(Flag()),
        "size": SIZE,
        "crop_size": SIZE,
        "crop_pct": maybe(Real(0, 1, above=True)),
        "resample": maybe(OneOf((0, 1, 2, 3))),
        "rescale_factor": maybe(Real(0, above=True)),
        "image_mean": maybe(COLOURS),
        "image_std": maybe(Either((Real(0, above=True), Rows(Real(0, above=True), 1, 4)))),
    },
)
# The file that `tlx.processors.sounds` writes.
SOUNDS = Record(
    {"size": Rows(SIDE, 2, 2), "rate": Whole(1, 10**6), "seconds": Real(0, 3600, above=True)},
    {"feature_extractor_type": Text()},
)
