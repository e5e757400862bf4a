"""LLaMA's and Gemma's tokenizers, trained here on a few words: `▁` for a space, bytes for what is unknown."""

import json
from collections.abc import Sequence
from functools import cache

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import GemmaTokenizer, LlamaTokenizer

from .pieces import WORDS

LETTERS = [chr(code) for code in range(33, 127)]


def llama_tokenizer(special: Sequence[str], *, pad_token: str) -> LlamaTokenizer:
    """LLaMA 2's and Mistral's: `<s>` begins a text, and the first word gets a space. `special` come last."""
    vocabulary, merges = _trained(("<unk>", "<s>", "</s>"))
    tokenizer = LlamaTokenizer(vocab=dict(vocabulary), merges=list(merges), add_bos_token=True)
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.pad_token = pad_token
    return tokenizer


def gemma_tokenizer(special: Sequence[str] = ()) -> GemmaTokenizer:
    """Gemma's: no space before the first word. `special` come last."""
    vocabulary, merges = _trained(("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"))
    tokenizer = GemmaTokenizer(vocab=dict(vocabulary), merges=list(merges))
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    return tokenizer


@cache
def _trained(first: tuple[str, ...]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Ids of these tokens, of 256 bytes as sentencepiece writes them and of pieces, and their merges."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[*first, *(f"<0x{byte:02X}>" for byte in range(256))],
        initial_alphabet=["▁", *LETTERS],
        show_progress=False,
    )
    backend.train_from_iterator([" ".join(WORDS)], trainer)
    trained = json.loads(backend.to_str())["model"]
    return trained["vocab"], [tuple(merge) for merge in trained["merges"]]
