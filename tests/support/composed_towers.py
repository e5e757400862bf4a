"""Tiny pretrained towers as a user has them in folders: random weights, image processors and tokenizers.

The weights spread ten times wider than usual, as those of conftest's tiny model.
"""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import sentencepiece
import torch
import transformers
from PIL import Image
from transformers import PreTrainedConfig, PreTrainedModel

from support.tiny import PICTURES, QUESTION, tiny_tokenizer
from vlm.composed import ComposedModel, ComposedProcessor

QUESTIONS = ["hình này có màu gì?", "màu gì?"]
ANSWERS = ["màu đỏ", "màu xanh dương"]

Batch = dict[str, torch.Tensor]

SPREAD = 0.2
SIZE = 32
TEXTS = [QUESTION, *PICTURES.values(), "what is in this picture? a red square, a blue circle."]
HALF = [0.5, 0.5, 0.5]
IDS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}

SQUARE = {"height": SIZE, "width": SIZE}
CROPPED = {"size": {"shortest_edge": SIZE}, "crop_size": SQUARE}
LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
PATCHES = {"image_size": SIZE, "patch_size": 8}
STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1], "layer_scale_init_value": 0.5}
WORDS = {**LAYERS, **IDS, "vocab_size": 99, "max_position_embeddings": 16}

VISION: dict[str, tuple[str, dict, str, dict]] = {
    "dinov2": (
        "Dinov2",
        {**LAYERS, **PATCHES, "mlp_ratio": 2, "initializer_range": SPREAD},
        "BitImageProcessor",
        CROPPED,
    ),
    "dinov3": (
        "DINOv3ViT",
        {**LAYERS, **PATCHES, "num_register_tokens": 4, "initializer_range": SPREAD},
        "DINOv3ViTImageProcessor",
        {"size": SQUARE},
    ),
    "dinov3-convnext": (
        "DINOv3ConvNext",
        {**STAGES, "hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "initializer_range": SPREAD},
        "DINOv3ViTImageProcessor",
        {"size": {"height": 64, "width": 64}},
    ),
    "siglip": (
        "Siglip",
        {"vision_config": {**LAYERS, **PATCHES}, "text_config": WORDS},
        "SiglipImageProcessor",
        {"size": SQUARE},
    ),
    "siglip2": (
        "Siglip2",
        {"vision_config": {**LAYERS, "patch_size": 8, "num_patches": 16}, "text_config": WORDS},
        "Siglip2ImageProcessor",
        {"patch_size": 8, "max_num_patches": 16},
    ),
    "clip": (
        "CLIP",
        {"vision_config": {**LAYERS, **PATCHES}, "text_config": WORDS},
        "CLIPImageProcessor",
        CROPPED,
    ),
    "vit": ("ViT", {**LAYERS, **PATCHES, "initializer_range": SPREAD}, "ViTImageProcessor", {"size": SQUARE}),
    "swin": (
        "Swin",
        {
            **{"image_size": SIZE, "patch_size": 4, "window_size": 4, "embed_dim": 16},
            **{"depths": [2, 2], "num_heads": [2, 4], "drop_path_rate": 0.0, "initializer_range": SPREAD},
        },
        "ViTImageProcessor",
        {"size": SQUARE},
    ),
    "convnext": (
        "ConvNext",
        {**STAGES, "num_stages": 2, "initializer_range": SPREAD},
        "ConvNextImageProcessor",
        {"size": {"shortest_edge": SIZE}, "crop_pct": 1.0},
    ),
}
"""Each vision tower's class in transformers, its configuration, its image processor's class and settings.

CLIP and the SigLIPs are whole, with the text half that a composed model leaves out.
"""


class Towers:
    """The folder of a tower by its kind, made when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, kind: str) -> Path:
        folder = self.root / kind
        if not folder.exists():
            (make_vision if kind in VISION else make_text)(kind, folder)
        return folder


def compose(tower: Towers, vision: str = "siglip", text: str = "bart", **kwargs: object) -> PreTrainedModel:
    return ComposedModel.from_towers(tower(vision), tower(text), local_files_only=True, **kwargs)


def noise(width: int, height: int, seed: int) -> Image.Image:
    pixels = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(pixels.to(torch.uint8).numpy())


def batch_of(processor: ComposedProcessor) -> Batch:
    """Two pictures of different shapes with their questions, and the answers as labels."""
    images = [noise(40, 64, seed=1), noise(64, 40, seed=2)]
    batch = processor(images=images, text=QUESTIONS, padding=True, return_tensors="pt")
    answers = processor.tokenizer(ANSWERS, padding=True, return_tensors="pt")
    labels = answers["input_ids"].masked_fill(answers["attention_mask"] == 0, -100)
    return {**batch, "labels": labels}


def lesson(tower: Towers, vision: str = "siglip", text: str = "bart") -> Batch:
    return batch_of(ComposedProcessor.from_towers(tower(vision), tower(text)))


def without(batch: Batch, *names: str) -> Batch:
    return {name: tensor for name, tensor in batch.items() if name not in names}


def make_vision(kind: str, folder: Path) -> Path:
    """A folder of the vision tower `kind`, as its repository on the Hub is laid out."""
    name, settings, processor, processor_settings = VISION[kind]
    config = getattr(transformers, f"{name}Config")(**settings)
    if "text_config" in settings:
        config.initializer_factor = 10.0
    _save_model(getattr(transformers, f"{name}Model"), config, folder)
    getattr(transformers, processor)(**processor_settings).save_pretrained(folder)
    return folder


def make_text(kind: str, folder: Path) -> Path:
    """A folder of the text model `kind`, as its repository on the Hub is laid out."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = TOKENIZERS[kind](folder)
    name, settings = TEXT[kind]
    settings = {"vocab_size": vocabulary, **settings}
    config = getattr(transformers, f"{name}Config")(**settings)
    _save_model(getattr(transformers, f"{name}ForConditionalGeneration"), config, folder)
    if kind == "bartpho-syllable":  # what the Hub has names the tokenizer here alone, and no head
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"tokenizer_class": "BartphoTokenizer"}))
    return folder


