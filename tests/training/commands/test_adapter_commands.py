"""python -m training adapters, inspect and merge: what they print, and their exit codes."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from support.adapter_folders import CONFIG, INPUTS, WEIGHTS, fresh, logits, saved
from support.tiny_runs import finish
from support.untouched import untouched
from training import TrainingConfig
from training.__main__ import main
from training.runs import Run
from vlm import adapters


@pytest.fixture
def workspace(taught: Run, tiny_base: Path, tmp_path: Path) -> Path:
    """A finished run, an adapter from elsewhere, and one that is damaged."""
    shutil.copytree(taught.workspace, tmp_path / "ws")
    saved("dora", tiny_base, tmp_path / "ws" / "adapters" / "elsewhere")
    shutil.copytree(tmp_path / "ws" / "adapters" / "elsewhere", tmp_path / "ws" / "adapters" / "torn")
    (tmp_path / "ws" / "adapters" / "torn" / WEIGHTS).write_bytes(b"torn")
    return tmp_path / "ws"


def test_adapters_lists_those_of_runs_and_others_and_says_what_is_wrong(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["adapters", "--workspace", str(workspace)]) == 0
    run, elsewhere, torn = capsys.readouterr().out.splitlines()
    assert run.startswith("demo: LoRA for tiny, text r 16, 32 tensors, 0.1 MB, 20")
    assert elsewhere.startswith("elsewhere: DoRA for tiny, text r 4, vision r 2, 66 tensors, ")
    assert torn == f"torn: torn has no readable {WEIGHTS}. Copy the adapter again: the file is damaged."
    assert main(["adapters", "--json", "--workspace", str(workspace)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in told] == ["demo", "elsewhere", "torn"]
    assert told[0]["ranks"] == {"text": [16, 16]}
    assert told[1]["method"] == "dora"
    assert told[2]["problem"]
    assert main(["adapters", "--workspace", str(workspace / "nowhere")]) == 0
    assert capsys.readouterr().out == "There is no adapter yet: a finished run has one.\n"


def test_inspect_checks_an_adapter_against_its_runs_base_or_the_one_named(
    workspace: Path, tiny_base: Path, foreign_adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--workspace", str(workspace)]
    assert main(["inspect", "demo", *place]) == 0
    assert f"32 of 32 tensors match {tiny_base}" in capsys.readouterr().out
    assert main(["inspect", "elsewhere", *place]) == 0
    assert "tensors match" not in capsys.readouterr().out
    assert main(["inspect", "elsewhere", "--model", str(tiny_base), "--json", *place]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["matched"], told["total"], told["label"], told["notes"]) == (66, 66, "DoRA", [])
    assert main(["inspect", str(foreign_adapter), "--model", str(tiny_base), *place]) == 2
    problem, remedy = capsys.readouterr().err.splitlines()
    assert problem.startswith("narrow-adapter does not fit tiny: ")
    assert remedy == "Choose narrow as the base model."
    assert main(["inspect", "nobody", *place]) == 2
    assert "There is no adapter nobody." in capsys.readouterr().err


def test_inspect_says_where_an_adapter_loads_and_from_what_that_is_known(
    workspace: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--workspace", str(workspace)]
    assert main(["inspect", "demo", "--json", *place]) == 0
    told = {found["runtime"]: found for found in json.loads(capsys.readouterr().out)["where_it_loads"]}
    assert told["PEFT"]["verdict"] == "loads"
    assert told["vLLM"]["verdict"] == "does_not"
    assert "loads here alone, or merged" in told["vLLM"]["because"]
    assert all(found["source"] for found in told.values())
    assert main(["inspect", "elsewhere", *place]) == 0  # a DoRA, whose base nothing is known of
    said = capsys.readouterr().out
    assert "  vLLM: does not load: it refuses DoRA (merge)\n" in said
    assert "  llama.cpp, Ollama, LM Studio: does not load: its converter takes text layers alone" not in said
    assert said.count("\n") == 7


def test_merge_writes_a_model_that_answers_as_base_and_adapter_together(
    workspace: Path, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, out = ["--workspace", str(workspace)], tmp_path / "merged"
    adapter = workspace / "adapters" / "elsewhere"
    assert main(["merge", "elsewhere", str(out), *place]) == 2
    assert "Name it: --model tiny" in capsys.readouterr().err
    assert (
        main(["merge", "elsewhere", str(out), "--model", str(tiny_base), "--quantization", "4bit", *place])
        == 2
    )
    assert "can't be merged into weights of 4 bits" in capsys.readouterr().err
    assert main(["merge", "elsewhere", str(out), "--model", str(tiny_base), "--device", "cpu", *place]) == 0
    assert str(out) in capsys.readouterr().out
    together = logits(adapters.load(fresh(tiny_base), adapter))
    torch.testing.assert_close(logits(fresh(out)), together, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together, logits(fresh(tiny_base)), atol=1e-2)
    assert not (out / CONFIG).exists()
    assert str(tmp_path) not in (out / "config.json").read_text()
    assert main(["merge", "elsewhere", str(out), "--model", str(tiny_base), *place]) == 2
    assert f"{out} is there already." in capsys.readouterr().err


def test_a_runs_adapter_is_merged_into_the_base_of_its_run(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["merge", "demo", str(tmp_path / "merged"), "--workspace", str(workspace)]) == 0
    assert torch.isfinite(fresh(tmp_path / "merged")(**INPUTS).logits).all()
    assert sorted(path.name for path in tmp_path.iterdir() if "merged" in path.name) == ["merged"]


def test_row_100_a_bad_adapter_ends_every_command_with_2_and_changes_nothing(
    workspace: Path, pictures: Path, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, place = ["--model", str(tiny_base)], ["--workspace", str(workspace)]
    for command in (["inspect"], ["merge", str(tmp_path / "merged")], ["evaluate", str(pictures)]):
        with untouched(workspace):
            assert main([command[0], "torn", *command[1:], *model, *place]) == 2
        problem, remedy = capsys.readouterr().err.splitlines()[-2:]
        assert problem == f"torn has no readable {WEIGHTS}."
        assert remedy == "Copy the adapter again: the file is damaged."
    assert not (tmp_path / "merged").exists()


@pytest.mark.slow
def test_g18_in_a_fresh_process_the_adapter_answers_as_when_its_run_ended(
    tiny_config: Callable[..., TrainingConfig],
) -> None:
    run = finish(tiny_config(learning_rate=1e-2, max_steps=3, evaluations=0, held_out=0))
    command = [sys.executable, "-m", "training", "inspect", run.name, "--load"]
    command += ["--workspace", str(run.workspace)]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (asked.returncode, asked.stderr) == (0, "")
    assert "loaded: answers differ from the base's; off by 0.00% from the end of its run" in asked.stdout


def test_g18_an_adapter_that_was_changed_since_is_told(
    tiny_config: Callable[..., TrainingConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    run = finish(tiny_config(learning_rate=1e-2, max_steps=3, evaluations=0, held_out=0))
    weights = run.adapter_path / "adapter_model.safetensors"
    save_file({name: 3 * tensor for name, tensor in load_file(weights).items()}, weights)
    words = ["inspect", run.name, "--load", "--workspace", str(run.workspace)]
    assert main(words) == 2
    assert "answers otherwise than when its run ended: its logits are off by" in capsys.readouterr().err
    run.probe_path.unlink()  # of an older version's run nothing is compared
    assert main(words) == 0
    assert "loaded: answers differ from the base's\n" in capsys.readouterr().out
