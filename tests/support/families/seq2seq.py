"""Encoder-decoders: Florence-2, and ViT with GPT-2, which has no processor class."""

from pathlib import Path

from transformers import (
    CLIPImageProcessor,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    PreTrainedTokenizerBase,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTImageProcessor,
)

from .blips import VISION
from .pieces import bert_tokenizer, make_tokenizer, save_model

DAVIT = {
    "depths": [1, 1, 1, 1],
    "embed_dim": [8, 16, 16, 32],
    "num_heads": [1, 2, 2, 2],
    "num_groups": [1, 2, 2, 2],
    "window_size": 4,
    "drop_path_rate": 0.0,
    "mlp_ratio": 2.0,
    "projection_dim": 32,
    "max_temporal_embeddings": 4,
    "max_position_embeddings": 8,
}


def build_florence2(folder: Path) -> None:
    """DaViT and BART: a picture of 64 pixels becomes 2 by 2 tokens and their mean."""
    tokenizer = make_tokenizer(
        ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<image>"],
        named={"image_token": "<image>"},
        prefix=["<s>"],
        suffix=["</s>"],
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
    )
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "decoder_start_token_id": tokenizer.eos_token_id,
    }
    config = Florence2Config(
        vision_config=DAVIT,
        text_config={
            "model_type": "bart",
            "vocab_size": len(tokenizer),
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "max_position_embeddings": 512,
            **ids,
        },
        image_token_id=tokenizer.image_token_id,
        **ids,
    )
    save_model(
        folder,
        Florence2ForConditionalGeneration(config),
        tokenizer,
        decoder_start_token_id=tokenizer.eos_token_id,
        forced_bos_token_id=tokenizer.bos_token_id,
        forced_eos_token_id=tokenizer.eos_token_id,
        num_beams=3,
        no_repeat_ngram_size=3,
        early_stopping=True,
    )
    image_processor = CLIPImageProcessor(
        size={"height": 64, "width": 64}, do_center_crop=False, crop_size={"height": 64, "width": 64}
    )
    image_processor.image_seq_length = 5
    Florence2Processor(image_processor, tokenizer).save_pretrained(folder)


def build_vision_encoder_decoder(folder: Path) -> None:
    """ViT and GPT-2. The end is also the beginning and the padding, and the tokenizer adds none of them."""
    end = "<|endoftext|>"
    tokenizer = make_tokenizer([end], bos_token=end, eos_token=end, unk_token=end, pad_token=end)
    decoder = {
        "model_type": "gpt2",
        "vocab_size": len(tokenizer),
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    _save_vision_encoder_decoder(folder, decoder, tokenizer, tokenizer.bos_token_id, tokenizer.eos_token_id)


def build_vision_encoder_decoder_bert(folder: Path) -> None:
    """ViT and BERT, which begins with `[CLS]` and ends with `[SEP]`."""
    tokenizer = bert_tokenizer()
    decoder = {
        "model_type": "bert",
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 512,
    }
    _save_vision_encoder_decoder(folder, decoder, tokenizer, tokenizer.cls_token_id, tokenizer.sep_token_id)


def _save_vision_encoder_decoder(
    folder: Path, decoder: dict, tokenizer: PreTrainedTokenizerBase, start: int, end: int
) -> None:
    ids = {
        "decoder_start_token_id": start,
        "bos_token_id": start,
        "eos_token_id": end,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = VisionEncoderDecoderConfig(
        encoder={"model_type": "vit", **VISION},
        decoder={**decoder, "is_decoder": True, "add_cross_attention": True},
        tie_word_embeddings=False,
        **ids,
    )
    save_model(folder, VisionEncoderDecoderModel(config), tokenizer, **ids)
    ViTImageProcessor(size={"height": 28, "width": 28}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
