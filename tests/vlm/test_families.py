"""Each family's round trip: adapt its towers, train, save, load in a fresh process, generate, merge.

The models are tiny and random, built from their transformers configurations with tokenizers made here. What
passes is what `docs/models.md` lists: `UPDATE_DOCS=1 pytest tests/vlm/test_families.py` writes it anew.
"""

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from support.families import FAMILIES
from support.family_models import (
    ANSWERS,
    BOTH,
    EXAMPLES,
    asked,
    logits,
    picture,
    train,
    trained_texts,
    training_batch,
)
from support.models_doc import FamilyResult, cache_works, document
from support.slow import FAMILIES_BY_DEFAULT, slow_but
from vlm import adapters
from vlm.errors import UserError
from vlm.example import Message
from vlm.methods import METHODS, Method
from vlm.models.loading import LoadedModel, blueprint_model, load_base
from vlm.models.towers import EXCEPTIONS as TOWER_EXCEPTIONS
from vlm.models.towers import find_towers
from vlm.prompting import EXCEPTIONS as PROMPT_EXCEPTIONS
from vlm.prompting import IGNORED, PromptStyle, prompt_style
from vlm.settings import ModelSettings

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "models.md"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of the families that were built, adapters beside them."""
    return {}


@pytest.fixture(scope="session")
def results() -> dict[str, FamilyResult]:
    return {}


@pytest.fixture
def family(request: pytest.FixtureRequest, built: dict, tmp_path_factory: pytest.TempPathFactory) -> str:
    name = request.param
    if name not in built:
        built[name] = tmp_path_factory.mktemp(name.replace("-", "_"))
        FAMILIES[name](built[name] / "base")
    return name


def learns(method: Method, loaded: LoadedModel, prompt: PromptStyle) -> bool:
    """Whether one step of this method makes the loss fall, and virtual tokens let the model answer.

    A method that can't do some kind of layer, or some family's way with positions, raises what it will.
    """
    torch.manual_seed(0)
    settings, batch = BOTH.model_copy(update={"method": method}), training_batch(prompt)
    try:
        model = adapters.attach(copy.deepcopy(loaded.model), settings, "base")
        before, after = train(model, batch, steps=1)
        if METHODS[method].prompt_learning:
            inputs = prompt.inputs([EXAMPLES[0][0]], [EXAMPLES[0][1]])
            model.generate(**inputs, max_new_tokens=2, do_sample=False)
    except (UserError, TypeError, ValueError, RuntimeError, IndexError):
        return False
    return after < before


every_family = pytest.mark.parametrize("family", slow_but(FAMILIES_BY_DEFAULT, FAMILIES), indirect=True)
few_families = pytest.mark.parametrize("family", slow_but(FAMILIES_BY_DEFAULT[:4], FAMILIES), indirect=True)


@every_family
def test_round_trip(family: str, built: dict[str, Path], results: dict[str, FamilyResult]) -> None:
    folder = built[family] / "base"
    loaded = load_base(ModelSettings(model=str(folder)))
    prompt = prompt_style(loaded.model.config, loaded.processor, 4096)
    batch = training_batch(prompt)
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}

    model = adapters.attach(loaded.model, BOTH, family)
    counts = adapters.count(model)
    assert counts.vision.trainable
    assert counts.text.trainable
    first, last = train(model, batch)
    assert last < first
    for name, value in loaded.model.state_dict().items():
        plain = name.replace(".base_layer", "")
        assert (".lora_" in name) or torch.equal(value, before[plain]), f"{name} moved"
    moved = {name for name, p in model.named_parameters() if ".lora_B." in name and p.any()}
    towers = find_towers(loaded.model)
    assert {towers.of(name.removeprefix(adapters.PEFT_PREFIX)) for name in moved} == {"vision", "text"}

    adapters.save(model, built[family] / "adapter")
    apart = logits(model, batch)
    torch.save(apart, built[family] / "logits.pt")
    inputs = prompt.inputs([EXAMPLES[0][0]], [EXAMPLES[0][1]])
    generated = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert len(prompt.decode(generated, inputs)) == 1
    cached = cache_works(loaded, prompt, EXAMPLES)
    torch.testing.assert_close(logits(model.merge_and_unload(), batch), apart, rtol=1e-3, atol=1e-4)
    results[family] = FamilyResult.of(family, loaded, prompt, towers, cached)


@every_family
def test_labels_are_exactly_the_answers_and_their_end(family: str, built: dict[str, Path]) -> None:
    loaded = load_base(ModelSettings(model=str(built[family] / "base")))
    prompt = prompt_style(loaded.model.config, loaded.processor, 4096)
    batch = training_batch(prompt)
    for row, (text, answer) in enumerate(zip(trained_texts(prompt, batch), ANSWERS, strict=True)):
        assert text.strip().startswith(answer), text
        labels = batch["labels"][row]
        labels = labels[labels != IGNORED]
        assert prompt.tokenizer.decode(labels, skip_special_tokens=True).strip() == answer
        control = {*prompt.tokenizer.all_special_ids, *prompt.tokenizer.added_tokens_encoder.values()}
        assert labels[-1].item() in control, text
    alone = training_batch(prompt, EXAMPLES[:1])
    assert trained_texts(prompt, alone)[0] == trained_texts(prompt, batch)[0], "padding moves no label"


@pytest.mark.slow
@every_family
def test_every_method_is_tried(family: str, built: dict[str, Path], results: dict[str, FamilyResult]) -> None:
    """What fails stands in the document; the kinds of LoRA and IA3 must work everywhere."""
    loaded = load_base(ModelSettings(model=str(built[family] / "base")))
    prompt = prompt_style(loaded.model.config, loaded.processor, 4096)
    learned = tuple(method for method in METHODS if learns(method, loaded, prompt))
    assert {"lora", "rslora", "dora", "ia3"} <= {*learned}
    if family in results:
        results[family] = replace(results[family], methods=learned)


@pytest.mark.parametrize(
    ("family", "method"),
    [("gemma3n", "vera"), ("vision-encoder-decoder", "oft"), ("blip", "prompt_tuning")],
    indirect=["family"],
)
def test_a_method_that_does_not_know_a_familys_layers_is_refused_in_words(
    family: str, method: Method, built: dict[str, Path]
) -> None:
    for meta in (True, False):
        model = blueprint_model(ModelSettings(model=str(built[family] / "base")))
        with pytest.raises(UserError, match="can't adapt") as refusal:
            adapters.attach(model, BOTH.model_copy(update={"method": method}), family, meta=meta)
        assert "--method lora" in refusal.value.remedy


@few_families
def test_qlora_in_4_bits_learns(
    family: str, built: dict[str, Path], results: dict[str, FamilyResult]
) -> None:
    loaded = load_base(ModelSettings(model=str(built[family] / "base"), quantization="4bit", device="cpu"))
    prompt = prompt_style(loaded.model.config, loaded.processor, 4096)
    model = adapters.attach(loaded.model, BOTH, family)
    first, last = train(model, training_batch(prompt))
    assert last < first
    if family in results:
        results[family] = replace(results[family], four_bit=True)


@few_families
@pytest.mark.parametrize("tower", ["vision", "text"])
def test_one_tower_alone_learns(family: str, built: dict[str, Path], tower: str) -> None:
    loaded = load_base(ModelSettings(model=str(built[family] / "base")))
    prompt = prompt_style(loaded.model.config, loaded.processor, 4096)
    settings = BOTH.model_copy(
        update={"use_vision_lora": tower == "vision", "use_text_lora": tower == "text"}
    )
    model = adapters.attach(loaded.model, settings, family)
    counts = adapters.count(model)
    assert (counts.vision.trainable > 0, counts.text.trainable > 0) == (tower == "vision", tower == "text")
    first, last = train(model, training_batch(prompt))
    assert last < first


@every_family
def test_several_turns_and_images(family: str, built: dict[str, Path]) -> None:
    loaded = load_base(ModelSettings(model=str(built[family] / "base")))
    prompt = prompt_style(loaded.model.config, loaded.processor, 4096)
    if prompt.takes_one_image:
        turns = (
            *asked("what is this?", ANSWERS[0]),
            Message("user", "where?"),
            Message("assistant", ANSWERS[1]),
        )
        batch = training_batch(prompt, [(turns, [picture("red")]), EXAMPLES[1]])
        assert trained_texts(prompt, batch)[0].strip().startswith(ANSWERS[1])
    else:
        turns = (*asked("what is this?", ANSWERS[0]), *asked("and this?", ANSWERS[1]))
        batch = training_batch(prompt, [(turns, [picture("red"), picture("green")]), EXAMPLES[1]])
        text = trained_texts(prompt, batch)[0]
        assert text.strip().startswith(ANSWERS[0])
        assert ANSWERS[1] in text
        assert "and this" not in text
        assert "what is" not in text
    assert torch.isfinite(loaded.model(**batch).loss)


RELOAD = """
import json, sys, torch
sys.path.insert(0, "tests")
from support.family_models import EXAMPLES, logits, training_batch
from vlm import adapters
from vlm.models.loading import load_base
from vlm.prompting import prompt_style
from vlm.settings import ModelSettings
from pathlib import Path
differences = {}
for name, folder in json.loads(sys.argv[1]).items():
    try:
        loaded = load_base(ModelSettings(model=str(Path(folder) / "base")))
        prompt = prompt_style(loaded.model.config, loaded.processor, 4096)
        model = adapters.load(loaded.model, Path(folder) / "adapter")
        saved = torch.load(Path(folder) / "logits.pt")
        differences[name] = (logits(model, training_batch(prompt)) - saved).abs().max().item()
    except Exception as error:
        differences[name] = repr(error)
