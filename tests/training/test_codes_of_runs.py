"""What a run, its machine and its model can't do is told by a code, and in Vietnamese too."""

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from support.adapter_folders import holds, saved
from support.told import refused, told_in_both
from training import TrainingConfig, runs
from training.config import rules
from training.config.fields import SpeedSettings
from training.config.rules import check_speed
from training.config.run_name import names_in
from training.distributed import _first_death, require_devices
from training.loop.trainer import training_arguments
from training.runs.adapters import require_adapter
from training.runs.events import EventLog
from ui.i18n import LOCALES, sentence, told
from vlm import adapters
from vlm.errors import UserError
from vlm.models.checkpoint_files import check_config
from vlm.models.loading import blueprint_model, load_base
from vlm.settings import ModelSettings

MakeConfig = Callable[..., TrainingConfig]
Patch = pytest.MonkeyPatch


def test_compiling_where_it_can_t_be_is_refused(monkeypatch: Patch) -> None:
    compiled = SpeedSettings(torch_compile=True)
    refused("compile-on-mps", check_speed, compiled, "mps")
    monkeypatch.setattr(rules.importlib.util, "find_spec", lambda name: None)
    refused("compile-needs-triton", check_speed, compiled, "cuda")


def test_more_processes_than_gpus_are_refused(tiny_config: MakeConfig, monkeypatch: Patch) -> None:
    config = tiny_config(processes=2, device="auto")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused("mac-with-processes", require_devices, config)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert refused("more-processes-than-gpus", require_devices, config).change == {"processes": 1}


def test_memory_that_can_t_be_saved_is_refused(tiny_config: MakeConfig, monkeypatch: Patch) -> None:
    loaded = load_base(tiny_config())
    paged = tiny_config(optim="paged_adamw_8bit")
    refused("paged-without-gpu", training_arguments, paged, loaded, paged.workspace)
    monkeypatch.setattr(type(loaded.model), "supports_gradient_checkpointing", False)
    again = tiny_config(gradient_checkpointing=True)
    refused("no-gradient-checkpointing", training_arguments, again, loaded, again.workspace)


def test_g23_a_workspace_of_another_user_is_refused(tmp_path: Path, monkeypatch: Patch) -> None:
    def fail(path: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(Path, "iterdir", fail)
    error = refused("workspace-unreadable", names_in, tmp_path)
    assert (str(tmp_path) in error.problem, "--workspace" in error.remedy) == (True, True)


def test_a_run_without_an_adapter_and_one_that_ended_are_told(tiny_config: MakeConfig) -> None:
    config = tiny_config()
    run = runs.prepare(config)
    refused("run-without-adapter", require_adapter, config.workspace, run.name)
    EventLog(run.events_path).append("phase", name="training", done=0, total=0)
    run.exit_code_path.write_text("3")
    status = run.status()
    told_in_both("run-ended", UserError.filled(status.problem, status.remedy))


@pytest.mark.parametrize(("code", "ending"), [("process-ended", "exit 3"), ("process-killed", "kill -9 $$")])
def test_a_process_that_ended_is_told(code: str, ending: str) -> None:
    with subprocess.Popen(["sh", "-c", ending]) as child:
        child.wait()
        told_in_both(code, _first_death([child], (None, 0)).error)


def test_a_model_quantized_in_an_unknown_way_is_refused() -> None:
    quantized = {"model_type": "llava", "quantization_config": {"bits": 4}}
    error = refused("model-already-quantized", check_config, "pets", quantized)
    assert error.values["method"].code == "unknown-method"
    assert sentence("vi", error.values["method"]) in told("vi", error)[0]


def test_a_tensor_of_no_sides_is_called_a_number(tiny_base: Path, tmp_path: Path) -> None:
    folder = saved("lora", tiny_base, tmp_path / "numbers")
    holds(folder, lambda name, tensor: {name: tensor.sum() if "lora_B" in name else tensor})
    base = blueprint_model(ModelSettings(model=str(tiny_base)))
    with pytest.raises(UserError) as raised:
        adapters.check_fit(folder, base, "tiny")
    assert LOCALES["vi"]["phrases"]["single-number"] in told("vi", raised.value)[0]
