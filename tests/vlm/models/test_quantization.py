"""QLoRA for real, on a CPU: bitsandbytes' layers where they belong, training, and adapters on other bases."""

import importlib.util
import logging
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from PIL import Image
from torch import nn
from transformers import (
    BatchFeature,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from support.families import FAMILIES
from support.tiny import tiny_tokenizer
from vlm import adapters
from vlm.errors import UserError
from vlm.example import IMAGE, Message
from vlm.models import loading
from vlm.models.loading import LoadedModel, load_base
from vlm.models.towers import find_towers
from vlm.prompting import prompt_style
from vlm.settings import AdapterSettings, ModelSettings

LAYERS = {"4bit": Linear4bit, "8bit": Linear8bitLt}
BASES = ("starter", "smolvlm")
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {% for part in m.content %}"
    "{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
every_base = pytest.mark.parametrize("base", BASES)
every_quantization = pytest.mark.parametrize("quantization", LAYERS)


@pytest.fixture(scope="module")
def smolvlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smolvlm")
    make_smolvlm(folder)
    return folder


def make_smolvlm(folder: Path) -> None:
    """A tiny SmolVLM whose text tower is as wide as no block of bitsandbytes is."""
    tokenizer = tiny_tokenizer()
    marks = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<row_1_col_1>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.2}
    config = SmolVLMConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "image_size": 32,
            "patch_size": 8,
            **layers,
        },
        text_config={
            **{
                "model_type": "llama",
                "hidden_size": 48,
                "intermediate_size": 96,
                "max_position_embeddings": 512,
            },
            **{
                "vocab_size": len(tokenizer),
                "bos_token_id": 0,
                "pad_token_id": 1,
                "eos_token_id": 2,
                **layers,
            },
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=1,
        scale_factor=2,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        SmolVLMForConditionalGeneration(config).save_pretrained(folder)
    side = {"longest_edge": 32}
    images = SmolVLMImageProcessor(size=side, max_image_size=side, do_image_splitting=False)
    SmolVLMProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=SmolVLMVideoProcessor(),
        image_seq_len=4,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)


@pytest.fixture
def load(smolvlm: Path):
    """Loads a base by its short name."""

    def _load(base: str, **values) -> LoadedModel:
        model = str(smolvlm) if base == "smolvlm" else base
        return load_base(ModelSettings(model=model, device="cpu", **values))

    return _load


def batch_of(loaded: LoadedModel) -> BatchFeature:
    """Two examples with their labels."""
    examples = [("red", "màu đỏ"), ("blue", "màu xanh dương")]
    turns = [(Message("user", f"{IMAGE}màu gì?"), Message("assistant", answer)) for _, answer in examples]
    images = [[Image.new("RGB", (64, 64), colour)] for colour, _ in examples]
    return prompt_style(loaded.model.config, loaded.processor, 512).training_batch(turns, images)


def logits_of(model: nn.Module, batch: BatchFeature) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**batch).logits


def test_the_bits_are_where_they_were_asked_for(load, caplog: pytest.LogCaptureFixture) -> None:
    for base in BASES:
        full = load(base).model
        towers, head = find_towers(full), full.get_output_embeddings()
        linear = {
            name for name, module in full.named_modules() if type(module) is nn.Linear and module is not head
        }
        text = {name for name in linear if towers.of(name) == "text"}
        assert text < linear
        for quantization, layer in LAYERS.items():
            for quantize_vision, wanted in ((False, text), (True, linear)):
                caplog.clear()
                with caplog.at_level(logging.INFO, "vlm"):
                    small = load(base, quantization=quantization, quantize_vision=quantize_vision).model
                found = {name for name, module in small.named_modules() if isinstance(module, layer)}
                assert found == wanted
                for name in found:
                    assert small.get_submodule(name).weight.dtype in (torch.uint8, torch.int8)
                assert f"Weights in {quantization}: vision " in caplog.text
                assert ("vision 0%" in caplog.text) is not quantize_vision


@every_quantization
def test_what_is_left_out_is_bit_identical(load, quantization: str) -> None:
    full, small = load("smolvlm").model, load("smolvlm", quantization=quantization).model
    towers, left = find_towers(full), 0
    for name, parameter in full.named_parameters():
        if towers.of(name) != "text" or "norm" in name or "embed" in name or name.startswith("lm_head"):
            assert torch.equal(small.get_parameter(name), parameter), name
            left += 1
    assert left > 30


