"""The memory estimate: counts are PEFT's, a simulated step keeps what a real one does, advice helps."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import MBartConfig, SwinConfig, ViTConfig

from support.families import FAMILIES
from support.slow import slow_but
from support.tiny import NUMBERS
from training.config import TrainingConfig
from training.memory import simulate
from training.memory.auto import USUAL, choose, model_and_data
from training.memory.estimate import (
    IMPORTED,
    SAFETY_MARGIN,
    STARTER_MEMORY_FILE,
    Examples,
    MemoryEstimate,
    best_remedy,
    estimate,
    fit,
)
from training.memory.simulate import Machine, SimulatedModel, Step
from training.memory.tensor_tracker import TensorTracker
from vlm import adapters
from vlm.composed import ComposedConfig
from vlm.meta_model import COMMITTED, architecture, build_counts, outline, tower_counts
from vlm.methods import METHODS, Method
from vlm.models.loading import LoadedModel, load_base
from vlm.settings import AdapterSettings, ModelSettings

ROOT = Path(__file__).resolve().parents[3]
CPU = Machine("cpu", "fp32", fragmentation=1.0)
GIB = 2**30

BASES = ("starter", "llava")
"""An encoder-decoder, and a model that chats."""

Loader = Callable[[str], LoadedModel]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The setting `model` for a base by its name: a tiny family's folder is written when first asked for."""
    root = tmp_path_factory.mktemp("bases")

    def _folder(name: str) -> str:
        if name in FAMILIES and not (root / name).exists():
            FAMILIES[name](root / name)
        return str(root / name) if name in FAMILIES else name

    return _folder


@pytest.fixture(scope="module")
def load(folder: Callable[[str], str]) -> Loader:
    """A copy of a base that was loaded once."""
    loaded: dict[str, LoadedModel] = {}

    def _load(name: str) -> LoadedModel:
        if name not in loaded:
            loaded[name] = load_base(ModelSettings(model=folder(name), device="cpu"))
        return copy.deepcopy(loaded[name])

    return _load


def both(method: Method = "lora", **values: Any) -> AdapterSettings:
    prompts = METHODS[method].prompt_learning
    return AdapterSettings(method=method, use_vision_lora=not prompts, num_virtual_tokens=4, **values)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("method", slow_but({"lora", "dora", "ia3", "prefix_tuning", "adalora"}, METHODS))
def test_what_is_counted_before_a_weight_is_read_is_pefts_figure_and_the_size_of_the_file(
    method: Method, base: str, folder: Callable[[str], str], load: Loader, tmp_path: Path
) -> None:
    settings = both(method)
    counts = build_counts(folder(base), settings)
    torch.manual_seed(0)
    model = adapters.attach(load(base).model, settings, base)
    assert (counts.trainable, counts.total) == model.get_nb_trainable_parameters()
    assert counts == adapters.count(model)
    adapters.save(model, tmp_path / "adapter", start=adapters.save_start(model, method, tmp_path / "start"))
    with safe_open(tmp_path / "adapter" / "adapter_model.safetensors", "pt") as file:
        payload = sum(file.get_tensor(name).nbytes for name in file.keys())
    assert counts.adapter_mb == pytest.approx(payload / 1e6, rel=0.01)


def deep(tmp_path: Path, vision: str) -> str:
    """A folder with nothing but the configuration of a composed model with stacks of several layers."""
    towers = {
        "vit": ViTConfig(
            hidden_size=32, num_hidden_layers=6, num_attention_heads=2, intermediate_size=64, image_size=48
        ),
        "swin": SwinConfig(image_size=64, embed_dim=16, depths=[2, 6], num_heads=[2, 4], window_size=4),
    }
    text = MBartConfig(
        vocab_size=320,
        d_model=64,
        encoder_layers=5,
        decoder_layers=4,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        decoder_start_token_id=2,
    )
    ComposedConfig(vision_config=towers[vision], text_config=text).save_pretrained(tmp_path / vision)
    return str(tmp_path / vision)


