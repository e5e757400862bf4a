"""Model types that no list and no table names make the same round trip; what can't be done is refused."""

from pathlib import Path

import pytest
import torch
from transformers import BatchFeature
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from support.families import FAMILIES
from support.families.unlisted import UNLISTED
from support.family_models import ANSWERS, BOTH, EXAMPLES, asked, logits, picture, train, trained_texts
from support.family_models import training_batch as batch_of
from support.slow import slow_but
from vlm import adapters
from vlm.errors import UserError
from vlm.models.checkpoint_files import REFUSED, check_config
from vlm.models.loading import LoadedModel, load_base
from vlm.models.towers import EXCEPTIONS as TOWER_EXCEPTIONS
from vlm.models.towers import find_towers
from vlm.prompting import EXCEPTIONS as PROMPT_EXCEPTIONS
from vlm.prompting import IGNORED, PromptStyle, prompt_style
from vlm.settings import ModelSettings

LONG = (asked("and what is in this other picture, and where?", "a large blue square"), [picture("blue")])

every_family = pytest.mark.parametrize("family", slow_but([*UNLISTED][:4], UNLISTED))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root, built = tmp_path_factory.mktemp("unlisted"), {}
    for number, (name, build) in enumerate(UNLISTED.items()):
        built[name] = root / str(number)
        build(built[name])
    return built


def load(folder: Path) -> tuple[LoadedModel, PromptStyle]:
    loaded = load_base(ModelSettings(model=str(folder)))
    return loaded, prompt_style(loaded.model.config, loaded.processor, 4096)


@every_family
def test_no_list_names_it(family: str) -> None:
    assert family in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    assert family not in {*FAMILIES, *TOWER_EXCEPTIONS, *PROMPT_EXCEPTIONS, *REFUSED}


@every_family
def test_round_trip(family: str, folders: dict[str, Path], tmp_path: Path) -> None:
    loaded, prompt = load(folders[family])
    assert loaded.model.config.model_type == family
    batch = batch_of(prompt)
    before = {name: parameter.detach().clone() for name, parameter in loaded.model.named_parameters()}

    model = adapters.attach(loaded.model, BOTH, family)
    first, last = train(model, batch)
    assert last < first
    for name, parameter in loaded.model.named_parameters():
        plain = name.replace(".base_layer", "")
        assert (".lora_" in name) or torch.equal(parameter, before[plain]), f"{name} moved"
    moved = {name for name, p in model.named_parameters() if ".lora_B." in name and p.any()}
    towers = find_towers(loaded.model)
    assert {towers.of(name.removeprefix(adapters.PEFT_PREFIX)) for name in moved} == {"vision", "text"}

    adapters.save(model, tmp_path)
    apart = logits(model, batch)
    inputs = prompt.inputs([EXAMPLES[0][0]], [EXAMPLES[0][1]])
    generated = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert len(prompt.decode(generated, inputs)) == 1
    reloaded = adapters.load(load(folders[family])[0].model, tmp_path)
    torch.testing.assert_close(logits(reloaded, batch), apart, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits(model.merge_and_unload(), batch), apart, rtol=1e-3, atol=5e-4)


@every_family
def test_labels_are_exactly_the_answers_and_their_end(family: str, folders: dict[str, Path]) -> None:
    _, prompt = load(folders[family])
    batch = batch_of(prompt)
    for labels, text, answer in zip(batch["labels"], trained_texts(prompt, batch), ANSWERS, strict=True):
        assert text.removeprefix(answer).strip() in prompt.tokenizer.added_tokens_encoder
        assert prompt.tokenizer.decode(labels[labels != IGNORED], skip_special_tokens=True).strip() == answer
    if not prompt.takes_one_image:
        turns = (*asked("what is this?", ANSWERS[0]), *asked("and this?", ANSWERS[1]))
        batch = batch_of(prompt, [(turns, [picture("red"), picture("green")]), EXAMPLES[1]])
        text = trained_texts(prompt, batch)[0]
        assert text.startswith(ANSWERS[0])
        assert ANSWERS[1] in text
        assert "this" not in text


def answers_to(model: torch.nn.Module, inputs: BatchFeature) -> torch.Tensor:
    """The scores of each token that was generated, [B, T, V]."""
    generated = model.generate(
        **inputs,
        max_new_tokens=3,
        min_new_tokens=3,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return torch.stack(generated.logits, 1)


@every_family
def test_a_question_is_answered_in_a_batch_as_alone(family: str, folders: dict[str, Path]) -> None:
    loaded, prompt = load(folders[family])
    turns, images = zip(EXAMPLES[0], LONG, strict=True)
    together = answers_to(loaded.model, prompt.inputs(list(turns), list(images)))
    alone = answers_to(loaded.model, prompt.inputs([turns[0]], [images[0]]))
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "vision", "connector"),
    [
        (
            "deepseek_vl_hybrid",
            ("high_res_vision_model", "vision_model"),
            ("high_res_vision_neck", "high_res_vision_proj", "aligner"),
        ),
        ("t5gemma2", ("encoder.vision_tower",), ("encoder.multi_modal_projector",)),
        ("video_llava", ("image_tower",), ("multi_modal_projector",)),
    ],
)
def test_second_encoders_are_told_from_connectors(
    family: str, vision: tuple, connector: tuple, folders: dict[str, Path]
) -> None:
    loaded, _ = load(folders[family])
    towers = find_towers(loaded.model)
    assert [name.removeprefix("model.") for name in towers.vision] == list(vision)
    assert [name.removeprefix("model.") for name in towers.connector] == list(connector)
    model = adapters.attach(loaded.model, BOTH, family)
    assert not any("video_tower" in name for name, p in model.named_parameters() if p.requires_grad)


@pytest.mark.parametrize("kind", list(REFUSED))
def test_what_cannot_be_done_is_refused_by_its_configuration_alone(kind: str) -> None:
    assert kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    with pytest.raises(UserError) as refusal:
        check_config("somebody/model", {"model_type": kind})
    assert refusal.value.problem == f"somebody/model is a {kind} model, which {REFUSED[kind]}."
