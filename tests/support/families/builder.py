"""One builder for the tables of families: tokenizers trained here on a few words, models of seeded weights.

A tokenizer, a config and a processor are functions, because each reads the one before: ids stand in the
config, and a processor holds the tokenizer.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertTokenizer,
    GemmaTokenizer,
    GenerationConfig,
    LlamaTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

WORDS = ("what", "is", "this", "colour", "picture", "the", "a", "red", "blue", "user", "system", "assistant")
ASCII = [chr(code) for code in range(33, 127)]

# The sizes of nearly every tower: two layers, 32 wide, that see 28 pixels in patches of 7.
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**SIZES, "image_size": 28, "patch_size": 7}
SIGLIP = {"model_type": "siglip_vision_model", **VISION, "vision_use_head": False}
CLIP = {"model_type": "clip_vision_model", **VISION, "num_hidden_layers": 4, "projection_dim": 32}

Tokens = PreTrainedTokenizerBase
Builder = Callable[[Path], None]


def seeded(build: Callable[..., None]) -> Callable[..., None]:
    """The builder with torch's own draws seeded, the caller's random generator left as it was."""

    @wraps(build)
    def run(*arguments: object) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            build(*arguments)

    return run


@dataclass(frozen=True)
class Family:
    """A family's tiny model. `prefix` begins the names of transformers' config and model class.

    `generation` is added to the begin, end and padding that the tokenizer gives the generation config.
    """

    prefix: str
    tokenizer: Callable[[], Tokens]
    config: Callable[[Tokens], dict]
    processor: Callable[[Tokens], ProcessorMixin]
    generation: Callable[[Tokens], dict] = lambda tokenizer: {}
    head: str = "ForConditionalGeneration"
    change: Callable[[PreTrainedModel], None] = lambda model: None

    @seeded
    def __call__(self, folder: Path) -> None:
        """Write the whole model folder, offline."""
        tokenizer = self.tokenizer()
        config = getattr(transformers, f"{self.prefix}Config")(**self.config(tokenizer))
        model = getattr(transformers, self.prefix + self.head)(config)
        self.change(model)
        save_model(folder, model, tokenizer, **self.generation(tokenizer))
        self.processor(tokenizer).save_pretrained(folder)


def save_model(
    folder: Path, model: PreTrainedModel, tokenizer: Tokens, **generation: int | list[int]
) -> None:
    """Save a model and its generation config, weights drawn so large that a picture changes the logits."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, parameter[0].numel() ** -0.5, generator=generator)
    ids = {name: token for name, token in ids_of(tokenizer).items() if token is not None}
    model.generation_config = GenerationConfig(**{**ids, **generation})
    model.save_pretrained(folder)


def ids_of(tokenizer: Tokens) -> dict[str, int | None]:
    return {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}


def id_of(tokenizer: Tokens, token: str) -> int:
    return tokenizer.convert_tokens_to_ids(token)


def text(tokenizer: Tokens, **more: object) -> dict:
    """The config of a language model that reads what this tokenizer writes; `more` may replace any of it."""
    return {
        **SIZES,
        "vocab_size": len(tokenizer),
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        **ids_of(tokenizer),
        **more,
    }


def make_tokenizer(
    special: Sequence[str],
    *,
    named: dict[str, str] | None = None,
    prefix: Sequence[str] = (),
    suffix: Sequence[str] = (),
    **settings: str,
) -> Tokens:
    """A byte-level BPE that spells most words out, and these special tokens after it, in this order.

    `named` are attributes of the tokenizer that processors look for (`image_token`, `boi_token`, …). `prefix`
    and `suffix` are what it adds to a text by itself. `settings`: `eos_token`, `padding_side`…
    """
    backend = Tokenizer.from_str(_byte_level())
    backend.add_special_tokens(list(special))
    added = {*prefix, *suffix}
    if added:
        backend.post_processor = processors.TemplateProcessing(
            single=[*prefix, "$A", *suffix],
            special_tokens=[(t, backend.token_to_id(t)) for t in sorted(added)],
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, extra_special_tokens=named or {}, **settings)


def chatml_tokenizer(*special: str, named: dict[str, str] | None = None) -> Tokens:
    """Qwen's: turns between `<|im_start|>` and `<|im_end|>`, which also ends a text."""
    first = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return make_tokenizer([*first, *special], named=named, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def llama_tokenizer(special: Sequence[str], *, pad_token: str) -> LlamaTokenizer:
    """LLaMA 2's and Mistral's: `<s>` begins a text, and the first word gets a space. `special` come last."""
    vocabulary, merges = _metaspace(("<unk>", "<s>", "</s>"))
    tokenizer = LlamaTokenizer(vocab=dict(vocabulary), merges=list(merges), add_bos_token=True)
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.pad_token = pad_token
    return tokenizer


def gemma_tokenizer() -> GemmaTokenizer:
    """Gemma's as it begins: no space before the first word, no special tokens beside its own."""
    vocabulary, merges = _metaspace(("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"))
    return GemmaTokenizer(vocab=dict(vocabulary), merges=list(merges))


def bert_tokenizer() -> BertTokenizer:
    """BERT's: small letters without accents between `[CLS]` and `[SEP]`; here most words are spelled out."""
    letters = [letter for letter in ASCII if not letter.isupper()] + ["đ"]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    pieces += [word for word in WORDS if len(word) > 1]
    return BertTokenizer({piece: index for index, piece in enumerate(pieces)}, model_max_length=512)


@cache
def _byte_level() -> str:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([" ".join(WORDS)], trainer)
    return backend.to_str()


@cache
def _metaspace(first: tuple[str, ...]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Ids of these tokens, of 256 bytes as sentencepiece writes them and of pieces, and their merges."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[*first, *(f"<0x{byte:02X}>" for byte in range(256))],
        initial_alphabet=["▁", *ASCII],
        show_progress=False,
    )
    backend.train_from_iterator([" ".join(WORDS)], trainer)
    trained = json.loads(backend.to_str())["model"]
    return trained["vocab"], [tuple(merge) for merge in trained["merges"]]