@pytest.mark.parametrize("vision", slow_but({"vit"}, ["vit", "swin"]))
def test_an_outline_has_two_layers_of_a_kind_and_counts_as_the_whole(vision: str, tmp_path: Path) -> None:
    model = deep(tmp_path, vision)
    drawn, whole = outline(model, None), architecture(model, None)
    assert sorted(drawn.copies.values()) == [3, 4, 5]
    assert drawn.numbers() == sum(weight.numel() for weight in whole.parameters())
    for method in ("lora", "adalora", "ia3", "vera", "prefix_tuning"):
        settings = both(method, text_lora_targets="all_linear", text_lora_part="decoder")
        adapted = adapters.attach(copy.deepcopy(whole), settings, "whole", meta=True)
        assert build_counts(model, settings) == adapters.count(adapted), method


@pytest.mark.slow
def test_a_rehearsed_outline_keeps_what_the_whole_model_would(tmp_path: Path) -> None:
    subject = SimulatedModel(deep(tmp_path, "vit"), None, both(), (48, 48))
    inputs = simulate.image_inputs(subject).inputs
    for checkpointing in (False, True):
        step = Step(examples=8, tokens=40, answer_tokens=20, checkpointing=checkpointing)
        adapted, copies = simulate.adapted_model(subject, whole=True)
        whole = simulate.simulated_peak(adapted, copies, inputs, CPU, step)
        assert simulate.peak(subject, CPU, step) == pytest.approx(whole, rel=0.05)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("settings", [AdapterSettings(), both(), both("dora")], ids=["text", "both", "dora"])