print(json.dumps(differences))
"""


@pytest.mark.slow
def test_one_fresh_process_loads_them_all_to_the_same_logits(built: dict[str, Path]) -> None:
    folders = {name: str(folder) for name, folder in built.items() if (folder / "logits.pt").exists()}
    ended = subprocess.run(
        [sys.executable, "-c", RELOAD, json.dumps(folders)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    differences = json.loads(ended.stdout.splitlines()[-1])
    assert differences.keys() == folders.keys()
    # The last bits of a product of matrices depend on where in memory they lie.
    assert {name: d for name, d in differences.items() if isinstance(d, str) or d > 1e-5} == {}


@pytest.mark.slow
def test_most_families_need_no_entry_of_their_own(results: dict[str, FamilyResult]) -> None:
    special = {*TOWER_EXCEPTIONS, *PROMPT_EXCEPTIONS}
    assert len(results) >= 28
    assert sum(result.model_type not in special for result in results.values()) >= 25


@pytest.mark.slow
def test_the_document_lists_what_passed(results: dict[str, FamilyResult]) -> None:
    if results.keys() != FAMILIES.keys():
        pytest.skip("the document is of all families")
    if os.environ.get("UPDATE_DOCS"):
        DOCUMENT.write_text(document(results), encoding="utf-8")
    assert DOCUMENT.read_text(encoding="utf-8") == document(results)