def _save_model(model_class: type, config: PreTrainedConfig, folder: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model_class(config).save_pretrained(folder)


def _sentencepiece(file: Path, **settings: object) -> list[str]:
    """Train sentencepiece's unigram model on the texts; its pieces, special ones aside."""
    model = io.BytesIO()
    sentences: Iterator[str] = iter(TEXTS * 4)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences,
        model_writer=model,
        vocab_size=80,
        hard_vocab_limit=False,
        minloglevel=2,
        **settings,
    )
    file.write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return [processor.id_to_piece(index) for index in range(3, processor.get_piece_size())]


def _named(tokenizer_class: str, folder: Path, **settings: object) -> int:
    """Say which tokenizer reads the folder's files; the size of its vocabulary."""
    content = {"tokenizer_class": tokenizer_class, **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(content))
    return len(transformers.AutoTokenizer.from_pretrained(folder, config=PreTrainedConfig()))


def _byte_level(folder: Path) -> int:
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def _bartpho_syllable(folder: Path) -> int:
    """The vocabulary of dict.txt is smaller than sentencepiece's, as BARTpho's."""
    pieces = _sentencepiece(folder / "sentencepiece.bpe.model")
    (folder / "dict.txt").write_text("".join(f"{piece} 1\n" for piece in pieces[:-3]), encoding="utf-8")
    return len(transformers.BartphoTokenizer.from_pretrained(folder))


def _bartpho_word(folder: Path) -> int:
    letters = sorted({letter for text in TEXTS for letter in text if letter != " "})
    pieces = [piece for letter in letters for piece in (f"{letter}@@", letter)]
    (folder / "vocab.txt").write_text("".join(f"{piece} 1\n" for piece in pieces), encoding="utf-8")
    (folder / "bpe.codes").write_text("#version: 0.2\n", encoding="utf-8")
    return _named("PhobertTokenizer", folder)


def _t5(folder: Path) -> int:
    _sentencepiece(folder / "spiece.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    return _named("T5Tokenizer", folder, extra_ids=0)


def _mbart(folder: Path) -> int:
    _sentencepiece(folder / "sentencepiece.bpe.model")
    return _named("MBartTokenizer", folder, src_lang="vi_VN")


def _mbart50(folder: Path) -> int:
    _sentencepiece(folder / "sentencepiece.bpe.model")
    return _named("MBart50Tokenizer", folder, src_lang="vi_VN")


TOKENIZERS: dict[str, Callable[[Path], int]] = {
    "bart": _byte_level,
    "mbart": _mbart,
    "mbart-50": _mbart50,
    "bartpho-syllable": _bartpho_syllable,
    "bartpho-word": _bartpho_word,
    "t5": _t5,
    "mt5": _t5,
    "vit5": _t5,
}

BART = {
    **{"d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "dropout": 0.0, "init_std": SPREAD, **IDS},
    **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 64},
    **{"encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
}
BARTPHO = {**BART, "decoder_start_token_id": 2, "forced_eos_token_id": 2}
T5 = {
    **{"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 2},
    **{"dropout_rate": 0.0, "initializer_factor": 0.5, "pad_token_id": 0, "eos_token_id": 1},
    "decoder_start_token_id": 0,
}
TEXT: dict[str, tuple[str, dict]] = {
    "bart": ("Bart", {**BART, "decoder_start_token_id": 2, "forced_eos_token_id": 2}),
    "mbart": ("MBart", {**BART, "scale_embedding": True, "forced_eos_token_id": 2}),
    "mbart-50": ("MBart", {**BARTPHO, "scale_embedding": True}),
    "bartpho-syllable": ("MBart", BARTPHO),
    "bartpho-word": ("MBart", BARTPHO),
    "t5": ("T5", {**T5, "feed_forward_proj": "relu"}),
    "mt5": ("MT5", {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "vit5": ("T5", {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
}
"""Each text model's class in transformers and its configuration. mBART says with what answers begin in its
tokenizer alone."""