def test_a_rehearsed_step_keeps_what_a_real_one_keeps(
    settings: AdapterSettings, checkpointing: bool, folder: Callable[[str], str], load: Loader
) -> None:
    subject = SimulatedModel(folder("llava"), None, settings, (28, 28))
    step = Step(examples=6, tokens=50, answer_tokens=10, checkpointing=checkpointing)
    loaded = load("llava")
    model = adapters.attach(loaded.model, settings, "llava").train()
    if checkpointing:
        loaded.model.activation_checkpointing_enable({"use_reentrant": False})
    ids = torch.full((step.examples, step.tokens), simulate.SOME_ID)
    image = loaded.model.config.image_token_id
    image_inputs = simulate.image_inputs(subject)
    ids[:, : image_inputs.tokens] = image
    mask = torch.ones_like(ids)
    mask[0, -1] = 0
    pixels = torch.randn(step.examples, *image_inputs.inputs["pixel_values"].shape[1:])
    # A real step: every operation runs as it is, and its tensors are followed.
    held = [*model.parameters(), *model.buffers()]
    counter = TensorTracker(held, run=lambda func, args, kwargs: func(*args, **kwargs))
    with counter:
        model(input_ids=ids, attention_mask=mask, labels=ids, pixel_values=pixels).loss.backward()
    assert simulate.peak(subject, CPU, step) == pytest.approx(counter.peak, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    [
        "smolvlm",
        "llava_next",
        "qwen2_5_vl",
        "qwen3_5",
        "lfm2_vl",
        "mllama",
        "florence2",
        "instructblip",
        "git",
    ],
)
def test_models_of_every_make_can_be_rehearsed(
    family: str, folder: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    by_formula = []
    monkeypatch.setattr(simulate, "fallback_peak", lambda *_: by_formula.append(family) or 0.0)
    subject = SimulatedModel(folder(family), None, AdapterSettings(use_vision_lora=True), (64, 64))
    few, many = (
        simulate.peak(subject, CPU, Step(examples=examples, tokens=64, answer_tokens=8))
        for examples in (2, 4)
    )
    assert by_formula == []
    assert 1.5 * few < many < 2.1 * few


def test_a_gpu_keeps_less_of_each_number_than_a_cpu(folder: Callable[[str], str]) -> None:
    subject = SimulatedModel(folder("llava"), None, both(), (28, 28))
    step = Step(examples=6, tokens=50, answer_tokens=10)
    on_gpu = simulate.peak(subject, Machine("cuda", "bf16", fragmentation=1.0), step)
    assert 0.3 < on_gpu / simulate.peak(subject, CPU, step) < 0.8


def test_a_model_that_cannot_be_rehearsed_is_reckoned_within_a_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = SimulatedModel(deep(tmp_path, "vit"), None, AdapterSettings(), (48, 48))
    step = Step(examples=8, tokens=40, answer_tokens=40)
    known = simulate.peak(subject, CPU, step)

    def refuse(*_: object) -> float:
        raise RuntimeError("no numbers")

    monkeypatch.setattr(simulate, "simulated_peak", refuse)
    simulate.peak.cache_clear()
    assert simulate.peak(subject, CPU, step) == pytest.approx(known, rel=0.5)
    simulate.peak.cache_clear()


@pytest.mark.parametrize("quantization", ["none", "8bit", "4bit"])
@pytest.mark.parametrize("quantize_vision", [False, True])
def test_weights_are_as_many_bytes_as_the_loaded_model_has(quantization: str, quantize_vision: bool) -> None:
    chosen = {"quantization": quantization, "quantize_vision": quantize_vision, "device": "cpu"}
    model = load_base(ModelSettings(**chosen)).model
    held = {id(p): p.nbytes for p in model.parameters()}
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            held[id(state)] = state.absmax.nbytes + state.state2.absmax.nbytes
        scales = getattr(parameter, "SCB", None)
        if scales is not None:
            held[id(scales)] = scales.nbytes
    assert estimate(TrainingConfig(**NUMBERS | chosen)).weights == pytest.approx(sum(held.values()), rel=0.01)


@pytest.mark.slow
def test_the_parts_follow_the_settings() -> None:
    def parts(examples: Examples = USUAL, **values: Any) -> MemoryEstimate:
        return estimate(TrainingConfig(**NUMBERS | {"device": "cpu"} | values), examples)

    usual = parts()
    assert usual.total == sum(
        getattr(usual, part)
        for part in ("weights", "adapter", "gradients", "optimizer", "activations", "overhead")
    )
    trainable = tower_counts(TrainingConfig()).trainable
    assert (usual.gradients, usual.optimizer) == (4 * trainable, 8 * trainable)
    assert parts(optim="adamw_8bit").optimizer < usual.optimizer / 3
    assert parts(batch_size=64).activations == pytest.approx(2 * usual.activations, rel=0.1)
    assert parts(gradient_checkpointing=True).activations < usual.activations
    assert parts(use_vision_lora=True).activations > 1.3 * usual.activations
    assert parts(text_lora_r=32).adapter == 2 * usual.adapter
    assert usual.overhead > IMPORTED
    longer = Examples(tokens=240, answer_tokens=120)
    assert parts(longer).activations > 3 * usual.activations
    capped = parts(longer, max_length=80)
    assert capped.activations < parts(longer).activations


def of_size(total: int) -> MemoryEstimate:
    return MemoryEstimate("cpu", total, 0, 0, 0, 0, 0, 0)


def test_a_run_fits_with_a_fifth_to_spare_is_tight_up_to_the_brim_and_does_not_fit_above() -> None:
    assert [fit(of_size(size), 100) for size in (0, 80, 81, 100, 101)] == [
        "fits",
        "fits",
        "tight",
        "tight",
        "wont_fit",
    ]


def test_the_setting_that_is_named_makes_a_run_fit_and_is_the_least_change() -> None:
    settings = TrainingConfig(**NUMBERS | {"device": "cpu", "batch_size": 256})
    now = estimate(settings)
    assert best_remedy(settings, 2 * now.total) is None
    remedy = best_remedy(settings, int(now.total * 0.9))
    assert (remedy.setting, remedy.value) == ("gradient_checkpointing", True)
    again = settings.model_copy(update={"gradient_checkpointing": True})
    memory = int((estimate(again).total - 0.7 * estimate(again).activations) / SAFETY_MARGIN)
    remedy = best_remedy(again, memory)
    assert remedy.setting == "batch_size"
    assert remedy.value < 256
    changed = again.model_copy(update={remedy.setting: remedy.value})
    assert remedy.estimate == estimate(changed)
    assert fit(remedy.estimate, memory) == "fits"


@pytest.mark.slow
def test_where_no_setting_is_enough_the_one_that_saves_most_is_named() -> None:
    settings = TrainingConfig(**NUMBERS | {"device": "cpu", "batch_size": 256})
    remedy = best_remedy(settings, 64 << 20)
    others = [{"gradient_checkpointing": True}, {"quantization": "4bit"}, {"text_lora_r": 8}]
    totals = [estimate(settings.model_copy(update=other)).total for other in others]
    assert (remedy.setting, remedy.value) == ("batch_size", 1)
    assert remedy.estimate.total <= min(totals)


@pytest.mark.slow
def test_a_smaller_model_is_named_where_nothing_else_helps(
    folder: Callable[[str], str], tmp_path: Path
) -> None:
    model = large(tmp_path)
    least = {"model": model, "batch_size": 1, "gradient_checkpointing": True, "quantization": "4bit"}
    least |= {"image_max_pixels": 2**16}
    settings = TrainingConfig(**NUMBERS | {"device": "cpu"} | least)
    remedy = best_remedy(settings, 4 * GIB)
    assert remedy.setting == "model"
    assert fit(remedy.estimate, 4 * GIB) == "fits"
    assert remedy.estimate.weights < estimate(settings).weights


@pytest.mark.slow
def test_a_model_of_two_billion_is_split_until_it_fits_and_learns_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainingConfig(model=large(tmp_path), device="cpu", precision="bf16")
    known = model_and_data(config, 3000, "chat")
    passes = []
    for there in (40 * GIB, 16 * GIB, 8 * GIB):
        monkeypatch.setattr("training.memory.estimate.device_memory", lambda _, there=there: there)
        chosen = choose(config, known, 20).config
        assert fit(estimate(chosen), there) == "fits"
        assert chosen.batch_size * chosen.gradient_accumulation_steps == 16
        assert (chosen.learning_rate, chosen.epochs, chosen.quantization) == (2e-4, 3, "none")
        passes.append(chosen.batch_size)
    assert passes == sorted(passes, reverse=True)


def large(tmp_path: Path) -> str:
    """A folder with the configuration of a model of 2.1 billion parameters, and nothing else."""
    text = {
        "vocab_size": 151_936,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20]},
    }
    vision = {
        "depth": 24,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_heads": 16,
        "out_hidden_size": 2048,
        "deepstack_visual_indexes": [5, 11, 17],
    }
    config = {"model_type": "qwen3_vl", "architectures": ["Qwen3VLForConditionalGeneration"]}
    config |= {"text_config": text, "vision_config": vision, "tie_word_embeddings": True, "dtype": "bfloat16"}
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "config.json").write_text(json.dumps(config))
    return str(tmp_path / "large")


