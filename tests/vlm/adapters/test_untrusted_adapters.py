"""Adapters of other tools: PEFT alone, TRL, LLaMA-Factory, ms-swift, Unsloth; and of older transformers.

Each is made by PEFT itself on a tiny chat model, with the configuration and names that the tool writes, and
must give the logits here that it gave there.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftConfig, PromptTuningConfig, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from support.families import FAMILIES
from support.tiny import QUESTION
from vlm import adapters
from vlm.errors import UserError
from vlm.example import IMAGE, Message
from vlm.methods import ADAPTER_CONFIG_FILE as CONFIG
from vlm.methods import ADAPTER_WEIGHTS_FILE as WEIGHTS
from vlm.models.loading import LoadedModel, blueprint_model, load_base
from vlm.prompting import prompt_style
from vlm.settings import ModelSettings

UNSLOTH = (
    r"(?:.*?(?:vision|image|visual|patch|language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)"
    r".*?(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj|out_proj|fc1|fc2).*?)"
    r"|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)"
    r"\.(?:(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj|out_proj|fc1|fc2)))"
)
LLAMA_FACTORY = r"^(?!.*(?:vision_tower|multi_modal_projector)).*(?:q_proj|v_proj|gate_proj).*"
MS_SWIFT = r"^(model\.language_model(?=\.).*\.(q_proj|k_proj|v_proj|o_proj|down_proj))$"
TEXT = "model.language_model.layers"

Names = Callable[[str], str]


class Base:
    """A tiny model's folder, and a question's tensors for it."""

    def __init__(self, family: str, folder: Path) -> None:
        self.folder = folder / family
        FAMILIES[family](self.folder)
        loaded = self.load()
        prompt = prompt_style(loaded.model.config, loaded.processor, 4096)
        turns = (Message("user", IMAGE + QUESTION), Message("assistant", "đỏ"))
        self.batch = prompt.training_batch([turns], [[Image.linear_gradient("L").convert("RGB")]])

    def load(self) -> LoadedModel:
        return load_base(ModelSettings(model=str(self.folder), device="cpu"))

    @torch.no_grad()
    def logits(self, model: torch.nn.Module) -> torch.Tensor:
        return model.eval()(**self.batch).logits

    def make(self, folder: Path, config: PeftConfig) -> torch.Tensor:
        """Write an adapter with PEFT alone, and return the logits it gives."""
        torch.manual_seed(0)
        model = get_peft_model(self.load().model, config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
        model.save_pretrained(folder)
        return self.logits(model)


@pytest.fixture(scope="module")
def aya(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base("aya_vision", tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base("qwen2_vl", tmp_path_factory.mktemp("models"))


def says(folder: Path, **values: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | values))


def renamed(folder: Path, name: Names) -> None:
    tensors = {name(key): tensor for key, tensor in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


FOREIGN: dict[str, PeftConfig] = {
    "PEFT, names": LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    "PEFT, all linear": LoraConfig(r=2, target_modules="all-linear"),
    "PEFT, full names": LoraConfig(target_modules=[f"{TEXT}.0.mlp.up_proj", f"{TEXT}.1.self_attn.q_proj"]),
    "PEFT, some depths": LoraConfig(target_modules=["q_proj", "fc1"], layers_to_transform=[1]),
    "PEFT, one stack": LoraConfig(
        target_modules=["q_proj", "up_proj"], layers_to_transform=0, layers_pattern="layers"
    ),
    "PEFT, excluded": LoraConfig(target_modules=["q_proj", "k_proj"], exclude_modules=r".*vision_tower.*"),
    "PEFT, ranks by name": LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "v_proj", "up_proj"],
        rank_pattern={"q_proj": 2, r"layers\.1\.mlp\.up_proj": 3, r".*vision_tower.*v_proj": 5},
        alpha_pattern={
            "v_proj": 1.5,
            "layers.0.self_attn.q_proj": 3,
            r"^model\.language.*1.*up(?:_proj)?": 7,
        },
    ),
    "PEFT, rsLoRA": LoraConfig(r=4, lora_alpha=8, use_rslora=True, target_modules=["o_proj", "out_proj"]),
    "PEFT, DoRA": LoraConfig(r=4, use_dora=True, target_modules=["q_proj", "down_proj"]),
    "PEFT, with biases of B": LoraConfig(r=4, lora_bias=True, target_modules=["fc1", "fc2"]),
    "PEFT, embeddings": LoraConfig(r=4, target_modules=["embed_tokens", "q_proj"]),
    "PEFT, gaussian": LoraConfig(r=4, init_lora_weights="gaussian", target_modules=["q_proj"]),
    "TRL": LoraConfig(
        r=8,
        lora_alpha=16,
        lora_dropout=0.05,
        target_modules="all-linear",
        modules_to_save=["multi_modal_projector"],
        task_type="CAUSAL_LM",
    ),
    "TRL, with the head": LoraConfig(
        r=4, target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"], task_type="CAUSAL_LM"
    ),
    "LLaMA-Factory": LoraConfig(r=8, lora_alpha=16, target_modules=LLAMA_FACTORY, task_type="CAUSAL_LM"),
    "ms-swift": LoraConfig(r=8, lora_alpha=32, target_modules=MS_SWIFT, task_type="CAUSAL_LM"),
    "Unsloth": LoraConfig(r=16, lora_alpha=16, target_modules=UNSLOTH, task_type="CAUSAL_LM"),
    "prompt tuning": PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=5, token_dim=32, num_layers=2, num_attention_heads=4
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tool", FOREIGN)
def test_an_adapter_of_another_tool_gives_here_what_it_gave_there(
    tool: str, aya: Base, tmp_path: Path
) -> None:
    wanted = aya.make(tmp_path, FOREIGN[tool])
    loaded = aya.load()
    untouched = aya.logits(loaded.model)
    model = adapters.load(loaded.model, tmp_path)
    assert torch.equal(aya.logits(model), wanted)
    with adapters.base_alone(model) as base:
        assert torch.equal(aya.logits(base), untouched)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("targets", ["all-linear", UNSLOTH, MS_SWIFT, LLAMA_FACTORY, ["q_proj", "o_proj"]])
def test_a_layer_that_the_targets_name_is_missed(targets: str | list[str], aya: Base, tmp_path: Path) -> None:
    aya.make(tmp_path, LoraConfig(r=4, target_modules=targets))
    says(tmp_path, target_modules=targets)  # PEFT itself writes the layers out
    architecture = blueprint_model(ModelSettings(model=str(aya.folder)))
    found = adapters.check_fit(tmp_path, architecture, "aya_vision")
    assert found.matched == found.total
    tensors = load_file(tmp_path / WEIGHTS)
    lost = f"{TEXT}.1.self_attn.q_proj"
    save_file({key: tensor for key, tensor in tensors.items() if lost not in key}, tmp_path / WEIGHTS)
    with pytest.raises(UserError, match=f"it names 1 more layer than it has weights for, {lost} first"):
        adapters.check_fit(tmp_path, architecture, "aya_vision")


@pytest.mark.filterwarnings("ignore")
def test_what_a_tool_writes_otherwise_is_understood(aya: Base, tmp_path: Path) -> None:
    """Names as a model has them in memory, numbers of 16 bits, a path for a base, keys of a later PEFT."""
    config = LoraConfig(r=4, target_modules=["q_proj", "fc1"], task_type="CAUSAL_LM")
    wanted = aya.make(tmp_path, config)
    tensors = {
        key.replace("lora_A", "lora_A.default").replace("lora_B", "lora_B.default"): tensor.bfloat16()
        for key, tensor in load_file(tmp_path / WEIGHTS).items()
    }
    save_file(tensors, tmp_path / WEIGHTS)
    says(
        tmp_path,
        base_model_name_or_path="/mnt/models/aya_vision",
        option_of_a_later_peft=None,
        auto_mapping={
            "base_model_class": "AyaVisionForConditionalGeneration",
            "parent_library": "transformers.models.aya_vision.modeling_aya_vision",
            "unsloth_fixed": True,
        },
    )
    torch.testing.assert_close(
        aya.logits(adapters.load(aya.load().model, tmp_path)), wanted, rtol=0, atol=0.05
    )
    found = adapters.check_fit(
        tmp_path, blueprint_model(ModelSettings(model=str(aya.folder))), str(aya.folder)
    )
    assert found.notes == ()
    assert found.info.base_name == "aya_vision"


def old_llava(key: str) -> str:
    """As transformers called the layers of LLaVA and its kin before 4.52."""
    key = key.replace("model.model.language_model.", "model.language_model.model.")
    key = key.replace("model.model.vision_tower.", "model.vision_tower.vision_model.")
    return key.replace("model.model.multi_modal_projector.", "model.multi_modal_projector.")


def between(key: str) -> str:
    """As from 4.52 on, before version 5."""
    return key.replace("model.model.vision_tower.", "model.model.vision_tower.vision_model.")


def old_qwen(key: str) -> str:
    """As of Qwen2-VL before 4.52."""
    return key.replace("model.model.language_model.", "model.model.").replace(
        "model.model.visual.", "model.visual."
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("family", "before", "renamed_layers"),
    [("aya", old_llava, 32), ("aya", between, 12), ("qwen", old_qwen, 24)],
    ids=["LLaVA before 4.52", "LLaVA before 5", "Qwen2-VL before 4.52"],
)
def test_an_adapter_of_an_older_transformers_finds_its_layers(
    family: str, before: Names, renamed_layers: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    base: Base = request.getfixturevalue(family)
    saved = ["multi_modal_projector"] if family == "aya" else None
    wanted = base.make(tmp_path, LoraConfig(r=4, target_modules="all-linear", modules_to_save=saved))
    says(tmp_path, target_modules=["q_proj", "qkv"])  # as the tool was told; PEFT has written the layers out
    renamed(tmp_path, before)
    assert torch.equal(base.logits(adapters.load(base.load().model, tmp_path)), wanted)
    found = adapters.check_fit(tmp_path, blueprint_model(ModelSettings(model=str(base.folder))), "it")
    assert f"{renamed_layers} of its layers have other names in this version of transformers." in found.notes


def test_ranks_and_alphas_of_an_older_transformers_keep_their_layers(aya: Base, tmp_path: Path) -> None:
    """Its patterns speak of the names of that time."""
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj"],
        rank_pattern={r"^model\.vision_tower(?:\..*)?": 2},
        alpha_pattern={r"^model\.vision_tower(?:\..*)?": 12},
    )
    wanted = aya.make(tmp_path, config)
    renamed(tmp_path, old_llava)
    says(tmp_path, rank_pattern={r"^vision_tower\..*": 2}, alpha_pattern={r"^vision_tower\..*": 12})
    assert torch.equal(aya.logits(adapters.load(aya.load().model, tmp_path)), wanted)


def test_a_layer_is_found_by_its_names_end_if_one_alone_can_be_meant(aya: Base, tmp_path: Path) -> None:
    wanted = aya.make(tmp_path, LoraConfig(r=4, target_modules=["q_proj"]))
    renamed(tmp_path, lambda key: key.replace("base_model.model.model.", "base_model.model.wrapped."))
    assert torch.equal(aya.logits(adapters.load(aya.load().model, tmp_path)), wanted)
    renamed(tmp_path, lambda key: key.replace("language_model.layers", "layers"))
    with pytest.raises(UserError, match=r"aya_vision has no wrapped\.layers\.0\.self_attn\.q_proj"):
        adapters.load(aya.load().model, tmp_path)


def text_adapter(base: Base, folder: Path, task: str | None) -> None:
    """A LoRA on a model of text alone, as wide and as deep as the base's text tower."""
    text = base.load().model.config.get_text_config().to_dict()
    same = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    model = Qwen2ForCausalLM(
        Qwen2Config(num_key_value_heads=text["num_key_value_heads"], **{name: text[name] for name in same})
    )
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type=task)
    get_peft_model(model, config).save_pretrained(folder)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["aya", "qwen"])
