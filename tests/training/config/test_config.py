"""The settings: what is refused and how it is said, all at once; what a file keeps; which names are safe."""

import ast
import inspect
import re
import unicodedata
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from training import TrainingConfig
from training.config import allowed, build, check, load, rules, run_name, settings_error
from vlm.errors import UserError


def wrong(**values: object) -> list[str]:
    return [problem.field for problem in check(values)]


def test_the_defaults_may_start():
    assert check({}) == []
    config = build({})
    assert config == TrainingConfig()
    assert (config.use_text_lora, config.use_vision_lora) == (True, False)
    assert (config.text_lora_r, config.vision_lora_r, config.lora_dropout) == (16, 8, 0.1)
    assert (config.text_alpha, config.vision_alpha) == (32, 16)


def test_every_field_says_what_it_is_and_which_values_it_takes():
    for name, field in TrainingConfig.model_fields.items():
        assert re.fullmatch(r"[A-Z`].*\.", field.description), name
        assert "\n" not in field.description
        assert allowed(name)
    assert allowed("text_lora_r") == "a whole number from 1 to 1024"
    assert allowed("held_out") == "a number from 0 below 1"
    assert allowed("quantization") == "one of none, 8bit, 4bit"
    assert allowed("max_steps") == "a whole number from 1 to 10000000, or leave it out"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("held_out", 5),
        *(("text_lora_r", value) for value in (0, -1, 10**6, 2.5, "2.5", "many", None, True, [], "9" * 5000)),
        *(("vision_lora_alpha", value) for value in (-1, 0, "nan", float("inf"))),
        *(("lora_dropout", value) for value in (2, 1, -1, float("nan"))),
        *(
            ("learning_rate", value)
            for value in ("nan", float("nan"), "inf", "-inf", 0, -1e-4, 1e10, "", "x")
        ),
        *(("epochs", value) for value in (0, -1, "nan", "inf", float("inf"), "1e400")),
        *(("max_steps", value) for value in (0, -1, 1.5)),
        *(("batch_size", value) for value in (0, -1)),
        ("gradient_accumulation_steps", 0),
        *(("seed", value) for value in (-1, 2**40)),
        *(("max_grad_norm", value) for value in ("nan", 0, -1)),
        *(("warmup_steps", value) for value in (-1, 1.5, "nan")),
        *(("use_text_lora", value) for value in (1, 0, 2, 1.0, "maybe", None)),
        ("quantization", "2bit"),
        *(("dataset", value) for value in ("", None, 5, "a\0b", "a\nb")),
        *(("workspace", value) for value in ("", None, "a\0b")),
        *(("model", value) for value in ("", "a\x1b[31m")),
    ],
)
def test_a_value_that_can_not_be_used_is_refused_by_its_flag_with_what_is_allowed(field: str, value: object):
    with pytest.raises(UserError) as refusal:
        build({field: value})
    assert refusal.value.problem.startswith(f"--{field}: ")
    assert len(refusal.value.problem) < 200
    assert refusal.value.remedy.startswith(("Give ", "Type "))


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("learning_rate", "1e-4", 1e-4),
        ("text_lora_r", "8", 8),
        ("epochs", "0.5", 0.5),
        ("use_vision_lora", "true", True),
        ("use_text_lora", True, True),
        ("warmup_steps", 20, 20),
        ("max_steps", None, None),
    ],
)
def test_numbers_typed_as_text_are_understood(field: str, text: object, value: object):
    assert getattr(build({field: text}), field) == value


def test_everything_that_is_wrong_is_said_at_once():
    values = {
        "txt_lora_r": 3,
        "learning_rate": "nan",
        "use_text_lora": False,
        "name": "a/b",
        "text_lora_r": 0,
    }
    assert wrong(**values) == ["use_text_lora", "text_lora_r", "name", "learning_rate", "txt_lora_r"]
    with pytest.raises(UserError) as refusal:
        build(values)
    lines = refusal.value.problem.splitlines()
    assert lines[0] == "5 settings can't be used:"
    assert lines[2] == "  --text_lora_r: 0 can't be used. Give a whole number from 1 to 1024."
    assert lines[5] == "  --txt_lora_r: there is no such setting. Did you mean --text_lora_r?"


