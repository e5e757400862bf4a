"""LoRA is PEFT's: what is targeted, counted and trained, and that the base stays as it is."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from training import runs
from vlm import adapters
from vlm.errors import UserError
from vlm.meta_model import build_counts, tower_counts
from vlm.models.loading import load_base
from vlm.param_counts import TowerCount, TowerCounts
from vlm.settings import AdapterSettings, ModelSettings

ROOT = Path(__file__).resolve().parents[3]
BOTH = AdapterSettings(use_vision_lora=True, lora_dropout=0.0)
INPUTS = {
    "pixel_values": torch.linspace(-1, 1, 2 * 3 * 48 * 48).reshape(2, 3, 48, 48),
    "input_ids": torch.arange(10, 20).reshape(2, 5),
    "labels": torch.tensor([[40, 41, 2], [50, 2, -100]]),
}


def load(tiny_base: Path, **values: str) -> PreTrainedModel:
    return load_base(ModelSettings(model=str(tiny_base), device="cpu", **values)).model


def train(model: PeftModel, steps: int = 3) -> None:
    """A few real optimizer steps on everything that wants a gradient."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        model(**INPUTS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture
def model(tiny_base: Path) -> PeftModel:
    torch.manual_seed(0)
    return adapters.attach(load(tiny_base), BOTH, "tiny")


@pytest.fixture
def trained(model: PeftModel) -> PeftModel:
    train(model)
    return model.eval()


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(**INPUTS).logits


def adapted_layers(model: PeftModel) -> set[str]:
    """The base's names of the layers that have a LoRA."""
    return {
        name.removeprefix(adapters.PEFT_PREFIX)
        for name, module in model.named_modules()
        if hasattr(module, "lora_A")
    }


def test_an_adapted_layer_is_w_x_plus_alpha_over_r_times_b_a_x(trained: PeftModel) -> None:
    layers = [module for module in trained.modules() if hasattr(module, "lora_A")]
    settings = {(layer.r["default"], layer.lora_alpha["default"]) for layer in layers}
    assert settings == {(8, 16), (16, 32)}
    for layer in layers:
        x = torch.randn(7, layer.in_features)
        a, b = (weights["default"].weight for weights in (layer.lora_A, layer.lora_B))
        alpha, r = layer.lora_alpha["default"], layer.r["default"]
        assert b.any()
        with torch.no_grad():
            wanted = layer.base_layer(x) + alpha / r * (x @ a.T @ b.T)
            torch.testing.assert_close(layer(x), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "vision", "text"),
    [
        (AdapterSettings(use_vision_lora=True), (8, 16), (16, 32)),
        (AdapterSettings(), None, (16, 32)),
        (AdapterSettings(use_vision_lora=True, use_text_lora=False), (8, 16), None),
        (
            AdapterSettings(use_vision_lora=True, vision_lora_r=4, vision_lora_alpha=3, text_lora_r=2),
            (4, 3),
            (2, 4),
        ),
        (AdapterSettings(use_vision_lora=True, vision_lora_r=16, text_lora_alpha=5), (16, 32), (16, 5)),
    ],
    ids=["both", "text", "vision", "given", "same rank"],
)
def test_one_lora_config_gives_each_tower_its_rank_and_alpha(
    tiny_base: Path, settings: AdapterSettings, vision: tuple | None, text: tuple | None
) -> None:
    model = adapters.attach(load(tiny_base), settings, "tiny")
    assert list(model.peft_config) == ["default"]
    found: dict[str, set] = {"vision_tower": set(), "language_model": set()}
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):
            assert module.lora_A["default"].out_features == module.r["default"]
            assert module.scaling["default"] == module.lora_alpha["default"] / module.r["default"]
            found[name.removeprefix(adapters.PEFT_PREFIX).split(".")[0]].add(
                (module.r["default"], module.lora_alpha["default"])
            )
    assert found == {
        "vision_tower": {vision} if vision else set(),
        "language_model": {text} if text else set(),
    }


ENCODER = "language_model.model.encoder.layers.0"
DECODER = "language_model.model.decoder.layers.0"
ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


def names(layer: str, blocks: tuple[str, ...], mlp: bool = False) -> set[str]:
    attention = {f"{layer}.{block}.{leaf}" for block in blocks for leaf in ATTENTION}
    return attention | ({f"{layer}.fc1", f"{layer}.fc2"} if mlp else set())


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (
            AdapterSettings(),
            names(ENCODER, ("self_attn",), mlp=True)
            | names(DECODER, ("self_attn", "encoder_attn"), mlp=True),
        ),
        (
            AdapterSettings(text_lora_targets="attention"),
            names(ENCODER, ("self_attn",)) | names(DECODER, ("self_attn", "encoder_attn")),
        ),
        (AdapterSettings(text_lora_part="encoder"), names(ENCODER, ("self_attn",), mlp=True)),
        (
            AdapterSettings(text_lora_part="decoder", text_lora_targets="attention"),
            names(DECODER, ("self_attn", "encoder_attn")),
        ),
    ],
    ids=["all", "attention", "encoder", "decoder attention"],
)
def test_exactly_the_layers_that_the_settings_name_get_a_lora(
    tiny_base: Path, settings: AdapterSettings, wanted: set[str]
) -> None:
    assert adapted_layers(adapters.attach(load(tiny_base), settings, "tiny")) == wanted


