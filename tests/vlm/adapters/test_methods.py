"""Every PEFT method of the table: it trains, is saved and loaded by plain PEFT, and is what its row says."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import nn

from support.families import FAMILIES
from support.tiny import PICTURES, QUESTION
from training.data.images import load_image
from vlm import adapters
from vlm.adapters import attaching
from vlm.errors import UserError
from vlm.example import IMAGE, Message
from vlm.methods import METHODS, Method
from vlm.models.loading import LoadedModel, load_base
from vlm.models.towers import find_towers
from vlm.prompting import prompt_style
from vlm.settings import AdapterSettings, ModelSettings

Batch = dict[str, torch.Tensor]

BASES = ("composed", "aya_vision")
"""An encoder-decoder, and a model that chats."""

every_method = pytest.mark.parametrize("method", METHODS)
every_base = pytest.mark.parametrize("base", BASES)


@pytest.fixture(scope="module")
def folders(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    chat = tmp_path_factory.mktemp("chat") / "aya"
    FAMILIES["aya_vision"](chat)
    return {"composed": tiny_base, "aya_vision": chat}


def settings_of(method: Method) -> AdapterSettings:
    """Both towers where the method has layers, with ranks of their own; nothing at random after the start."""
    prompts = METHODS[method].prompt_learning
    return AdapterSettings(
        method=method,
        use_vision_lora=not prompts,
        vision_lora_r=2,
        text_lora_r=4,
        lora_dropout=0.0,
        num_virtual_tokens=4,
    )


def load(folder: Path, quantization: str = "none") -> LoadedModel:
    return load_base(ModelSettings(model=str(folder), device="cpu", quantization=quantization))


def lesson(loaded: LoadedModel, pictures: Path) -> Batch:
    """Two pictures with a question and its answer each."""
    prompt = prompt_style(loaded.model.config, loaded.processor, 4096)
    names = list(PICTURES)[:2]
    turns = [(Message("user", IMAGE + QUESTION), Message("assistant", PICTURES[name])) for name in names]
    return prompt.training_batch(turns, [[load_image(pictures / f"{name}.png")] for name in names])


def train(model: PeftModel, batch: Batch, steps: int = 4) -> tuple[float, float]:
    """Loss before and after a few steps in eval mode, where nothing is drawn at random."""
    model.eval()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-2)
    losses = []
    for _ in range(steps + 1):
        optimizer.zero_grad()
        loss = model(**batch).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    return losses[0], losses[-1]


@torch.no_grad()
def logits(model: nn.Module, batch: Batch) -> torch.Tensor:
    model.eval()
    return model(**batch).logits


def weights(model: PeftModel) -> Batch:
    """The weights by their names in the base, the adapter's own among them."""
    named = model.get_base_model().state_dict().items()
    return {name.replace(".base_layer", ""): tensor.clone() for name, tensor in named}


