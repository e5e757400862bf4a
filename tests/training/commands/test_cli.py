"""The command line: its flags word for word, what it says about mistakes, what its commands do."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from training import runs
from training.__main__ import COMMANDS, main
from training.commands import parser
from training.commands.output import describe_event
from training.config import TrainingConfig, build
from training.runs import Run
from training.runs.events import EventLog
from vlm.errors import UserError

ROOT = Path(__file__).resolve().parents[3]


def settings(*words: str) -> TrainingConfig:
    return parser.run_settings(parser.parse_command(["run", *words]))


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LORA_LENS_WORKSPACE", str(tmp_path))
    return tmp_path


@pytest.fixture
def finished(workspace: Path) -> Run:
    run = runs.prepare(build({"name": "done", "workspace": workspace}))
    log = EventLog(run.events_path)
    log.append("evaluated", step=7, loss=0.5, metrics={"exact_match": 0.75}, examples=4)
    log.append("finished", step=7, elapsed_s=65.0, adapter="adapter")
    run.adapter_path.mkdir()
    run.output_log.write_text("first line\nlast line\n")
    return run


@pytest.fixture
def stopped(workspace: Path) -> Run:
    run = runs.prepare(build({"name": "halted", "workspace": workspace}))
    EventLog(run.events_path).append("stopped", step=3, elapsed_s=5.0)
    return run


def test_the_flags_of_the_design_work_word_for_word():
    words = "--use_vision_lora --vision_lora_r 8 --use_text_lora --text_lora_r 16 --name demo --workspace DIR"
    config = settings(*words.split(), "--model", "starter", "--dataset", "shapes-vi")
    assert (config.use_vision_lora, config.vision_lora_r) == (True, 8)
    assert (config.use_text_lora, config.text_lora_r) == (True, 16)
    assert (config.name, config.workspace) == ("demo", Path("DIR"))
    off = settings("--no-use_text_lora", "--use_vision_lora", "--learning_rate=1e-4", "--max_steps", "null")
    assert (off.use_text_lora, off.learning_rate, off.max_steps) == (False, 1e-4, None)


def test_every_setting_has_a_flag_and_its_default(workspace: Path):
    assert settings() == TrainingConfig(workspace=workspace)
    words = []
    for name, value in TrainingConfig().model_dump(mode="json").items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif name not in ("auto", "gradient_checkpointing"):  # a switch is left to `auto` by leaving it out
            words += [f"--{name}", "null" if value is None else str(value)]
    assert len(words) > 50
    assert settings(*words) == TrainingConfig()


def test_the_command_line_counts_before_the_file_and_the_file_before_the_defaults(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("seed: 5\nepochs: 2\nworkspace: from-file\n")
    config = settings("--config", str(file), "--seed", "6")
    assert (config.seed, config.epochs, config.workspace) == (6, 2, Path("from-file"))


def test_everything_typed_wrong_is_said_at_once_and_nothing_starts(
    workspace: Path, capsys: pytest.CaptureFixture[str]
):
    words = "run --text_lora_r 2.5 --txt_lora_r 16 --epochs nan --use_vision_lora false --name a/b"
    assert main(words.split()) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[:6] == [
        "5 settings can't be used:",
        "  --text_lora_r: '2.5' can't be used. Give a whole number from 1 to 1024.",
        "  --name: 'a/b' has one of / \\ : * ? \" < > | in it. Try --name a-b.",
        "  --epochs: 'nan' can't be used. Give a number above 0 up to 10000.",
        "  --txt_lora_r: there is no such setting. Did you mean --text_lora_r?",
        "  'false' belongs to no flag. A switch takes no value: --no-… turns it off.",
    ]
    assert list(workspace.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("run --text_lora_r 0", "--text_lora_r: '0' can't be used."),
        ("run --config none.yaml", "none.yaml: No such file or directory."),
        ("run --seed", "--seed: expected one argument."),
        ("run --folder none", "There is no run named 'none'"),
        ("run --folder x --seed 1", "--folder takes no other flag."),
        ("dance", f"{{{','.join(COMMANDS)}}}: invalid choice: 'dance'"),
        ("--seed", "--seed is no command."),
        ("stop", "the following arguments are required: NAME."),
        ("show demo", "There is no run named 'demo'"),
        ("stop ../demo", "There is no run named '../demo'"),
        ("list --jsn", "--jsn: there is no such setting."),
        ("delete a b", "'b' belongs to no flag."),
    ],
)
def test_g20_a_mistake_is_two_lines_on_stderr_and_exit_code_2(
    words: str, problem: str, capsys: pytest.CaptureFixture[str]
):
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    said, remedy = err.splitlines()
    assert said.startswith(problem)
    assert remedy


def test_help_is_printed_without_torch():
    program = (
        "import runpy, sys\nsys.argv = ['training', *sys.argv[1:]]\n"
        "try:\n    runpy.run_module('training', run_name='__main__')\n"
        "except SystemExit as ended:\n    assert not ended.code, ended.code\n"
        "assert not {'torch', 'transformers', 'peft', 'gradio'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", program, "run", "--help"]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert [name for name in TrainingConfig.model_fields if f"--{name}" not in printed] == ["auto"]


def test_without_a_command_the_help_lists_them(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert [name for name in COMMANDS if f"\n    {name} " not in printed] == []


def test_importing_the_package_brings_the_settings_and_no_torch():
    program = (
        "import sys\nfrom training import TrainingConfig, train\n"
        "assert TrainingConfig().dataset == 'shapes-vi' and callable(train)\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)\n"
        "import training\n"
        "try:\n    training.nothing\nexcept AttributeError:\n    print('fine')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert ended.stdout == "fine\n"


def test_runs_are_listed_for_people_and_for_programs(
    finished: Run, stopped: Run, capsys: pytest.CaptureFixture[str]
):
    older = time.time() - 60
    os.utime(finished.config_path, (older, older))
    assert main(["list"]) == 0
    assert capsys.readouterr().out == "halted: stopped, step 3, 5 s\ndone: finished, step 7, 65 s\n"
    assert main(["list", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["name"], first["state"], first["resumable"], first["adapter"]) == (
        "halted",
        "stopped",
        True,
        None,
    )
    assert (second["name"], second["step"], second["adapter"]) == ("done", 7, str(finished.adapter_path))
    assert main(["list", "--workspace", str(finished.path)]) == 0
    assert capsys.readouterr().out == "There is no run yet. Start one: python -m training start\n"


def test_a_run_is_shown_for_people_and_for_programs(finished: Run, capsys: pytest.CaptureFixture[str]):
    assert main(["show", "done", "--log"]) == 0
    shown = ["first line", "last line", "done: finished, step 7, 65 s", f"  adapter: {finished.adapter_path}"]
    assert capsys.readouterr().out.splitlines() == shown
    assert main(["show", "done", "--follow"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "evaluated at step 7: exact_match 0.750"
    assert main(["show", "done", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["config"]["text_lora_r"] == 16
    assert facts["evaluated"][0]["metrics"] == {"exact_match": 0.75}


def test_the_hardest_examples_of_the_newest_epoch_are_listed(
    finished: Run, capsys: pytest.CaptureFixture[str]
):
    assert main(["show", "done", "--hard"]) == 0
    assert "No epoch has ended yet" in capsys.readouterr().out
    sample = {"example_id": "rows:7", "image": None, "question": "màu gì?", "answer": "đỏ", "loss": 4.25}
    for epoch in (1.0, 2.0):
        samples = [sample | {"loss": 4.25 / epoch}]
        EventLog(finished.events_path).append("hard", step=7, epoch=epoch, seen=40, samples=samples)
    assert main(["show", "done", "--hard"]) == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first == "Highest loss of 40 examples in epoch 2; look for wrong labels:"
    assert second == "  2.125  rows:7: màu gì? → đỏ"
    assert main(["show", "done", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hard"][0]["epoch"] == 2


def test_a_metric_is_shown_with_its_interval():
    event = {"kind": "evaluated", "step": 7, "metrics": {"exact_match": 0.75}}
    told = describe_event(event | {"intervals": {"exact_match": [0.3, 0.954]}})
    assert told == "evaluated at step 7: exact_match 0.750 (0.300 to 0.954)"


def test_a_failed_run_is_shown_with_problem_and_remedy(stopped: Run, capsys: pytest.CaptureFixture[str]):
    EventLog(stopped.events_path).append(
        "failed", problem="The disk is full.", remedy="Free 2 GB.", elapsed_s=1.0
    )
    assert main(["show", "halted"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["  The disk is full.", "  Free 2 GB."]


def test_g14_stop_and_resume_of_what_is_over_say_so(finished: Run, capsys: pytest.CaptureFixture[str]):
    assert main(["stop", "done"]) == 0
    assert capsys.readouterr().out == "done is finished: there is nothing to stop.\n"
    assert main(["resume", "done"]) == 2
    assert capsys.readouterr().err.startswith("done is finished.\nTrain anew")


def test_a_live_run_is_stopped_by_name_and_neither_resumed_nor_deleted(
    stopped: Run, capsys: pytest.CaptureFixture[str]
):
    EventLog(stopped.events_path).append("queued")
    with runs.hold_lock(stopped):
        assert main(["resume", "halted"]) == 2
        assert capsys.readouterr().err.startswith(
            "halted is at work.\nFollow it: python -m training show halted"
        )
        assert main(["delete", "halted"]) == 2
        assert capsys.readouterr().err.startswith("halted is running.\nStop it first")
        assert not runs.stop_requested(stopped)
        assert main(["stop", "halted"]) == 0
        assert runs.stop_requested(stopped)


def test_a_run_is_deleted_by_name(stopped: Run, workspace: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["delete", "halted"]) == 0
    (trashed,) = (workspace / "trash").iterdir()
    moved, back = capsys.readouterr().out.splitlines()
    assert moved == f"halted was moved to {trashed}"
    assert back.endswith("restore halted brings it back, for 30 days")


def test_the_workspace_flag_counts_before_the_environment(stopped: Run, tmp_path: Path):
    assert main(["show", "halted"]) == 0
    assert main(["show", "halted", "--workspace", str(tmp_path / "other")]) == 2


def test_a_flag_that_is_a_setting_of_no_run_is_refused_by_settings():
    with pytest.raises(UserError, match="no such setting"):
        settings("--hub_token", "secret")
