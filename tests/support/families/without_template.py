"""WITHOUT_TEMPLATE: captioners and encoder-decoders; VARIANTS: three of them with another text model."""

from functools import partial
from pathlib import Path

import transformers as tf

from .builder import (
    SIZES,
    VISION,
    Builder,
    Family,
    Tokens,
    bert_tokenizer,
    id_of,
    ids_of,
    make_tokenizer,
    save_model,
    seeded,
    text,
)
from .shared import IMAGE_SIZE, t5_tokenizer

BART = {
    **{"model_type": "bart", "d_model": 32, "encoder_layers": 2, "decoder_layers": 2},
    **{"encoder_attention_heads": 4, "decoder_attention_heads": 4},
    **{"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 512},
}
DAVIT = {
    **{"depths": [1, 1, 1, 1], "embed_dim": [8, 16, 16, 32], "num_heads": [1, 2, 2, 2]},
    **{"num_groups": [1, 2, 2, 2], "window_size": 4, "drop_path_rate": 0.0, "mlp_ratio": 2.0},
    **{"projection_dim": 32, "max_temporal_embeddings": 4, "max_position_embeddings": 8},
}


def _t5(t: Tokens) -> dict:
    return {
        **{"model_type": "t5", "vocab_size": len(t), "d_model": 32, "d_kv": 8, "d_ff": 64},
        **{"num_layers": 2, "num_heads": 4, "feed_forward_proj": "gated-gelu"},
        **{"tie_word_embeddings": False, "decoder_start_token_id": t.pad_token_id},
        **{"eos_token_id": t.eos_token_id, "pad_token_id": t.pad_token_id},
    }


def _opt(t: Tokens) -> dict:
    return {
        **{"model_type": "opt", "vocab_size": len(t), "hidden_size": 32, "word_embed_proj_dim": 32},
        **{"ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
        **{"max_position_embeddings": 512, **ids_of(t)},
    }


def _llama(t: Tokens) -> dict:
    """Vicuna: as many key and value heads as others."""
    config = text(t, model_type="llama", max_position_embeddings=512)
    return {name: value for name, value in config.items() if name != "num_key_value_heads"}


def _blip_2(t: Tokens, text_config: dict, vocabulary: int = 32) -> dict:
    """`vocabulary`: of the Q-Former, which reads the question in InstructBLIP alone."""
    return {
        "vision_config": VISION,
        "qformer_config": {**SIZES, "max_position_embeddings": 512, "vocab_size": vocabulary},
        "text_config": text_config,
        **{"num_query_tokens": 4, "image_token_index": id_of(t, "<image>")},
    }


def _blip_2_processor(t: Tokens) -> tf.Blip2Processor:
    return tf.Blip2Processor(tf.BlipImageProcessor(size=IMAGE_SIZE), t, num_query_tokens=4)


def _instructblip_processor(t: Tokens) -> tf.InstructBlipProcessor:
    """The Q-Former's own tokenizer gets a folder of its own."""
    images = tf.BlipImageProcessor(size=IMAGE_SIZE)
    return tf.InstructBlipProcessor(images, t, bert_tokenizer(), num_query_tokens=4)


def _florence2_processor(t: Tokens) -> tf.Florence2Processor:
    size = {"height": 64, "width": 64}
    images = tf.CLIPImageProcessor(size=size, do_center_crop=False, crop_size=size)
    images.image_seq_length = 5
    return tf.Florence2Processor(images, t)


def _florence2_ids(t: Tokens) -> dict:
    return {**ids_of(t), "decoder_start_token_id": t.eos_token_id}


def _cls_and_sep(t: Tokens) -> dict:
    return {"bos_token_id": t.cls_token_id, "eos_token_id": t.sep_token_id}


@seeded
def _vision_encoder_decoder(kind: str, folder: Path) -> None:
    """ViT and GPT-2, or BERT. There is no processor class: its parts lie beside each other."""
    if kind == "gpt2":  # the end is also the beginning and the padding, and the tokenizer adds none of them
        end = "<|endoftext|>"
        t = make_tokenizer([end], bos_token=end, eos_token=end, unk_token=end, pad_token=end)
        decoder = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
        decoder |= {"bos_token_id": t.bos_token_id, "eos_token_id": t.eos_token_id}
        begin, end = t.bos_token_id, t.eos_token_id
    else:
        t, decoder = bert_tokenizer(), {**SIZES, "max_position_embeddings": 512}
        begin, end = t.cls_token_id, t.sep_token_id
    ids = {"decoder_start_token_id": begin, "bos_token_id": begin, "eos_token_id": end}
    ids["pad_token_id"] = t.pad_token_id
    decoder |= {"model_type": kind, "vocab_size": len(t), "is_decoder": True, "add_cross_attention": True}
    config = tf.VisionEncoderDecoderConfig(
        encoder={"model_type": "vit", **VISION}, decoder=decoder, tie_word_embeddings=False, **ids
    )
    save_model(folder, tf.VisionEncoderDecoderModel(config), t, **ids)
    tf.ViTImageProcessor(size=IMAGE_SIZE).save_pretrained(folder)
    t.save_pretrained(folder)


WITHOUT_TEMPLATE: dict[str, Builder] = {
    # DaViT and BART: a picture of 64 pixels becomes 2 by 2 tokens and their mean.
    "florence2": Family(
        "Florence2",
        lambda: make_tokenizer(
            ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<image>"],
            named={"image_token": "<image>"},
            prefix=["<s>"],
            suffix=["</s>"],
            bos_token="<s>",
            eos_token="</s>",
            pad_token="<pad>",
            unk_token="<unk>",
            mask_token="<mask>",
        ),
        lambda t: {
            "vision_config": DAVIT,
            "text_config": {**BART, "vocab_size": len(t), **_florence2_ids(t)},
            **{"image_token_id": t.image_token_id, **_florence2_ids(t)},
        },
        _florence2_processor,
        lambda t: {
            "decoder_start_token_id": t.eos_token_id,
            **{"forced_bos_token_id": t.bos_token_id, "forced_eos_token_id": t.eos_token_id},
            **{"num_beams": 3, "no_repeat_ngram_size": 3, "early_stopping": True},
        },
    ),
    # Its texts begin with `[DEC]`, one past the end of its tokenizer, which is BERT's and writes `[CLS]`.
    "blip": Family(
        "Blip",
        bert_tokenizer,
        lambda t: {
            "vision_config": {**VISION, "projection_dim": 32},
            "text_config": {
                **{**SIZES, "vocab_size": len(t) + 2, "projection_dim": 32, "max_position_embeddings": 512},
                **{"bos_token_id": len(t), "sep_token_id": t.sep_token_id, "pad_token_id": t.pad_token_id},
            },
            **{"projection_dim": 32, "image_text_hidden_size": 16},
        },
        lambda t: tf.BlipProcessor(tf.BlipImageProcessor(size=IMAGE_SIZE), t),
        lambda t: {"bos_token_id": len(t), "eos_token_id": 2},
    ),
    # With OPT, whose tokenizer puts `</s>` first and ends no text.
    "blip-2": Family(
        "Blip2",
        lambda: make_tokenizer(
            ["<pad>", "</s>", "<image>"],
            prefix=["</s>"],
            bos_token="</s>",
            eos_token="</s>",
            unk_token="</s>",
            pad_token="<pad>",
        ),
        lambda t: _blip_2(t, _opt(t)),
        _blip_2_processor,
    ),
    # With Flan-T5.
    "instructblip": Family(
        "InstructBlip",
        lambda: t5_tokenizer("<image>"),
        lambda t: _blip_2(t, _t5(t), len(bert_tokenizer())),
        _instructblip_processor,
    ),
    "git": Family(
        "Git",
        bert_tokenizer,
        lambda t: {
            **{"vision_config": VISION, **SIZES, "vocab_size": len(t), "max_position_embeddings": 512},
            **{**_cls_and_sep(t), "pad_token_id": t.pad_token_id},
        },
        lambda t: tf.GitProcessor(tf.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=IMAGE_SIZE), t),
        _cls_and_sep,
        head="ForCausalLM",
    ),
    "vision-encoder-decoder": partial(_vision_encoder_decoder, "gpt2"),
}

VARIANTS: dict[str, Builder] = {
    "blip-2 with T5": Family(
        "Blip2", lambda: t5_tokenizer("<image>"), lambda t: _blip_2(t, _t5(t)), _blip_2_processor
    ),
    "instructblip with LLaMA": Family(
        "InstructBlip",
        lambda: make_tokenizer(
            ["<unk>", "<s>", "</s>", "[PAD]", "<image>"],
            prefix=["<s>"],
            bos_token="<s>",
            eos_token="</s>",
            unk_token="<unk>",
            pad_token="[PAD]",
        ),
        lambda t: _blip_2(t, _llama(t), len(bert_tokenizer())),
        _instructblip_processor,
    ),
    "vision-encoder-decoder with BERT": partial(_vision_encoder_decoder, "bert"),
}