def test_vision_lora_stays_in_the_vision_tower(tiny_base: Path) -> None:
    attention = AdapterSettings(use_vision_lora=True, use_text_lora=False, vision_lora_targets="attention")
    few = adapted_layers(adapters.attach(load(tiny_base), attention, "tiny"))
    both = attention.model_copy(update={"vision_lora_targets": "attention_mlp"})
    more = adapted_layers(adapters.attach(load(tiny_base), both, "tiny"))
    assert len(few) == 4
    assert len(more - few) == 2
    assert all(name.startswith("vision_tower.") for name in more)


def test_without_a_tower_or_a_layer_to_train_there_is_a_word_about_it(tiny_base: Path) -> None:
    with pytest.raises(UserError, match="No tower is trained"):
        adapters.attach(load(tiny_base), AdapterSettings(use_text_lora=False), "tiny")
    text_alone = load(tiny_base).language_model
    with pytest.raises(UserError, match=f"No image encoder was found in {type(text_alone).__name__}"):
        adapters.attach(text_alone, AdapterSettings(), "tiny")


@pytest.mark.parametrize("quantization", ["none", "4bit"])
@pytest.mark.parametrize(
    "settings",
    [AdapterSettings(), BOTH, AdapterSettings(use_vision_lora=True, use_text_lora=False)],
    ids=["text", "both", "vision"],
)
def test_counts_add_up_to_pefts_and_are_known_before_a_weight_is_read(
    tiny_base: Path, settings: AdapterSettings, quantization: str
) -> None:
    model = adapters.attach(load(tiny_base, quantization=quantization), settings, "tiny")
    counts = adapters.count(model)
    assert (counts.trainable, counts.total) == model.get_nb_trainable_parameters()
    assert counts == build_counts(str(tiny_base), settings)
    assert counts.connector.trainable == 0
    assert (counts.vision.trainable > 0) == settings.use_vision_lora
    assert (counts.text.trainable > 0) == settings.use_text_lora
    lora = sum(p.numel() for name, p in model.named_parameters() if ".lora_" in name)
    assert counts.trainable == lora
    untouched = sum(p.numel() for p in load(tiny_base).parameters())
    assert counts.total == untouched + lora


def test_alpha_and_dropout_do_not_change_the_counts_and_rank_does() -> None:
    default = tower_counts_of()
    assert tower_counts_of(text_lora_alpha=1.0, lora_dropout=0.5) == default
    assert tower_counts_of(text_lora_r=32).text.trainable == 2 * default.text.trainable


def tower_counts_of(**values: float) -> TowerCounts:
    class Both(ModelSettings, AdapterSettings):
        pass

    return tower_counts(Both(**values))


def test_the_log_names_the_counts_as_it_always_does() -> None:
    counts = TowerCounts(
        vision=TowerCount(524_288, 108_789_760),
        connector=TowerCount(0, 1_000),
        text=TowerCount(1_572_864, 127_868_928),
    )
    assert adapters.count_lines(counts) == [
        "[LoRA] Vision - Trainable: 524,288 (0.48%) | Total: 108,789,760",
        "[LoRA] Text - Trainable: 1,572,864 (1.23%) | Total: 127,868,928",
        "[Freeze] Vision encoder: FROZEN (base) + PEFT LoRA (0.52M params)",
    ]
    frozen = TowerCounts(TowerCount(0, 10), TowerCount(0, 10), TowerCount(1, 10))
    assert adapters.count_lines(frozen)[0] == "[LoRA] Vision - Trainable: 0 (0.00%) | Total: 10"
    assert adapters.count_lines(frozen)[2] == "[Freeze] Vision encoder: FROZEN (base)"


def test_a_fresh_adapter_changes_nothing(model: PeftModel, tiny_base: Path) -> None:
    assert torch.equal(logits(model.eval()), logits(load(tiny_base)))


def test_steps_move_the_adapter_alone_and_the_base_stays_bit_identical(
    model: PeftModel, tiny_base: Path
) -> None:
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    train(model)
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {name for name in before if ".lora_" in name}
    untouched = load(tiny_base).state_dict()
    kept = {
        name.removeprefix(adapters.PEFT_PREFIX).replace(".base_layer", ""): tensor
        for name, tensor in model.state_dict().items()
        if ".lora_" not in name
    }
    assert kept.keys() == untouched.keys()
    assert all(torch.equal(kept[name], tensor) for name, tensor in untouched.items())


def test_a_merged_adapter_answers_as_the_unmerged_one(trained: PeftModel) -> None:
    apart = logits(trained)
    merged = trained.merge_and_unload()
    assert not any(hasattr(module, "lora_A") for module in merged.modules())
    torch.testing.assert_close(logits(merged), apart, rtol=1e-4, atol=1e-4)


WITHOUT_PEFT = """
import sys
from importlib.machinery import PathFinder

class WithoutPeft(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] == "peft" else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutPeft
from training.__main__ import main
sys.exit(main(["run", "--name", "demo", "--workspace", sys.argv[1]]))
"""


@pytest.mark.slow
def test_without_peft_a_run_says_how_to_install_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_PEFT, str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert ended.returncode == 2, ended.stderr
    status = runs.find(tmp_path, "demo").status()
    assert status.state == "failed"
    assert status.problem == "PEFT is required for LoRA. Install it with: pip install peft"
    assert status.problem in ended.stderr
    assert "Traceback" not in ended.stderr
