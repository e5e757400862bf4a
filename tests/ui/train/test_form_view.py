"""What the form says beside its controls: in the language of the page, with true counts, as safe HTML."""

import html
import re
from pathlib import Path

import pytest
from PIL import Image

from training import config
from ui.i18n import LANGUAGES, say, told
from ui.train import form_values, form_view
from ui.train.base_model import chosen_of
from ui.train.form_values import STARTER, values_of
from vlm.meta_model import tower_counts

WORKSPACE = Path("workspace")


def test_problems_are_told_in_the_language_of_the_page():
    found = config.check({"text_lora_r": 0, "name": "a/b", "quantization": "2bit", "held_out": 2})
    listed = html.unescape(form_view.problems("vi", found))
    for words in (
        "không dùng được 0. Hãy nhập số nguyên từ 1 đến 1024.",
        "không dùng được '2bit'. Hãy nhập một trong none, 8bit, 4bit.",
        "Hãy nhập một số từ 0 đến dưới 1.",
        "'a/b' có một trong các ký tự / \\ : * ? \" < > |. Hãy thử --name a-b.",
    ):
        assert words in listed
    problem, remedy = told("vi", config.settings_error(found))
    assert problem.startswith(
        "Có 4 thiết lập không dùng được:\n  --quantization: không dùng được '2bit'. Hãy"
    )
    assert "python -m training run --help" in remedy


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_counts_are_shown_tower_by_tower_and_in_all(language):
    counts = tower_counts(config.build(values_of({}, WORKSPACE)))
    shown = form_view.count(language, values_of({}, WORKSPACE), STARTER)
    separator = "," if language == "en" else "."
    assert f"{counts.trainable:,}".replace(",", separator) in shown["counts"]
    assert f"{counts.total:,}".replace(",", separator) in shown["counts"]
    assert "width:0.0%" in shown["vision_share"]
    assert "width:0.0%" not in shown["text_share"]
    assert f"{counts.text.trainable:,}".replace(",", separator) in shown["text_share"]


def test_a_hostile_dataset_is_shown_as_text(tmp_path):
    folder = tmp_path / "datasets" / "hostile"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "1.png")
    row = '{"image": "1.png", "question": "<script>alert(1)</script>", "answer": "<b>{{value}} ${1+1}</b>"}\n'
    (folder / "metadata.jsonl").write_text(row + "{<img src=x>\n")
    shown = form_view.preview("en", tmp_path, values_of({"dataset": "hostile"}, tmp_path))["preview"]
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown
    assert "<b>" not in shown
    assert "<img src=x" not in shown


def test_every_setting_has_one_control_with_a_name_and_its_default(tmp_path):
    drawn = "".join(form_view.cards("en", tmp_path, True))
    for name in form_values.FIELDS:
        marks = 'data-layers="{}"' if form_values.is_layers(name) else 'name="{}"'
        assert drawn.count(marks.format(name)) == 1, name
        assert drawn.count(f'data-field="{name}"') == 1, name
    assert set(re.findall(r'aria-describedby="([^"]+)"', drawn)) <= set(re.findall(r'id="([^"]+)"', drawn))


def test_the_form_is_drawn_with_the_starters_counts_and_memory(tmp_path):
    _, drawn = form_view.cards("vi", tmp_path, True)
    counts = form_view.first_counts()
    assert f"{counts.trainable:,}".replace(",", ".") in drawn
    assert "badge" in drawn
    assert "bộ nhớ khoảng" in drawn


def test_where_nobody_may_train_the_form_says_so_whatever_is_drawn_later(tmp_path):
    data, _ = form_view.cards("en", tmp_path, False)
    assert say("en", "training_off") in data
    assert (
        say("en", "training_off") not in re.search(r'data-part="start_error">(.*?)</div>', data, re.DOTALL)[1]
    )
    assert say("en", "training_off") not in form_view.cards("en", tmp_path, True)[0]


def test_of_each_setting_it_is_told_whether_it_is_read_free_and_right():
    values = values_of({}, WORKSPACE) | {"epochs": 0}
    looks = form_view.looks("vi", values, STARTER)
    assert set(looks) == set(form_values.FIELDS)
    assert looks["epochs"]["trouble"].startswith("không dùng được 0.")
    assert looks["seed"] == {"seen": True, "free": True, "trouble": None}
    assert not looks["vision_lora_r"]["seen"]
    assert looks["text_lora_part"]["seen"]


def test_layers_offered_are_those_of_the_model(tiny_base):
    chosen = chosen_of({"model": str(tiny_base), "revision": None})
    offered = [value for _, value in form_view.choices("en", WORKSPACE, "text_lora_targets", chosen)]
    assert offered == [*form_values.choices_of("text_lora_targets"), *chosen.layers["text"]]


def test_where_an_adapter_loads_is_said_before_a_run_and_follows_the_settings():
    qwen = form_values.Chosen("Qwen/Qwen2.5-VL-3B-Instruct", model_type="qwen2_5_vl", place="hub")

    def loads(language="en", chosen=qwen, **typed):
        return form_view.said(language, values_of(typed, WORKSPACE) | typed, chosen, {})

    assert loads()["loads"] == "Loads in LoRA Lens, PEFT, transformers, vLLM, SGLang, llama.cpp"
    both = loads(use_vision_lora=True)
    assert both["loads"] == "Loads in LoRA Lens, PEFT, transformers, vLLM · not in SGLang, llama.cpp"
    assert "it refuses ranks or alphas that differ. After the run, export-adapter" in both["loads_why"]
    even = loads(use_vision_lora=True, vision_lora_r=16)
    assert "without its vision part in SGLang" in even["loads"]
    assert (
        loads(method="dora")["loads"]
        == "Loads in LoRA Lens, PEFT · not in transformers, vLLM, SGLang, llama.cpp"
    )
    assert "not in vLLM" in loads(chosen=STARTER)["loads"]
    assert "nạp được" in loads("vi", method="rslora")["loads_why"]
    assert loads(use_text_lora=False)["loads"] == "", "nothing is trained"
