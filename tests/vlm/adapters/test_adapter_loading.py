"""Load adapters of every method, train on from them, and take them off again; probe and merge them."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from support.adapter_folders import INPUTS, LABELS, WEIGHTS, fresh, logits, saved, settings_of, trained
from support.families import FAMILIES
from support.slow import slow_but
from vlm import adapters
from vlm.errors import UserError
from vlm.methods import METHODS, Method
from vlm.models.checkpoint_files import tensor_shapes
from vlm.models.loading import load_base
from vlm.prompting import prompt_style
from vlm.settings import ModelSettings

LOADABLE = [method for method in METHODS if METHODS[method].keeps_base]


@pytest.mark.parametrize("method", slow_but({"lora", "dora", "ia3", "prefix_tuning", "adalora"}, LOADABLE))
def test_whatever_a_run_trains_can_be_loaded_trained_on_and_taken_off(
    method: Method, tiny_base: Path, tmp_path: Path
) -> None:
    """The same logits to the last bit, the same parameters to train, and the base as it was afterwards."""
    model = trained(fresh(tiny_base), settings_of(method, connector="full"))
    adapters.save(model, tmp_path)
    again = fresh(tiny_base)
    untouched, before = logits(again), {name: t.clone() for name, t in again.state_dict().items()}
    loaded = adapters.load(again, tmp_path)
    assert torch.equal(logits(loaded), logits(model))
    assert not torch.equal(logits(loaded), untouched)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    with adapters.base_alone(loaded) as alone:
        assert torch.equal(logits(alone), untouched)
    assert torch.equal(logits(loaded), logits(model)), "switched on again"
    assert adapters.unload(loaded) is again
    assert torch.equal(logits(again), untouched)
    after = again.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("method", slow_but({"lora", "dora", "ia3", "prefix_tuning", "adalora"}, LOADABLE))
def test_training_can_go_on_from_an_adapter_and_the_base_stays_frozen(
    method: Method, tiny_base: Path, tmp_path: Path
) -> None:
    model = trained(fresh(tiny_base), settings_of(method, connector="full"))
    adapters.save(model, tmp_path / "first")
    base = fresh(tiny_base)
    again = adapters.load(base, tmp_path / "first", trainable=True)
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name, parameter in again.named_parameters() if parameter.requires_grad} == names
    torch.testing.assert_close(logits(again.eval()), logits(model), rtol=0, atol=1e-5)
    before = {name: parameter.detach().clone() for name, parameter in again.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in again.parameters() if p.requires_grad], lr=1e-2)
    again(**INPUTS, labels=LABELS).loss.backward()
    optimizer.step()
    moved = {name for name, parameter in again.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved
    assert moved <= names
    adapters.save(again, tmp_path / "second")
    assert adapters.read_info(tmp_path / "second").base_name == "tiny"
    for name in ("adapter_config.json", "README.md"):
        assert str(tiny_base.parent) not in (tmp_path / "second" / name).read_text()
    assert torch.equal(logits(adapters.load(fresh(tiny_base), tmp_path / "second")), logits(again))


def test_an_adalora_with_ranks_left_out_comes_back_and_can_share_them_out_anew(
    tiny_base: Path, tmp_path: Path
) -> None:
    """PEFT writes the ranks that are left; one that goes on has them all again, and begins where it was."""
    model = trained(fresh(tiny_base), settings_of("adalora"))
    layers = [name.removesuffix(".default") for name, _ in model.base_model.model.named_parameters()]
    layers = [name for name in layers if name.endswith("lora_E")]
    left = {name: [at < number % 7 for at in range(6)] for number, name in enumerate(layers)}
    model.base_model.rankallocator.mask_using_rank_pattern(model.base_model.model, left)
    model.peft_config["default"].rank_pattern = left
    adapters.save(model, tmp_path / "cut")
    held = {
        tensor.shape[0] for key, tensor in load_file(tmp_path / "cut" / WEIGHTS).items() if "lora_A" in key
    }
    assert held == {0, 1, 2, 3, 4, 5, 6}
    wanted = logits(model)
    torch.testing.assert_close(
        logits(adapters.load(fresh(tiny_base), tmp_path / "cut")), wanted, rtol=0, atol=1e-5
    )
    again = adapters.load(fresh(tiny_base), tmp_path / "cut", trainable=True)
    torch.testing.assert_close(logits(again.eval()), wanted, rtol=0, atol=1e-5)
    full = {parameter.shape[0] for name, parameter in again.named_parameters() if ".lora_A." in name}
    assert full == {6}
    assert adapters.read_info(tmp_path / "cut").ranks == {"text": (0, 6), "vision": (0, 5)}


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_training_can_go_on_upon_a_quantized_base(quantization: str, tiny_base: Path, tmp_path: Path) -> None:
    folder = saved("lora", tiny_base, tmp_path / "mine")
    settings = ModelSettings(model=str(tiny_base), device="cpu", quantization=quantization)
    model = adapters.load(load_base(settings).model, folder, trainable=True)
    training = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert training
    assert all(".lora_" in name for name in training)
    model(**INPUTS, labels=LABELS).loss.backward()
    assert all(parameter.grad is not None for parameter in training.values())


def test_a_module_trained_in_full_does_not_go_onto_a_quantized_one(tiny_base: Path, tmp_path: Path) -> None:
    adapters.save(trained(fresh(tiny_base), settings_of("lora", connector="full")), tmp_path / "mine")
    settings = ModelSettings(model=str(tiny_base), device="cpu", quantization="4bit", quantize_vision=True)
    base = load_base(settings).model
    with pytest.raises(
        UserError, match=r"mine brings connector.* along in full, which is quantized"
    ) as refused:
        adapters.load(base, tmp_path / "mine")
    assert "--no-quantize_vision" in refused.value.remedy
    assert not any(hasattr(module, "lora_A") for module in base.modules())


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "a.b", "", "a b", "x" * 65])
def test_an_adapter_gets_no_name_that_could_be_a_path(name: str, tiny_base: Path, tmp_path: Path) -> None:
    folder = saved("lora", tiny_base, tmp_path / "mine")
    with pytest.raises(UserError, match="is no name for an adapter"):
        adapters.load(fresh(tiny_base), folder, name)


def test_a_probe_sees_that_an_adapter_does_something_and_that_the_base_is_kept(
    tiny_base: Path, tmp_path: Path
) -> None:
    loaded = load_base(ModelSettings(model=str(tiny_base), device="cpu"))
    question = adapters.probe_inputs(prompt_style(loaded.model.config, loaded.processor, 96))
    untouched = adapters.first_logits(loaded.model, question)
    model = adapters.load(loaded.model, saved("lora", tiny_base, tmp_path / "mine"))
    found = adapters.probe(model, question, untouched)
    assert (found.differs, found.base_kept, str(found)) == (True, True, "answers differ from the base's")
    assert found.most > 0
    with torch.no_grad():
        next(iter(model.get_base_model().language_model.parameters())).add_(0.1)
    spoiled = adapters.probe(model, question, untouched)
    assert not spoiled.base_kept
    assert str(spoiled) == "switched off, it leaves the base changed"


def test_merging_is_refused_where_it_can_not_be_done(tiny_base: Path, tmp_path: Path) -> None:
    full = ModelSettings(model=str(tiny_base), device="cpu")
    prompt = saved("prompt_tuning", tiny_base, tmp_path / "prompt")
    with pytest.raises(UserError, match="Prompt tuning adds tokens to the prompt, which no weight can hold"):
        adapters.merge(full, prompt, tmp_path / "out")
    lora = saved("lora", tiny_base, tmp_path / "lora")
    for quantization, bits in (("4bit", 4), ("8bit", 8)):
        settings = full.model_copy(update={"quantization": quantization})
        with pytest.raises(UserError, match=f"can't be merged into weights of {bits} bits"):
            adapters.merge(settings, lora, tmp_path / "out")
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="there is there already"):
        adapters.merge(full, lora, tmp_path / "there")
    assert not (tmp_path / "out").exists()


MERGED: tuple[Method, ...] = ("lora", "dora", "adalora", "oft")


@pytest.mark.parametrize("method", MERGED)
def test_a_merged_folder_is_a_model_of_its_own_with_its_processor(
    method: Method, tiny_base: Path, tmp_path: Path
) -> None:
    model = trained(fresh(tiny_base), settings_of(method, connector="full"))
    adapters.save(model, tmp_path / "adapter")
    adapters.merge(
        ModelSettings(model=str(tiny_base), device="cpu"), tmp_path / "adapter", tmp_path / "merged"
    )
    loaded = load_base(ModelSettings(model=str(tmp_path / "merged"), device="cpu"))
    torch.testing.assert_close(logits(loaded.model), logits(model), rtol=1e-3, atol=1e-3)
    assert loaded.processor.tokenizer("đỏ").input_ids
    modes = {file.stat().st_mode & 0o777 for file in (tmp_path / "merged").iterdir()}
    assert len(modes) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "merged"]


def test_a_chat_model_is_merged_too(tmp_path: Path) -> None:
    FAMILIES["aya_vision"](tmp_path / "aya")
    settings = ModelSettings(model=str(tmp_path / "aya"), device="cpu")
    adapters.save(
        trained(load_base(settings).model, settings_of("lora", connector="full")), tmp_path / "mine"
    )
    adapters.merge(settings, tmp_path / "mine", tmp_path / "merged")
    merged = load_base(settings.model_copy(update={"model": str(tmp_path / "merged")}))
    question = adapters.probe_inputs(prompt_style(merged.model.config, merged.processor, 4096))
    apart = adapters.load(load_base(settings).model, tmp_path / "mine")
    torch.testing.assert_close(
        adapters.first_logits(merged.model, question),
        adapters.first_logits(apart, question),
        rtol=1e-3,
        atol=1e-3,
    )


def as_transformers_4_has_it(folder: Path) -> None:
    """Rewrite a Qwen2.5-VL as the Hub has it: configurations by their old names, vocabulary apart."""
    both = json.loads((folder / "processor_config.json").read_text())
    (folder / "processor_config.json").unlink()
    written = {
        "preprocessor_config.json": both["image_processor"] | {"processor_class": "Qwen2_5_VLProcessor"},
        "video_preprocessor_config.json": both["video_processor"],
        "chat_template.json": {"chat_template": (folder / "chat_template.jinja").read_text()},
    }
    (folder / "chat_template.jinja").unlink()
    config = json.loads((folder / "config.json").read_text())
    config["torch_dtype"] = config.pop("dtype")
    rope = config["text_config"].pop("rope_parameters")
    config["text_config"] |= {
        "rope_theta": rope.pop("rope_theta"),
        "rope_scaling": rope | {"type": "default"},
    }
    written["config.json"] = config
    for name, content in written.items():
        (folder / name).write_text(json.dumps(content, indent=1))


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("family", ["qwen2_5_vl", "smolvlm"])
def test_a_merged_model_differs_from_its_base_in_nothing_but_weights(family: str, tmp_path: Path) -> None:
    FAMILIES[family](tmp_path / "base")
    more = ["LICENSE", "USE_POLICY.md", "Notice.txt"]
    if family == "qwen2_5_vl":
        as_transformers_4_has_it(tmp_path / "base")
    else:
        (tmp_path / "base" / "additional_chat_templates").mkdir()
        more.append("additional_chat_templates/tools.jinja")
    for name in more:
        (tmp_path / "base" / name).write_text(f"{name} of the base\r\n")
    (tmp_path / "base" / "README.md").write_text("about the base, which the merged model is not")
    settings = ModelSettings(model=str(tmp_path / "base"), device="cpu")
    adapters.save(trained(load_base(settings).model, settings_of("lora")), tmp_path / "mine")
    adapters.merge(settings, tmp_path / "mine", tmp_path / "merged")
    base, merged = files_of(tmp_path / "base"), files_of(tmp_path / "merged")
    assert {*more} < merged.keys()
    assert base.keys() - merged.keys() == {"README.md"}
    assert {name for name in merged if merged[name] != base.get(name)} == {"model.safetensors"}
    assert tensor_shapes(tmp_path / "merged") == tensor_shapes(tmp_path / "base")


def test_of_a_merged_configuration_the_number_format_is_that_of_its_weights(
    tiny_base: Path, tmp_path: Path
) -> None:
    folder = saved("lora", tiny_base, tmp_path / "mine")
    settings = ModelSettings(model=str(tiny_base), device="cpu", precision="bf16")
    adapters.merge(settings, folder, tmp_path / "merged")
    written = (tmp_path / "merged" / "config.json").read_text()
    assert set(re.findall(r'"dtype": "(\w+)"', written)) == {"bfloat16"}
    assert written.replace("bfloat16", "float32") == (tiny_base / "config.json").read_text()
    weights = load_file(tmp_path / "merged" / "model.safetensors").values()
    assert {weight.dtype for weight in weights if weight.is_floating_point()} == {torch.bfloat16}
