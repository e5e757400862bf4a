"""PEFT on composed models: LoRA in a SigLIP, the original counts, connectors, prompts and prefixes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    TaskType,
    get_peft_model,
)
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Dinov2Config,
    MBartConfig,
    PreTrainedModel,
)

from support.composed_towers import Batch, Towers, batch_of, compose, lesson, without
from vlm import adapters
from vlm.composed import ComposedConfig
from vlm.models.loading import load_base
from vlm.settings import AdapterSettings, ModelSettings

ROOT = Path(__file__).resolve().parents[3]
STARTER = ROOT / "vlm" / "starter"


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Towers:
    return Towers(tmp_path_factory.mktemp("towers"))


def teach(model: PeftModel, batch: Batch, learning_rate: float = 1e-2, steps: int = 3) -> list[float]:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=learning_rate)
    losses = []
    for _ in range(steps):
        loss = model(**batch).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return losses


def logits(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**batch).logits


@pytest.mark.parametrize("vision", ["siglip", "siglip2"])
@pytest.mark.parametrize("targets", ["attention", "attention_mlp", "all_linear"])
def test_lora_in_the_vision_tower_of_a_siglip_learns_and_comes_back(
    tower: Towers, vision: str, targets: str, tmp_path: Path
) -> None:
    """Elsewhere it fails with "got multiple values for keyword argument 'inputs_embeds'"."""
    model, batch = compose(tower, vision, "bartpho-syllable"), lesson(tower, vision, "bartpho-syllable")
    settings = AdapterSettings(
        use_vision_lora=True,
        vision_lora_targets=targets,
        use_text_lora=False,
        lora_dropout=0.0,
        connector="off",
    )
    torch.manual_seed(0)
    adapted = adapters.attach(model, settings, "towers").train()
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained
    assert all(".vision_tower." in name and ".lora_" in name for name in trained)
    fresh = {name: p.detach().clone() for name, p in adapted.named_parameters()}
    losses = teach(adapted, batch)
    assert losses[0] > losses[1] > losses[2]
    assert {name for name, p in adapted.named_parameters() if not torch.equal(p, fresh[name])} == trained
    adapters.save(adapted, tmp_path)
    again = adapters.load(compose(tower, vision, "bartpho-syllable"), tmp_path)
    assert torch.equal(logits(again, batch), logits(adapted, batch))
    assert not torch.equal(logits(again, batch), logits(compose(tower, vision, "bartpho-syllable"), batch))


@pytest.mark.parametrize(("part", "trainable"), [("encoder", 1_572_864), ("all", 4_718_592)])
def test_the_original_systems_counts_are_exact(part: str, trainable: int, tmp_path: Path) -> None:
    """DINOv2-base and BARTpho-syllable: 12 + 12 layers of width 1024, rank 16 on q, k, v and out."""
    Dinov2Config(image_size=518).save_pretrained(tmp_path / "dinov2-base")
    MBartConfig(vocab_size=40030, decoder_start_token_id=2).save_pretrained(tmp_path / "bartpho-syllable")
    config = ComposedConfig.from_towers(tmp_path / "dinov2-base", tmp_path / "bartpho-syllable")
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    settings = AdapterSettings(
        text_lora_part=part, text_lora_targets="attention", text_lora_r=16, connector="off"
    )
    counts = adapters.count(adapters.attach(model, settings, "original", meta=True))
    assert counts.trainable == counts.text.trainable == trained_by_hand(part) == trainable
    assert counts.vision.total == 86_579_712  # 86.58 M, DINOv2's mask token left out


def trained_by_hand(part: str) -> int:
    attentions = 12 * {"encoder": 1, "all": 3}[part]
    return attentions * 4 * 16 * (1024 + 1024)


AGAIN = """
import sys
import torch
from peft import PeftModel
from vlm.composed import ComposedModel
vision, text, adapter, batch, logits = sys.argv[1:]
model = PeftModel.from_pretrained(ComposedModel.from_towers(vision, text), adapter).eval()
with torch.no_grad():
    assert torch.equal(model(**torch.load(batch)).logits, torch.load(logits))