@pytest.mark.slow
@every_base
@every_method
def test_a_method_learns_is_loaded_by_plain_peft_and_merges_if_its_row_says_so(
    method: Method, base: str, folders: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    row, settings = METHODS[method], settings_of(method)
    loaded = load(folders[base])
    batch, before = lesson(loaded, pictures), {n: t.clone() for n, t in loaded.model.state_dict().items()}
    torch.manual_seed(0)
    model = adapters.attach(loaded.model, settings, base)
    start = adapters.save_start(model, method, tmp_path / "start")
    begun_as = adapters.fingerprint(model)
    first, last = train(model, batch)
    assert last < first
    after = weights(model)
    changed = [name for name, tensor in before.items() if not torch.equal(after[name], tensor)]
    assert bool(changed) != row.keeps_base, changed[:3]

    adapters.save(model, tmp_path / "adapter", start=start)
    adapters.verify_saved(model, tmp_path / "adapter", begun_as=begun_as, converted=start is not None)
    learned = logits(model, batch)
    fresh = load(folders[base]).model
    alone = logits(fresh, batch)
    again = PeftModel.from_pretrained(fresh, tmp_path / "adapter")
    tolerance = {"rtol": 1e-3, "atol": 1e-4} if start else {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(logits(again, batch), learned, **tolerance)
    answers = learned[:, -alone.shape[1] :]  # prompt tuning's own tokens stand before the question
    assert not torch.allclose(alone, answers, atol=1e-3)
    with again.disable_adapter():
        torch.testing.assert_close(logits(again, batch), alone, rtol=0, atol=0)
    assert hasattr(again.base_model, "merge_and_unload") == row.mergeable
    if row.mergeable:
        merged = again.merge_and_unload()
        torch.testing.assert_close(logits(merged, batch), learned, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("method", "quantization"),
    [(m, q) for m, row in METHODS.items() for q in row.quantizations if q != "none"],
)
def test_a_method_learns_on_the_quantized_bases_that_its_row_names(
    method: Method, quantization: str, folders: dict[str, Path], pictures: Path
) -> None:
    loaded = load(folders["composed"], quantization)
    batch = lesson(loaded, pictures)
    torch.manual_seed(0)
    model = adapters.attach(loaded.model, settings_of(method), "tiny")
    first, last = train(model, batch)
    assert last < first


@every_method
def test_a_rank_for_each_tower_is_what_peft_makes_of_it(method: Method, folders: dict[str, Path]) -> None:
    """`rank_per_tower`: with another rank in the vision tower alone, its adapter alone changes its size."""
    row = METHODS[method]
    if row.prompt_learning or not row.rank:
        return
    counted = []
    for rank in (2, 3):
        settings = settings_of(method).model_copy(update={"vision_lora_r": rank})
        counted.append(adapters.count(adapters.attach(load(folders["composed"]).model, settings, "tiny")))
    low, high = counted
    assert low.text.trainable == high.text.trainable
    assert (low.vision.trainable < high.vision.trainable) == row.rank_per_tower


def test_a_connector_inside_the_vision_tower_keeps_its_own_rank_in_plain_peft(
    tmp_path: Path, pictures: Path
) -> None:
    """PEFT sorts rank patterns by the alphabet when it saves, and takes the first that matches."""
    FAMILIES["qwen2_vl"](tmp_path / "base")
    settings = settings_of("lora").model_copy(update={"connector": "lora", "connector_lora_r": 3})
    loaded = load(tmp_path / "base")
    batch, model = lesson(loaded, pictures), adapters.attach(loaded.model, settings, "qwen2_vl")
    train(model, batch)
    adapters.save(model, tmp_path / "adapter")
    again = PeftModel.from_pretrained(load(tmp_path / "base").model, tmp_path / "adapter")
    torch.testing.assert_close(logits(again, batch), logits(model, batch), rtol=0, atol=1e-5)
    ranks = {
        module.r["default"]
        for name, module in again.named_modules()
        if ".merger." in name and hasattr(module, "r")
    }
    assert ranks == {3}


def test_a_rank_that_no_layer_has_use_for_is_refused(folders: dict[str, Path]) -> None:
    settings = settings_of("lora").model_copy(update={"text_lora_r": 65})
    with pytest.raises(UserError, match="Rank 65 is more than the layers of the text tower") as refused:
        adapters.attach(load(folders["composed"]).model, settings, "tiny")
    assert "--text_lora_r 64" in refused.value.remedy


def test_each_tower_learns_at_its_own_rate_and_b_faster_than_a(folders: dict[str, Path]) -> None:
    settings = settings_of("lora").model_copy(
        update={"connector": "full", "vision_learning_rate": 1e-4, "loraplus_lr_ratio": 16.0}
    )
    model = adapters.attach(load(folders["composed"]).model, settings, "tiny")
    groups = adapters.parameter_groups(model, settings, 1e-3, 0.01)
    towers, names = find_towers(model.get_base_model()), {id(p): n for n, p in model.named_parameters()}
    seen = []
    for group in groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            tower = towers.of(name.removeprefix(adapters.PEFT_PREFIX))
            rate = 1e-4 if tower == "vision" else 1e-3
            assert tower == group["tower"]
            assert group["lr"] == pytest.approx(rate * (16 if ".lora_B." in name else 1))
            assert group["weight_decay"] == (0.01 if parameter.ndim > 1 else 0)
            seen.append(name)
    assert sorted(seen) == sorted(n for n, p in model.named_parameters() if p.requires_grad)
    assert groups[0]["tower"] == "text"


@pytest.mark.parametrize("method", METHODS)
def test_what_stands_before_a_question_is_refused_where_the_libraries_lose_it(
    method: Method, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 5.24 PEFT 0.21 trains it, and generates without it."""
    prompts = METHODS[method].prompt_learning
    if prompts:
        adapters.save(adapters.attach(load(tiny_base).model, settings_of(method), "tiny"), tmp_path)
    monkeypatch.setattr(attaching.transformers, "__version__", "5.24.0")
    if not prompts:
        assert adapters.attach(load(tiny_base).model, settings_of(method), "tiny")
        return
    for attempt in (
        lambda: adapters.attach(load(tiny_base).model, settings_of(method), "tiny"),
        lambda: adapters.load(load(tiny_base).model, tmp_path),
    ):
        with pytest.raises(UserError, match=r"does not answer with transformers 5\.24\.0") as refused:
            attempt()
        assert refused.value.code == "prompts-are-lost"
        assert "transformers<5.24" in refused.value.remedy
