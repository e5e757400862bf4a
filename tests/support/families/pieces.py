"""What the builders share: tokenizers trained here on a few words, and a model saved with seeded weights."""

from collections.abc import Callable, Sequence
from functools import cache, wraps
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

WORDS = ("what", "is", "this", "colour", "picture", "the", "a", "red", "blue", "user", "system", "assistant")

Builder = Callable[[Path], None]


def make_tokenizer(
    special: Sequence[str],
    *,
    named: dict[str, str] | None = None,
    prefix: Sequence[str] = (),
    suffix: Sequence[str] = (),
    **settings: str,
) -> PreTrainedTokenizerBase:
    """A byte-level BPE that spells most words out, and these special tokens after it, in this order.

    `named` are attributes of the tokenizer that processors look for (`image_token`, `boi_token`, …). `prefix`
    and `suffix` are what it adds to a text by itself. `settings`: `eos_token`, `padding_side`…
    """
    backend = Tokenizer.from_str(_trained())
    backend.add_special_tokens(list(special))
    added = {*prefix, *suffix}
    if added:
        backend.post_processor = processors.TemplateProcessing(
            single=[*prefix, "$A", *suffix],
            special_tokens=[(t, backend.token_to_id(t)) for t in sorted(added)],
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, extra_special_tokens=named or {}, **settings)


@cache
def _trained() -> str:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([" ".join(WORDS)], trainer)
    return backend.to_str()


def bert_tokenizer() -> BertTokenizer:
    """BERT's: small letters without accents between `[CLS]` and `[SEP]`; here most words are spelled out."""
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()] + ["đ"]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    pieces += [word for word in WORDS if len(word) > 1]
    return BertTokenizer({piece: index for index, piece in enumerate(pieces)}, model_max_length=512)


def text_config(model_type: str, tokenizer: PreTrainedTokenizerBase, **more: object) -> dict:
    """Two layers, 32 wide, of a language model that reads what this tokenizer writes."""
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {
        "model_type": model_type,
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        **ids,
        **more,
    }


def save_model(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **generation: int | list[int]
) -> None:
    """Saves a model and its generation settings, weights drawn so large that a picture changes the logits.

    `generation` is added to the tokenizer's begin, end and padding.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, parameter[0].numel() ** -0.5, generator=generator)
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    ids = {name: getattr(tokenizer, name) for name in names if getattr(tokenizer, name) is not None}
    model.generation_config = GenerationConfig(**{**ids, **generation})
    model.save_pretrained(folder)


def seeded(build: Builder) -> Builder:
    """The builder with torch's own draws seeded too, leaving the caller's generator as it was."""

    @wraps(build)
    def run(folder: Path) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            build(folder)

    return run
