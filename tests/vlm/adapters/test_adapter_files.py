"""An adapter on disk: a standard PEFT folder that any PEFT loads, and what is refused."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from vlm import adapters
from vlm.errors import UserError
from vlm.models.loading import load_base
from vlm.settings import AdapterSettings, ModelSettings

ROOT = Path(__file__).resolve().parents[3]
INPUTS = {
    "pixel_values": torch.linspace(-1, 1, 2 * 3 * 48 * 48).reshape(2, 3, 48, 48),
    "input_ids": torch.arange(10, 20).reshape(2, 5),
    "labels": torch.tensor([[40, 41, 2], [50, 2, -100]]),
}


def load(tiny_base: Path) -> PreTrainedModel:
    return load_base(ModelSettings(model=str(tiny_base), device="cpu")).model


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(**INPUTS).logits


@pytest.fixture(scope="module")
def trained(tiny_base: Path) -> PeftModel:
    """Both towers adapted, after a few optimizer steps."""
    torch.manual_seed(0)
    model = adapters.attach(load(tiny_base), AdapterSettings(use_vision_lora=True), "tiny").eval()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        model(**INPUTS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.mark.slow
def test_a_saved_adapter_gives_plain_peft_in_a_fresh_process_the_same_logits(
    trained: PeftModel, tiny_base: Path, tmp_path: Path
) -> None:
    adapters.save(trained, tmp_path / "adapter")
    save_file(INPUTS, tmp_path / "inputs.safetensors")
    program = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from peft import PeftModel\n"
        "from safetensors.torch import load_file, save_file\n"
        "from transformers import AutoModelForImageTextToText\n"
        "import vlm.composed\n"
        "base, folder = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "model = AutoModelForImageTextToText.from_pretrained(base).eval()\n"
        "model = PeftModel.from_pretrained(model, folder / 'adapter')\n"
        "with torch.no_grad():\n"
        "    logits = model(**load_file(folder / 'inputs.safetensors')).logits\n"
        "save_file({'logits': logits}, folder / 'logits.safetensors')\n"
        "assert not {'training', 'vlm.adapters'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", program, str(tiny_base), str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert torch.equal(load_file(tmp_path / "logits.safetensors")["logits"], logits(trained))


def test_a_saved_adapter_loads_to_the_same_logits_and_differs_from_the_base(
    trained: PeftModel, tiny_base: Path, tmp_path: Path
) -> None:
    adapters.save(trained, tmp_path)
    again = adapters.load(load(tiny_base), tmp_path)
    assert torch.equal(logits(again), logits(trained))
    with again.disable_adapter():
        assert torch.equal(logits(again), logits(load(tiny_base)))
    assert not torch.allclose(logits(again), logits(load(tiny_base)))


def test_a_saved_adapter_names_its_base_and_no_folder_of_this_machine(
    trained: PeftModel, tiny_base: Path, tmp_path: Path
) -> None:
    adapters.save(trained, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    assert config["task_type"] is None
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    for name in ("adapter_config.json", "README.md"):
        text = (tmp_path / name).read_text()
        assert str(tiny_base) not in text
        assert not re.search(r"(?<![\w.])/(?:tmp|home|root|work|Users)/", text)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_an_adapters_files_have_the_mode_the_umask_says(
    trained: PeftModel, tmp_path: Path, umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        adapters.save(trained, tmp_path / "adapter")
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "adapter").iterdir()} == {mode}


def test_an_adapter_of_another_base_is_refused_before_the_base_is_touched(
    tiny_base: Path, foreign_adapter: Path
) -> None:
    base = load(tiny_base)
    with pytest.raises(UserError) as refused:
        adapters.load(base, foreign_adapter)
    key = "base_model.model.language_model.model.decoder.layers.0.encoder_attn.k_proj.lora_A.weight"
    assert refused.value.problem == (
        f"narrow-adapter does not fit tiny: {key} is 16 x 16, not 16 x 32. It was trained on narrow. "
        "4 of 32 tensors match."
    )
    assert refused.value.remedy == "Choose narrow as the base model."
    assert not any(hasattr(module, "lora_A") for module in base.modules())


def test_an_adapter_tells_what_it_is_without_being_loaded(trained: PeftModel, tmp_path: Path) -> None:
    folder = tmp_path / "colours" / "adapter"
    adapters.save(trained, folder)
    info = adapters.read_info(folder)
    assert (info.name, info.base_name, info.method, info.label) == ("colours", "tiny", "lora", "LoRA")
    assert info.ranks == {"text": (16, 16), "vision": (8, 8)}
    assert info.targets == ("fc1", "fc2", "k_proj", "o_proj", "out_proj", "q_proj", "v_proj")
    assert info.trained_in_full == ()
    tensors = load_file(folder / "adapter_model.safetensors")
    assert info.tensors == len(tensors)
    assert info.parameters == sum(tensor.numel() for tensor in tensors.values())
    assert info.size_mb == pytest.approx(adapters.count(trained).adapter_mb, rel=0.3)
    assert time.time() - 60 < info.saved_at <= time.time()
    assert info.metrics == {}


CARD = """
| held out | exact match | token F1 | loss |
|---|---|---|---|
| base | 0.000 | 0.010 | 3.100 |
| step 40 | 0.500 | 0.600 | 1.200 |
| step 80 | 0.875 | 0.900 | 0.400 |
"""


@pytest.mark.parametrize(
    ("name", "text", "metrics"),
    [
        ("README.md", CARD, {"exact_match": 0.875, "token_F1": 0.9, "loss": 0.4}),
        (
            "README.md",
            CARD.replace("step 40", "step 40 (kept)"),
            {"exact_match": 0.5, "token_F1": 0.6, "loss": 1.2},
        ),
        ("all_results.json", '{"eval_loss": 1.5, "epoch": 3, "eval_bad": NaN}', {"eval_loss": 1.5}),
        ("all_results.json", '{"eval_loss": 1.5, "eval_big": 1' + "0" * 400 + "}", {"eval_loss": 1.5}),
        ("eval_results.json", "[" * 100_000, {}),
        ("README.md", "| held out |", {}),
    ],
    ids=[
        "our card",
        "our card of the best step",
        "LLaMA-Factory",
        "hundreds of digits",
        "brackets",
        "half a card",
    ],
)
def test_metrics_are_what_the_folder_tells(
    name: str, text: str, metrics: dict[str, float], trained: PeftModel, tmp_path: Path
) -> None:
    adapters.save(trained, tmp_path)
    (tmp_path / name).write_text(text)
    assert adapters.read_info(tmp_path).metrics == metrics


@pytest.mark.parametrize(
    ("named", "shown"),
    [
        ("org/model", "org/model"),
        ("model", "model"),
        ("/somewhere/on/a/disk/model/", "model"),
        ("C:\\models\\model", "model"),
        ("../models/model", "model"),
        ("cache/models--org--model/snapshots/0a1b2c", "org/model"),
        ("org/vision+org/text", "org/vision+org/text"),
        (None, ""),
    ],
)
def test_of_its_base_an_adapter_tells_the_name_and_no_folder(
    named: str | None, shown: str, trained: PeftModel, tmp_path: Path
) -> None:
    adapters.save(trained, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": named}))
    assert adapters.read_info(tmp_path).base_name == shown


def spoil(folder: Path, change: Callable[[dict[str, torch.Tensor], str], object]) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    name = next(name for name in tensors if ".lora_B." in name)
    change(tensors, name)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def test_the_adapter_on_disk_must_be_the_one_in_memory(trained: PeftModel, tmp_path: Path) -> None:
    adapters.save(trained, tmp_path)
    adapters.verify_saved(trained, tmp_path, begun_as="fresh")
    for change, problem in (
        (lambda tensors, name: tensors.pop(name), "is not complete"),
        (lambda tensors, name: tensors[name].add_(1), "differs from the trained one"),
        (lambda tensors, name: tensors[name].fill_(float("nan")), "not finite"),
    ):
        adapters.save(trained, tmp_path)
        spoil(tmp_path, change)
        with pytest.raises(UserError, match=problem):
            adapters.verify_saved(trained, tmp_path, begun_as="fresh")


def test_an_adapter_that_learned_nothing_is_no_result(tiny_base: Path, tmp_path: Path) -> None:
    model = adapters.attach(load(tiny_base), AdapterSettings(), "tiny")
    adapters.save(model, tmp_path)
    with pytest.raises(UserError, match="Training changed nothing"):
        adapters.verify_saved(model, tmp_path, begun_as=adapters.fingerprint(model))