"""


@pytest.mark.slow
def test_a_connector_trained_in_full_comes_back_in_a_fresh_process(tower: Towers, tmp_path: Path) -> None:
    pair = ("siglip", "bartpho-syllable")
    model, batch = compose(tower, *pair), lesson(tower, *pair)
    settings = AdapterSettings(use_vision_lora=True, lora_dropout=0.0, connector="full")
    adapted = adapters.attach(model, settings, "towers").train()
    losses = teach(adapted, batch)
    assert losses[0] > losses[1] > losses[2]
    adapters.save(adapted, tmp_path / "adapter")
    saved = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    parts = {name for name, part in model.connector.named_children() if [*part.parameters()]}
    assert {*saved["modules_to_save"]} == {f"connector.{name}" for name in parts}
    torch.save(batch, tmp_path / "batch.pt")
    torch.save(logits(adapted, batch), tmp_path / "logits.pt")
    files = [*(tower(kind) for kind in pair), *(tmp_path / n for n in ("adapter", "batch.pt", "logits.pt"))]
    ended = subprocess.run(
        [sys.executable, "-c", AGAIN, *map(str, files)], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("quantization", ["none", "4bit"])
def test_two_folders_with_a_plus_between_are_a_base_model(
    tower: Towers, quantization: str, tmp_path: Path
) -> None:
    name = f"{tower('dinov3')}+{tower('bartpho-syllable')}"
    loaded = load_base(ModelSettings(model=name, device="cpu", quantization=quantization))
    batch = batch_of(loaded.processor)
    settings = AdapterSettings(use_vision_lora=True, lora_dropout=0.0, connector="full")
    adapted = adapters.attach(loaded.model, settings, name).train()
    losses = teach(adapted, batch)
    assert losses[0] > losses[1] > losses[2]
    answers = adapted.eval().generate(**without(batch, "labels"), max_new_tokens=3)
    assert answers[:, 0].tolist() == [2, 2]


@pytest.fixture
def starter() -> PreTrainedModel:
    return AutoModelForImageTextToText.from_pretrained(STARTER, local_files_only=True)


@pytest.mark.parametrize("cached", [False, True], ids=["pixels", "features"])
@pytest.mark.parametrize(
    "config",
    [
        PromptTuningConfig(task_type=TaskType.SEQ_2_SEQ_LM, num_virtual_tokens=4),
        PrefixTuningConfig(task_type=TaskType.SEQ_2_SEQ_LM, num_virtual_tokens=4),
        LoraConfig(task_type=TaskType.SEQ_2_SEQ_LM, target_modules=["q_proj", "v_proj"]),
    ],
    ids=["prompt tuning", "prefix tuning", "lora"],
)
def test_pefts_seq2seq_wrapper_works(
    starter: PreTrainedModel, config: PeftConfig, cached: bool, tmp_path: Path
) -> None:
    batch = batch_of(AutoProcessor.from_pretrained(STARTER, local_files_only=True))
    if cached:
        with torch.no_grad():
            features = starter.get_image_features(batch.pop("pixel_values"))
        batch["mm_encoder_outputs"] = {"image": features}
    torch.manual_seed(0)
    adapted = get_peft_model(starter, config).train()
    losses = teach(adapted, batch, learning_rate=1e-2)
    assert losses[0] > losses[1] > losses[2]
    taught = logits(adapted, batch)
    adapted.save_pretrained(tmp_path)
    base = AutoModelForImageTextToText.from_pretrained(STARTER, local_files_only=True)
    again = PeftModel.from_pretrained(base, tmp_path)
    assert torch.equal(logits(again, batch), taught)
    with again.disable_adapter():
        assert not torch.equal(taught, logits(again, batch))
    question = without(batch, "labels")
    answers = again.generate(**question, max_new_tokens=5, do_sample=False)
    likely = logits(again, {**question, "decoder_input_ids": answers[:, :-1]}).argmax(-1)
    for answer, tokens in zip(answers[:, 1:], likely, strict=True):
        length = int((answer != 1).sum())  # an ended answer is padded
        assert torch.equal(answer[:length], tokens[:length])
    assert again.generate(**question, max_new_tokens=5, num_beams=2).shape[0] == 2


def test_pefts_choices_for_prompts_are_the_text_models(starter: PreTrainedModel) -> None:
    config = PrefixTuningConfig(task_type=TaskType.SEQ_2_SEQ_LM, num_virtual_tokens=4)
    adapted = get_peft_model(starter, config)
    text = starter.config.text_config
    assert (config.num_layers, config.token_dim) == (text.decoder_layers, text.d_model)
    assert adapted.word_embeddings is starter.get_input_embeddings()