@every_base
def test_a_quantized_base_stays_close_to_the_full_one(load, base: str) -> None:
    full = load(base)
    batch = batch_of(full)
    wanted, errors = logits_of(full.model, batch), {}
    for quantization in LAYERS:
        found = logits_of(load(base, quantization=quantization).model, batch)
        errors[quantization] = ((found - wanted).norm() / wanted.norm()).item()
    assert 0 < errors["8bit"] < 0.2 * errors["4bit"]
    if base == "starter":  # random weights, as the other's, say little
        assert errors["4bit"] < 0.3


@every_base
def test_answering_leaves_4_bit_weights_as_they_are(load, base: str) -> None:
    loaded = load(base, quantization="4bit")
    model, batch = loaded.model, batch_of(loaded)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    answered = logits_of(model, batch)
    with torch.no_grad():
        trained = model.train()(**batch).logits
    if base == "smolvlm":  # the starter has dropout
        assert torch.equal(trained, answered)
    assert torch.equal(logits_of(model, batch), answered)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {name for name in before} == set(model.state_dict())


@every_base
@every_quantization
def test_qlora_learns_and_its_adapter_works_on_the_quantized_and_on_the_full_base(
    load, base: str, quantization: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load(base, quantization=quantization)
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    settings = AdapterSettings(use_vision_lora=True, lora_dropout=0.0)
    model, batch = adapters.attach(loaded.model, settings, "base"), batch_of(loaded)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0)
    losses = []
    for _ in range(6):
        loss = model.train()(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert "MatMul8bitLt" not in caplog.text  # a line for each layer and step would bury the log
    for name, value in model.get_base_model().state_dict().items():
        if ".lora_" not in name:
            assert torch.equal(value, before[name.replace(".base_layer.", ".")].to(value.dtype)), name

    adapters.save(model, tmp_path)
    learned = logits_of(model, batch)
    again = adapters.load(load(base, quantization=quantization).model, tmp_path)
    assert torch.equal(logits_of(again, batch), learned)
    full = load(base).model
    untouched = full.eval()(**batch).loss.item()
    with torch.no_grad():
        assert adapters.load(full, tmp_path).eval()(**batch).loss.item() < 0.9 * untouched


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_answers_in_8_bits_as_in_full_precision_and_in_4_bits_too(
    family: str, tmp_path: Path
) -> None:
    FAMILIES[family](tmp_path)
    settings = ModelSettings(model=str(tmp_path), device="cpu")
    full = load_base(settings)
    batch = batch_of(full)
    wanted = logits_of(full.model, batch)
    everything = settings.model_copy(update={"quantization": "8bit", "quantize_vision": True})
    found = logits_of(load_base(everything).model, batch)
    assert 0 < (found - wanted).norm() / wanted.norm() < 0.15
    small = settings.model_copy(update={"quantization": "4bit"})
    assert torch.isfinite(logits_of(load_base(small).model, batch)).all()


@every_quantization
def test_without_bitsandbytes_the_user_is_told_what_to_install(
    load, quantization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name)
    )
    with pytest.raises(UserError, match=f"{quantization[0]}-bit training needs bitsandbytes") as refusal:
        load("starter", quantization=quantization)
    assert "pip install bitsandbytes" in refusal.value.remedy
    assert "--quantization none" in refusal.value.remedy


def test_a_device_that_bitsandbytes_does_not_know_is_refused() -> None:
    settings = ModelSettings(quantization="4bit")
    with pytest.raises(UserError, match="does not run on mps devices") as refusal:
        loading.check_quantization(settings, torch.device("mps"))
    assert "--device cpu" in refusal.value.remedy


def test_the_arithmetic_is_bf16_or_fp16_by_what_the_gpu_has(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, gpu = ModelSettings(quantization="4bit"), torch.device("cuda")
    for has_bf16, precision, dtype in ((True, "bf16", torch.bfloat16), (False, "fp32", torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)  # noqa: B023
        assert loading.pick_precision("auto", gpu) == precision
        config = loading.quantization_config(settings, [], precision, gpu)
        assert config.bnb_4bit_compute_dtype == dtype
    cpu = loading.quantization_config(settings, [], "fp32", torch.device("cpu"))
    assert cpu.bnb_4bit_compute_dtype == torch.float32
    assert (cpu.bnb_4bit_quant_type, cpu.bnb_4bit_use_double_quant) == ("nf4", True)


def test_a_text_tower_with_nothing_to_quantize_is_refused(load) -> None:
    loaded = load("starter")
    with pytest.raises(UserError, match="Nothing in the text tower of starter can be quantized") as refusal:
        loading.check_quantized(
            ModelSettings(quantization="4bit"), loaded.model, find_towers(loaded.model), ["vision_tower"]
        )
    assert "--quantization none" in refusal.value.remedy
