"""BLIP, BLIP-2, InstructBLIP and GIT, which have no chat template, each with its common text models."""

from collections.abc import Callable
from pathlib import Path

from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPImageProcessor,
    GitConfig,
    GitForCausalLM,
    GitProcessor,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    PreTrainedTokenizerBase,
)

from .pieces import bert_tokenizer, make_tokenizer, save_model

VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 7,
}
QFORMER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
}
IMAGE_SIZE = {"height": 28, "width": 28}

TextConfig = Callable[[PreTrainedTokenizerBase], dict]


def build_blip(folder: Path) -> None:
    """Its texts begin with `[DEC]`, one past the end of its tokenizer, which is BERT's and writes `[CLS]`."""
    tokenizer = bert_tokenizer()
    config = BlipConfig(
        vision_config={**VISION, "projection_dim": 32},
        text_config={
            "vocab_size": len(tokenizer) + 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "projection_dim": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 512,
            "bos_token_id": len(tokenizer),
            "sep_token_id": tokenizer.sep_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        projection_dim=32,
        image_text_hidden_size=16,
    )
    save_model(
        folder, BlipForConditionalGeneration(config), tokenizer, bos_token_id=len(tokenizer), eos_token_id=2
    )
    BlipProcessor(BlipImageProcessor(size=IMAGE_SIZE), tokenizer).save_pretrained(folder)


def build_git(folder: Path) -> None:
    tokenizer = bert_tokenizer()
    config = GitConfig(
        vision_config=VISION,
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    save_model(
        folder,
        GitForCausalLM(config),
        tokenizer,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
    )
    image_processor = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=IMAGE_SIZE)
    GitProcessor(image_processor, tokenizer).save_pretrained(folder)


def build_blip_2(folder: Path) -> None:
    """With OPT, whose tokenizer puts `</s>` first and ends no text."""
    tokenizer = make_tokenizer(
        ["<pad>", "</s>", "<image>"],
        prefix=["</s>"],
        bos_token="</s>",
        eos_token="</s>",
        unk_token="</s>",
        pad_token="<pad>",
    )
    _save_blip_2(folder, tokenizer, _opt)


def build_blip_2_t5(folder: Path) -> None:
    """With Flan-T5: encoder and decoder."""
    _save_blip_2(folder, _t5_tokenizer(), _t5)


def _save_blip_2(folder: Path, tokenizer: PreTrainedTokenizerBase, text: TextConfig) -> None:
    config = Blip2Config(
        vision_config=VISION,
        qformer_config={**QFORMER, "vocab_size": 32},
        **_text(text(tokenizer), tokenizer),
    )
    save_model(folder, Blip2ForConditionalGeneration(config), tokenizer)
    Blip2Processor(BlipImageProcessor(size=IMAGE_SIZE), tokenizer, num_query_tokens=4).save_pretrained(folder)


def build_instructblip(folder: Path) -> None:
    """With Flan-T5. The Q-Former reads the question too, by a tokenizer of its own in a folder of its own."""
    _save_instructblip(folder, _t5_tokenizer(), _t5)


def build_instructblip_llama(folder: Path) -> None:
    """With Vicuna."""
    tokenizer = make_tokenizer(
        ["<unk>", "<s>", "</s>", "[PAD]", "<image>"],
        prefix=["<s>"],
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="[PAD]",
    )
    _save_instructblip(folder, tokenizer, _llama)


def _save_instructblip(folder: Path, tokenizer: PreTrainedTokenizerBase, text: TextConfig) -> None:
    questions = bert_tokenizer()
    config = InstructBlipConfig(
        vision_config=VISION,
        qformer_config={**QFORMER, "vocab_size": len(questions)},
        **_text(text(tokenizer), tokenizer),
    )
    save_model(folder, InstructBlipForConditionalGeneration(config), tokenizer)
    InstructBlipProcessor(
        BlipImageProcessor(size=IMAGE_SIZE), tokenizer, questions, num_query_tokens=4
    ).save_pretrained(folder)


def _text(text_config: dict, tokenizer: PreTrainedTokenizerBase) -> dict:
    return {
        "text_config": text_config,
        "num_query_tokens": 4,
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
    }


def _t5_tokenizer() -> PreTrainedTokenizerBase:
    return make_tokenizer(
        ["<pad>", "</s>", "<unk>", "<image>"],
        suffix=["</s>"],
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )


def _opt(tokenizer: PreTrainedTokenizerBase) -> dict:
    return {
        "model_type": "opt",
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _llama(tokenizer: PreTrainedTokenizerBase) -> dict:
    return {
        "model_type": "llama",
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _t5(tokenizer: PreTrainedTokenizerBase) -> dict:
    return {
        "model_type": "t5",
        "vocab_size": len(tokenizer),
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "decoder_start_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
