"""What the tiny model is taught, pictures of one colour and a question; its tokenizer; a tiny captioner."""

PICTURES = {"red": "màu đỏ", "green": "màu xanh lá", "blue": "màu xanh dương", "yellow": "màu vàng"}
"""Pictures of one colour each, and what the tiny model is taught to answer about them."""

QUESTION = "hình này có màu gì?"

NUMBERS = {
    **{"learning_rate": 3e-3, "epochs": 10.0, "batch_size": 32, "gradient_accumulation_steps": 1},
    **{"gradient_checkpointing": False, "quantization": "none", "evaluations": 3, "max_new_tokens": 64},
    "best_metric": "last",
}
"""The starter's settings, with nothing left to `auto`."""


def tiny_tokenizer():
    """A byte-level BPE of 320 tokens, which spells most words out."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator([QUESTION, *PICTURES.values()], trainer)
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=96
    )


def tiny_captioner():
    """An image encoder and GPT-2, equally and oddly wide: no connector, and no linear layers in the text."""
    from transformers import GPT2Config, VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig

    sizes = {"hidden_size": 33, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 66}
    vision = ViTConfig(**sizes, image_size=8, patch_size=4)
    text = GPT2Config(
        vocab_size=99, n_embd=33, n_layer=1, n_head=3, is_decoder=True, add_cross_attention=True
    )
    return VisionEncoderDecoderModel(VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, text))
