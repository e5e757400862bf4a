"""PaliGemma: SigLIP into Gemma, question and answer as prefix and suffix."""

from pathlib import Path

from transformers import (
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    SiglipImageProcessor,
)

from .metaspace import gemma_tokenizer
from .pieces import save_model


def build_paligemma(folder: Path) -> None:
    """16 tokens a picture. Its processor adds `<image>` and over a thousand tokens for places and shapes."""
    image_processor = SiglipImageProcessor(size={"height": 28, "width": 28})
    image_processor.image_seq_length = 16
    tokenizer = gemma_tokenizer()
    processor = PaliGemmaProcessor(image_processor, tokenizer)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = PaliGemmaConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 7,
            "vision_use_head": False,
        },
        text_config={
            "model_type": "gemma",
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "max_position_embeddings": 1024,
            **ids,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vocab_size=len(tokenizer),
        projection_dim=32,
        hidden_size=32,
        **ids,
    )
    save_model(folder, PaliGemmaForConditionalGeneration(config), tokenizer)
    processor.save_pretrained(folder)
