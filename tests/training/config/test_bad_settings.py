"""Rows 70 to 92 of the table of bad input: settings and names, as they are typed and as a file has them.

Each is refused in the words of its flag, with exit code 2, and nothing is written, not even a run's folder.
"""

import json
import shlex
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.tiny_runs import finish
from support.untouched import untouched
from training import runs
from training.__main__ import main
from training.commands import parser
from training.config import TrainingConfig, as_flags, build, load
from training.runs.events import EventLog
from vlm.errors import UserError

RANK, RATE = "a whole number from 1 to 1024", "a number above 0 up to 1"
EPOCHS, COUNT = "a number above 0 up to 10000", "a whole number from 1 to 4096"
ALPHA = "a number above 0 up to 65536, or leave it out"
NAMES = "one of attention, attention_mlp, all_linear or layer names with commas between them"
UNUSABLE, UNKNOWN, RESERVED = "{text!r} can't be used.", "there is no such setting.", "{text!r} is reserved."
SEPARATOR = '{text!r} has one of / \\ : * ? " < > | in it.'
INVISIBLE = "{text!r} has an invisible or control character in it."
ENDS = "{text!r} starts with a dot or a hyphen, ends with a dot, or has a space at an end."
LONG = f"'{'x' * 39}… (302 characters) is longer than 64 characters or 200 bytes."


@dataclass(frozen=True)
class Case:
    """One line of the table: a setting, the texts that it can't have, and what is told: two lines."""

    row: int
    what: str
    field: str
    texts: tuple[str, ...]
    problem: str
    remedy: str

    def told(self, text: str) -> tuple[str, str]:
        return f"--{self.field}: {self.problem.format(text=text)}", self.remedy


def bounded(row: int, what: str, field: str, texts: tuple[str, ...], allowed: str) -> Case:
    return Case(row, what, field, texts, UNUSABLE, f"Give {allowed}.")


def named(row: int, what: str, texts: tuple[str, ...], problem: str, proposed: str) -> Case:
    return Case(row, what, "name", texts, problem, f"Try --name {proposed}.")


CASES = [
    bounded(70, "rank 0", "text_lora_r", ("0", "-1"), RANK),
    bounded(70, "a negative rank of the vision tower", "vision_lora_r", ("-1", "0"), RANK),
    bounded(71, "a rank of a million", "text_lora_r", ("1000000", "9" * 50), RANK),
    bounded(72, "half a rank", "connector_lora_r", ("2.5", "eight", "1e2.5", "0x8"), RANK),
    bounded(73, "a negative alpha", "text_lora_alpha", ("-1", "nan", ".nan", "inf"), ALPHA),
    bounded(74, "dropout of 2", "lora_dropout", ("2", "-1", "nan", "1"), "a number from 0 below 1"),
    bounded(75, "a learning rate that is no number", "learning_rate", ("nan", ".nan", "fast"), RATE),
    bounded(76, "an infinite learning rate", "learning_rate", ("inf", ".inf", "-inf", "1e999"), RATE),
    bounded(78, "a learning rate of 0", "learning_rate", ("0", "1e10", "-1e-4"), RATE),
    bounded(79, "no epochs", "epochs", ("0", "-1"), EPOCHS),
    bounded(80, "endless epochs", "epochs", ("nan", "inf", ".inf", "1e400"), EPOCHS),
    bounded(82, "an empty batch", "batch_size", ("0", "-1"), COUNT),
    bounded(82, "no accumulation", "gradient_accumulation_steps", ("0", "-1"), COUNT),
    bounded(83, "a negative seed", "seed", ("-1", str(2**40)), "a whole number from 0 to 4294967295"),
    bounded(84, "a norm of nan", "max_grad_norm", ("nan", "0", "-1"), "a number above 0 up to 1000000"),
    bounded(86, "a pattern for targets", "text_lora_targets", ("(.*a+)+$", "q_proj|v_proj"), NAMES),
    bounded(86, "a pattern for the vision tower", "vision_lora_targets", ("(a|aa)+$", "fc1,,"), NAMES),
    Case(88, "an unknown argument", "frobnicate", ("3",), UNKNOWN, "--help lists every one."),
    Case(88, "a misspelt argument", "text_lora_rank", ("3",), UNKNOWN, "Did you mean --text_lora_r?"),
    named(89, "a name that leads out", ("../x",), SEPARATOR, "x"),
    named(89, "an absolute name", ("/abs",), SEPARATOR, "abs"),
    named(89, "a name in a folder", ("a/b", "a\\b"), SEPARATOR, "a-b"),
    named(90, "a name of two lines", ("a\nb", "a\tb", "a\u2028b", "a\u202eb"), INVISIBLE, "a-b"),
    named(90, "a name that ends with a dot", ("a.", " a", "a "), ENDS, "a"),
    named(90, "a name of dots", ("..", "."), ENDS, "run"),
    Case(90, "no name", "name", ("",), UNUSABLE, "Give a text, or leave it out."),
    named(90, "a long name", ("x" * 300,), LONG, "x" * 40),
    named(90, "a device's name", ("CON",), RESERVED, "run-CON"),
    named(90, "a checkpoint's name", ("checkpoint-5",), RESERVED, "run-checkpoint-5"),
]
ELSEWHERE = {77, 81, 85, 87, 91, 92}
"""Rows of another kind; each has a test of its own below."""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with a run in it, which nothing may touch."""
    monkeypatch.setenv("LORA_LENS_WORKSPACE", str(tmp_path / "workspace"))
    runs.prepare(build({"name": "Ảnh", "workspace": tmp_path / "workspace"}))
    return tmp_path / "workspace"


def test_every_row_of_settings_and_names_has_a_case() -> None:
    assert {case.row for case in CASES} | ELSEWHERE == {*range(70, 93)}


@pytest.mark.parametrize("case", [pytest.param(case, id=f"{case.row}: {case.what}") for case in CASES])
def test_bad_setting(case: Case, workspace: Path, tmp_path: Path) -> None:
    for text in case.texts:
        (tmp_path / "mine.yaml").write_text(f"{case.field}: {json.dumps(text)}\n", encoding="utf-8")
        with untouched(workspace), pytest.raises(UserError) as refused:
            load(tmp_path / "mine.yaml")
        assert (refused.value.problem, refused.value.remedy) == case.told(text)


def test_the_shell_refuses_them_all_with_exit_code_2_and_writes_nothing(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As many at once as there are flags, since a shell says all that is wrong: its parser takes a while."""
    left = [*CASES]
    while left:
        typed = {case.field: case for case in reversed(left)}
        left = [case for case in left if case not in typed.values()]
        with untouched(workspace):
            assert main(["run", *(f"--{field}={case.texts[0]}" for field, case in typed.items())]) == 2
        out, err = capsys.readouterr()
        told = [case.told(case.texts[0]) for case in typed.values()]
        lines = {f"  {problem} {remedy}" for problem, remedy in told} if len(told) > 1 else {*told[0]}
        assert out == ""
        assert lines <= {*err.splitlines()}