def test_a_run_that_trains_no_tower_is_refused():
    assert wrong(use_text_lora=False) == ["use_text_lora"]
    assert wrong(use_text_lora=False, use_vision_lora=True) == []


def test_a_rule_is_not_asked_of_a_value_that_is_wrong_itself():
    assert wrong(use_vision_lora="maybe", use_text_lora=False) == ["use_vision_lora"]
    assert wrong(warmup_steps=20, max_steps=0) == ["max_steps"]


def test_settings_that_contradict_each_other_are_refused():
    assert wrong(warmup_steps=20, max_steps=20) == ["warmup_steps"]
    assert wrong(warmup_steps=20, max_steps=21) == []
    assert wrong(sample_answers=4, eval_examples=3) == ["sample_answers"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("text_lora_rank", "text_lora_r"), ("text-lora-r", "text_lora_r"), ("bach_size", "batch_size")],
)
def test_an_unknown_setting_names_the_nearest(typed: str, meant: str):
    (problem,) = check({typed: 1})
    assert (problem.field, problem.remedy) == (typed, f"Did you mean --{meant}?")


# What breaks each rule, by the code of what is said then.
BROKEN_RULES = {
    "no-tower-chosen": {"use_text_lora": False},
    "method-not-in-vision": {"method": "prompt_tuning", "use_vision_lora": True},
    "method-not-in-connector": {"method": "prompt_tuning", "connector": "lora"},
    "method-without-b": {"method": "ia3", "loraplus_lr_ratio": 2},
    "method-not-quantized": {"method": "dora", "quantization": "8bit"},
    "quantized-nothing": {"quantize_vision": True},
    "pixels-crossed": {"image_min_pixels": 5000, "image_max_pixels": 4000},
    "warmup-not-whole": {"warmup_steps": 1.5},
    "warmup-too-long": {"warmup_steps": 1, "max_steps": 1},
    "answers-above-examples": {"sample_answers": 4, "eval_examples": 3},
    "too-many-pinned": {"pinned_examples": ",".join("abcdefghi")},
    "patience-without-metric": {"early_stopping_patience": 2, "best_metric": "last"},
    "best-of-nothing": {"best_metric": "loss", "held_out": 0},
    "blindfold-off": {"best_metric": "blindfold_gap", "blindfold_test": False},
    "run-name-refused": {"name": "a/b"},
    "columns-refused": {"columns": "image=a,what"},
    "setting-invisible": {"dataset": "a\u200bb"},
}


@pytest.mark.parametrize(("code", "values"), BROKEN_RULES.items())
def test_each_broken_rule_has_a_code_of_its_own(code: str, values: dict[str, object]):
    (problem,) = check(values)
    assert problem.field in values
    refused = settings_error([problem])
    assert refused.code == "setting-refused"
    assert refused.values["problem"].code == code


def test_every_rule_is_broken_above():
    tree = ast.parse(inspect.getsource(rules.broken_rules))
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    codes = {call.args[2].value for call in calls if getattr(call.func, "id", "") == "UserError"}
    assert codes == {*BROKEN_RULES}


def test_numbers_of_things_are_said_in_their_plural():
    (problem,) = check({"warmup_steps": 1, "max_steps": 1})
    assert problem.message == "a warm-up of 1 step does not end within --max_steps 1."


def test_settings_can_not_be_changed_or_extended():
    with pytest.raises(ValidationError):
        TrainingConfig().seed = 1
    with pytest.raises(ValidationError):
        TrainingConfig(hub_token="secret")