def test_the_first_paint_has_the_starters_estimates_without_torch() -> None:
    program = (
        "import sys, json\n"
        "from dataclasses import asdict\n"
        "from training.config import TrainingConfig\n"
        "from training.memory import estimate\n"
        "found = [asdict(estimate.estimate(TrainingConfig(**json.loads(a)))) for a in sys.argv[1:]]\n"
        "assert estimate.device_memory('cpu') > 0\n"
        "assert 'torch' not in sys.modules\n"
        "print(json.dumps(found))\n"
    )
    chosen = [NUMBERS | a.model_dump(mode="json", exclude_unset=True) for a in COMMITTED.values()]
    command = [sys.executable, "-c", program, *map(json.dumps, chosen)]
    ended = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    for values, painted in zip(chosen, json.loads(ended.stdout), strict=True):
        computed = estimate(TrainingConfig(**NUMBERS | {"device": "cpu"} | values))
        assert painted["activations"] == pytest.approx(computed.activations, rel=0.05)
        others = painted.keys() - {"activations"}
        assert {name: painted[name] for name in others} == {name: getattr(computed, name) for name in others}


def test_the_committed_estimates_are_of_the_default_settings() -> None:
    for name, value in json.loads(STARTER_MEMORY_FILE.read_text())["settings"].items():
        assert getattr(TrainingConfig(**NUMBERS), name) == value