def test_row_77_a_learning_rate_typed_as_text_is_a_number(workspace: Path, tmp_path: Path) -> None:
    typed = parser.run_settings(parser.parse_command(["run", "--learning_rate", "1e-4"]))
    (tmp_path / "mine.yaml").write_text("learning_rate: 1e-4\n")
    for config in (typed, load(tmp_path / "mine.yaml"), build({"learning_rate": "1e-4"})):
        assert config.learning_rate == 0.0001


@pytest.mark.filterwarnings("ignore")
def test_row_81_a_batch_larger_than_the_dataset_is_told_and_trains(
    tiny_config: Callable[..., TrainingConfig], pictures: Path
) -> None:
    config = tiny_config(dataset=str(pictures), held_out=0, evaluations=0, max_steps=1, batch_size=5)
    (told,) = finish(config).events({"warning"})
    assert told["problem"] == "A step takes 5 examples, and 4 are trained on: an epoch is one step."
    assert told["remedy"] == "Give a smaller --batch_size, or more --epochs."


NOTHING_TO_TRAIN = {
    "87: nothing at all": (
        ["--no-use_text_lora", "--connector", "off"],
        "--use_text_lora: no tower is trained.",
        "Turn on --use_text_lora, --use_vision_lora or both.",
    ),
    "87: nothing but what auto leaves out": (
        ["--no-use_text_lora", "--connector", "auto"],
        "--use_text_lora: no tower is trained.",
        "Turn on --use_text_lora, --use_vision_lora or both.",
    ),
}


@pytest.mark.parametrize(("flags", "problem", "remedy"), NOTHING_TO_TRAIN.values(), ids=NOTHING_TO_TRAIN)
def test_row_87_a_run_that_would_train_nothing_is_refused(
    flags: list[str], problem: str, remedy: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with untouched(workspace):
        assert main(["run", *flags]) == 2
    assert capsys.readouterr().err.splitlines() == [problem, remedy]


@pytest.mark.filterwarnings("ignore")
def test_row_85_targets_that_match_no_layer_are_refused_with_the_names_there_are(
    tiny_settings: dict[str, Any],
    tiny_base: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Which layers there are only the model says: the run's folder is made, and no adapter in it."""
    chosen = tiny_settings | {"dataset": str(pictures), "workspace": str(tmp_path), "held_out": 0}
    with untouched(tiny_base, pictures):
        assert (
            main(
                ["run", *shlex.split(as_flags(chosen)), "--evaluations=0", "--text_lora_targets=q_prj,k_proj"]
            )
            == 2
        )
    run = runs.find(tmp_path, "demo")
    status = run.status()
    assert status.problem == "The text tower of ComposedForConditionalGeneration has no layers named q_prj."
    assert status.remedy == "Choose among fc1, fc2, k_proj, out_proj, q_proj, v_proj."
    assert f"{status.problem}" in capsys.readouterr().err
    assert (status.state, run.adapter_path.exists(), run.events({"step"})) == ("failed", False, [])


def test_row_91_names_that_a_file_system_could_take_for_one_are_one_run(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.prepare(build({"name": "other", "workspace": workspace}))
    composed, decomposed = (unicodedata.normalize(form, "Ảnh") for form in ("NFC", "NFD"))
    assert (workspace / "runs" / composed).is_dir()
    with untouched(workspace):
        for twin in (decomposed, composed.lower(), decomposed.upper()):
            assert main(["run", "--name", twin]) == 2
            problem, remedy = capsys.readouterr().err.splitlines()
            assert problem == f"A run named {composed} is already there."
            assert remedy.startswith("Choose another --name, or go on with that one: ")
        assert main(["rename", "other", decomposed.upper()]) == 2
        assert main(["show", decomposed]) == 0, "the same name, composed otherwise"


def test_row_92_a_name_that_is_taken_goes_on_with_no_run_unasked(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = runs.prepare(build({"name": "done", "workspace": workspace}))
    EventLog(done.events_path).append("finished", step=7, elapsed_s=1.0, adapter="adapter")
    with untouched(workspace):
        for words in (["run"], ["start"], ["duplicate", "done"]):
            assert main([*words, "--name", "done"]) == 2
            problem, remedy = capsys.readouterr().err.splitlines()
            assert problem == "A run named done is already there."
            assert remedy.endswith("go on with that one: python -m training resume done")
        assert main(["resume", "done"]) == 2, "it is finished"