def test_a_file_repeats_the_run_but_not_where_it_went(tmp_path: Path):
    config = build(
        {"name": "one", "workspace": "elsewhere", "learning_rate": 1e-5, "max_steps": 7, "dataset": "ảnh"}
    )
    config.dump(tmp_path / "config.yaml")
    assert load(tmp_path / "config.yaml") == config.model_copy(
        update={"name": None, "workspace": Path("workspace")}
    )
    assert not {"name", "workspace"} & yaml.safe_load((tmp_path / "config.yaml").read_text()).keys()


def test_a_file_moves_with_its_workspace(tmp_path: Path):
    old = tmp_path / "old"
    (old / "runs" / "one").mkdir(parents=True)
    config = build(
        {"workspace": old, "dataset": str(old / "datasets" / "mine"), "model": str(tmp_path / "base")}
    )
    config.dump(old / "runs" / "one" / "config.yaml")
    new = old.rename(tmp_path / "new")
    moved = load(new / "runs" / "one" / "config.yaml")
    assert moved.dataset == str(new / "datasets" / "mine")
    assert moved.model == str(tmp_path / "base")


def test_a_file_written_by_hand_is_read(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("\ufefflearning_rate: 1e-4  # text to YAML 1.1\nuse_text_lora: yes\ndataset: ./data\n")
    config = load(file)
    assert (config.learning_rate, config.use_text_lora) == (1e-4, True)
    assert config.dataset == str(tmp_path / "data")
    file.write_text("")
    assert load(file) == TrainingConfig()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"seed: 1\nepochs: [1\n", "mine.yaml:3: not valid YAML"),
        (b"- seed\n", "holds no settings"),
        (b"just words\n", "holds no settings"),
        (b"0\n", "holds no settings"),
        (b"name: \xff\n", "is not UTF-8 text"),
        (b"!!python/object/apply:os.system ['true']\n", "not valid YAML"),
        (b"text_lora_r: yes\n", "--text_lora_r: True can't be used"),
        (b"5: 6\n", "--5: there is no such setting"),
        (None, "No such file or directory"),
    ],
)
def test_a_file_that_can_not_be_used_says_why(tmp_path: Path, content: bytes | None, problem: str):
    file = tmp_path / "mine.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(problem)):
        load(file)


@pytest.mark.parametrize("name", ["demo", "Ảnh của tôi", "run_2.1", "写真", "a-b (second)"])
def test_a_name_people_use_is_accepted(name: str):
    assert wrong(name=name) == []


@pytest.mark.parametrize(
    "name",
    [
        *("../x", "/abs", "a/b", "a\\b", "..", ".", ".hidden", "-rf", "", " a", "a ", "a.", "a\nb", "a\x7f"),
        *("x" * 65, "x" * 300, "📷" * 64, "a\u202eb", "a\u200bb", "a\ud800", "CON", "con.txt", "Lpt1"),
        *("checkpoint-5", "Checkpoint-999999", "a:b", "a*"),
    ],
)
def test_a_name_that_is_no_safe_folder_is_refused_with_one_that_is(name: str):
    (problem,) = check({"name": name})
    assert problem.field == "name"
    if name:
        suggested = problem.remedy.removeprefix("Try --name ").removesuffix(".")
        assert run_name.problem_with(suggested) is None


def test_names_that_a_file_system_could_take_for_one_are_one():
    composed, decomposed = (unicodedata.normalize(form, "Ảnh") for form in ("NFC", "NFD"))
    assert composed != decomposed
    assert run_name.fold(composed) == run_name.fold(decomposed) == run_name.fold("ảnh")
    assert run_name.normalise(decomposed) == composed


def test_a_proposed_name_is_free_and_safe(tmp_path: Path):
    first = run_name.new_name("data/My photos!", tmp_path)
    assert first.startswith("My-photos-")
    (tmp_path / "runs" / first.upper()).mkdir(parents=True)
    for dataset in ("data/My photos!", "", "..", "CON", "/", "ả" * 300, "a\0b"):
        name = run_name.new_name(dataset, tmp_path)
        assert run_name.problem_with(name) is None
        assert run_name.fold(name) not in run_name.names_in(tmp_path)