def test_an_adapter_of_a_model_of_text_is_refused_even_where_its_shapes_fit(
    family: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    base: Base = request.getfixturevalue(family)
    text_adapter(base, tmp_path, None)
    with pytest.raises(UserError, match="its base is a Qwen2ForCausalLM, which reads text alone") as refused:
        adapters.load(base.load().model, tmp_path)
    assert refused.value.values["way"].code == "choose-that-sees", "its own base could not be chosen here"


def test_an_adapter_whose_layers_lie_as_in_a_model_of_text_is_refused(aya: Base, tmp_path: Path) -> None:
    text_adapter(aya, tmp_path, "CAUSAL_LM")
    with pytest.raises(UserError, match=r"which is where models of text alone have their layers"):
        adapters.load(aya.load().model, tmp_path)


def with_tokens(base: Base, folder: Path, more: int, **options: Any) -> LoadedModel:
    """Write an adapter of a base with `more` tokens, and return the two as they are in memory."""
    torch.manual_seed(0)
    loaded = base.load()
    loaded.model.resize_token_embeddings(loaded.model.get_input_embeddings().num_embeddings + more)
    adapted = get_peft_model(loaded.model, LoraConfig(r=4, **options))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name or "lora_embedding_A" in name:
                weight.add_(torch.randn_like(weight), alpha=0.1)
    adapted.save_pretrained(folder, save_embedding_layers="modules_to_save" not in options)
    says(folder, base_model_name_or_path=f"org/{base.folder.name}")
    return LoadedModel(adapted, loaded.processor, loaded.device, loaded.precision)


ADDING: dict[str, dict[str, Any]] = {
    "trained in full": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "saved beside": {"target_modules": ["q_proj"]},
    "adapted": {"target_modules": ["q_proj", "embed_tokens"]},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("how", "more", "code", "words"),
    [
        ("trained in full", 2, "adapter-adds-tokens", "it adds 2 tokens to the vocabulary."),
        ("saved beside", 1, "adapter-adds-tokens", "it adds 1 token to the vocabulary."),
        ("adapted", 2, "adapter-adds-tokens", "it adds 2 tokens to the vocabulary."),
        ("trained in full", -3, "adapter-fewer-tokens", "and this base's has "),
    ],
)
def test_an_adapter_of_another_vocabulary_is_refused_in_those_words(
    how: str, more: int, code: str, words: str, qwen: Base, tmp_path: Path
) -> None:
    with_tokens(qwen, tmp_path, more, **ADDING[how])
    base = blueprint_model(ModelSettings(model=str(qwen.folder)))
    with pytest.raises(UserError) as refused:
        adapters.check_fit(tmp_path, base, "org/qwen2_vl")
    assert refused.value.code == code
    assert words in refused.value.problem
    assert "merge_and_unload" in refused.value.remedy
    with pytest.raises(UserError) as refused:
        adapters.check_fit(tmp_path, base, "org/another")
    assert (refused.value.code, refused.value.remedy) == (
        "adapter-misfit",
        "Choose org/qwen2_vl as the base model.",
    )


@pytest.mark.filterwarnings("ignore")
def test_merged_where_it_was_trained_an_adapter_with_more_tokens_is_a_base_here(
    qwen: Base, tmp_path: Path
) -> None:
    trained = with_tokens(qwen, tmp_path / "adapter", 2, **ADDING["trained in full"])
    wanted = qwen.logits(trained.model)
    trained.model.merge_and_unload().save_pretrained(tmp_path / "merged")
    trained.processor.save_pretrained(tmp_path / "merged")
    merged = load_base(ModelSettings(model=str(tmp_path / "merged"), device="cpu")).model
    torch.testing.assert_close(qwen.logits(merged), wanted)


def test_a_tower_that_was_named_otherwise_is_let_off_with_a_word(aya: Base, tmp_path: Path) -> None:
    """`q_proj` of a list fits the vision tower too, now; in an older transformers it had no such layer."""
    wanted = aya.make(
        tmp_path, LoraConfig(r=4, target_modules=rf"{TEXT}.*\.q_proj".replace(".layers", r"\.layers"))
    )
    says(tmp_path, target_modules=["q_proj"])
    assert torch.equal(aya.logits(adapters.load(aya.load().model, tmp_path)), wanted)
    found = adapters.check_fit(tmp_path, blueprint_model(ModelSettings(model=str(aya.folder))), "aya_vision")
    assert found.notes == ("It has nothing in the vision tower, where its targets would fit too.",)
    assert found.info.ranks == {"text": (4, 4)}


def test_another_base_of_the_same_shapes_is_not_refused_but_told(aya: Base, tmp_path: Path) -> None:
    aya.make(tmp_path, LoraConfig(r=4, target_modules=["q_proj"]))
    says(tmp_path, base_model_name_or_path="org/other")
    found = adapters.check_fit(
        tmp_path, blueprint_model(ModelSettings(model=str(aya.folder))), "org/aya_vision"
    )
    assert found.notes == (
        "It was trained on org/other, not org/aya_vision: the shapes match, the weights need not.",
    )


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_of_embeddings_wants_the_embeddings_it_was_trained_on(aya: Base, tmp_path: Path) -> None:
    aya.make(tmp_path, LoraConfig(r=4, target_modules=["embed_tokens"]))
    tensors = load_file(tmp_path / WEIGHTS)
    own = next(key for key in tensors if key.endswith("base_layer.weight"))
    save_file(tensors | {own: tensors[own] + 1}, tmp_path / WEIGHTS)
    with pytest.raises(UserError, match=r"trained on another model\.language_model\.embed_tokens than"):
        adapters.load(aya.load().model, tmp_path)
