"""G5, G6 and G19: what a resumed run comes to, and what it refuses to go on with."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image, ImageOps

from support.checkpointing import go_on, same, stopped_after, weights
from support.slow import slow_but
from support.tiny_runs import finish
from training import TrainingConfig
from training.config import build
from training.data.row import say_nothing
from training.data.validate.dataset_check import check_configured
from training.loop import worker
from training.runs import Run, checkpoints
from training.runs.events import EventLog

MakeConfig = Callable[..., TrainingConfig]


def killed_before_its_adapter(run: Run) -> None:
    """Leaves a finished run as a kill between its last seal and its adapter does."""
    shutil.rmtree(run.adapter_path)
    lines = run.events_path.read_text().splitlines(keepends=True)
    assert json.loads(lines[-1])["kind"] == "finished"
    run.events_path.write_text("".join(lines[:-1]))


def change(run: Run, **values: Any) -> None:
    """Edits the settings of a run, as a person does between two starts."""
    settings = yaml.safe_load(run.config_path.read_text()) | values
    run.config_path.write_text(yaml.safe_dump(settings))


@pytest.mark.parametrize("evaluations", slow_but({0}, [0, 3]))
def test_g06_killed_behind_the_last_seal_only_the_end_is_done(
    tiny_config: MakeConfig, evaluations: int
) -> None:
    """With a constant rate, one step more would be another adapter."""
    run = finish(
        tiny_config(max_steps=6, save_steps=2, lr_scheduler_type="constant", evaluations=evaluations)
    )
    unbroken, steps = weights(run), [event["step"] for event in run.events({"step"})]
    killed_before_its_adapter(run)
    assert run.status().state == "interrupted"
    assert go_on(run) == worker.DONE
    assert same(weights(run), unbroken)
    assert [event["step"] for event in run.events({"step"})] == steps
    assert (run.status().state, run.status().step, run.status().total) == ("finished", 6, 6)


REFUSED = {
    "seed": {"seed": 7},
    "held-out share": {"held_out": 0.4},
    "rate": {"learning_rate": 1e-4},
    "rank": {"text_lora_r": 2},
    "targets": {"text_lora_targets": "attention"},
    "method": {"method": "dora"},
    "columns": {"columns": "question=answer"},
}


@pytest.fixture(scope="module")
def stopped(tiny_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    workspace = tmp_path_factory.mktemp("drift")
    settings = tiny_settings | {"workspace": workspace, "batch_size": 4, "max_steps": 6, "name": "stopped"}
    return stopped_after(build(settings), 2)


@pytest.fixture
def halfway(stopped: Run, tmp_path: Path) -> Run:
    """A copy of a run that was stopped at step 3."""
    return Run(shutil.copytree(stopped.path, tmp_path / "runs" / "halfway"))


@pytest.mark.parametrize("name", slow_but({"seed", "rank"}, REFUSED))
def test_g19_what_would_make_another_run_is_refused_and_listed(halfway: Run, name: str) -> None:
    values = REFUSED[name]
    before = halfway.config().model_dump()
    change(halfway, **values)
    assert go_on(halfway) == worker.BAD_INPUT
    status = halfway.status()
    assert status.problem.code == "settings-changed"
    for name, value in values.items():
        assert f"{name} {before[name]} → {value}" in status.problem
    assert checkpoints.newest(halfway.checkpoints_path).step == 3
    change(halfway, **{name: before[name] for name in values})
    assert go_on(halfway) == worker.DONE


def test_g19_all_differences_are_listed_at_once(halfway: Run) -> None:
    change(halfway, seed=7, text_lora_r=2)
    assert go_on(halfway) == worker.BAD_INPUT
    assert "seed 0 → 7" in halfway.status().problem
    assert "text_lora_r" in halfway.status().problem


@pytest.mark.parametrize("name", slow_but({"rank"}, ["rank", "targets", "method"]))
def test_g19_an_older_checkpoint_is_compared_by_its_files(halfway: Run, name: str) -> None:
    values = REFUSED[name]
    for manifest in halfway.checkpoints_path.glob("*/manifest.json"):
        known = json.loads(manifest.read_text())
        del known["settings"], known["processes"]
        manifest.write_text(json.dumps(known))
    before = halfway.config().model_dump()
    change(halfway, **values)
    assert go_on(halfway) == worker.BAD_INPUT
    assert halfway.status().problem.code == "settings-changed"
    change(halfway, **{name: before[name] for name in values})
    assert go_on(halfway) == worker.DONE


def test_g19_a_longer_run_is_taken_and_said(halfway: Run) -> None:
    change(halfway, max_steps=8)
    assert go_on(halfway) == worker.DONE
    assert halfway.status().step == 8
    (warning,) = halfway.events({"warning"})
    assert warning["code"] == "length-changed"
    assert "max_steps 6 → 8" in warning["problem"]
    assert "from step 3" in warning["remedy"]


def test_g19_a_run_that_would_end_before_where_it_is_is_refused(halfway: Run) -> None:
    change(halfway, max_steps=2)
    assert go_on(halfway) == worker.BAD_INPUT
    assert halfway.status().problem == "The run has come to step 3, and would now end at step 2."


def test_g19_the_same_step_in_other_passes_is_the_same_run(
    stopped: Run, halfway: Run, tmp_path: Path
) -> None:
    """Dropout draws its numbers pass by pass: the examples are the same, the last digits are not."""
    change(halfway, batch_size=2, gradient_accumulation_steps=2)
    assert go_on(halfway) == worker.DONE
    assert halfway.events({"warning"}) == []
    change(other := Run(shutil.copytree(stopped.path, tmp_path / "runs" / "other")), batch_size=2)
    assert go_on(other) == worker.BAD_INPUT
    assert other.status().problem.code == "other-global-batch"


def test_g19_a_picture_changed_in_place_to_the_same_size_is_another_dataset(
    tiny_config: MakeConfig, scenes: Path, tmp_path: Path
) -> None:
    picture = shutil.copytree(scenes, tmp_path / "mine") / "images" / "0000.png"
    Image.open(picture).convert("RGB").save(picture, compress_level=0)  # any other picture has as many bytes
    run = stopped_after(tiny_config(dataset=str(tmp_path / "mine")), 2)
    size = picture.stat().st_size
    ImageOps.invert(Image.open(picture)).save(picture, compress_level=0)
    assert picture.stat().st_size == size
    assert go_on(run) == worker.BAD_INPUT
    assert run.status().problem == "The dataset has changed since step 3."


@pytest.mark.parametrize("seed", range(6))
def test_g08_broken_rows_are_never_all_that_is_held_out(
    tiny_config: MakeConfig, tmp_path: Path, seed: int
) -> None:
    """24 good rows on 6 pictures and 2 bad ones of their own: each picture's rows are more than the share."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in range(6):
        Image.new("RGB", (40, 40), (40 * name, 90, 200 - 30 * name)).save(folder / f"{name}.png")
    rows = [
        {"file_name": f"{n}.png", "question": f"what {i}?", "answer": str(n)}
        for n in range(6)
        for i in range(4)
    ]
    for name in ("bad1", "bad2"):
        (folder / f"{name}.png").write_bytes(b"no picture")
        rows.append({"file_name": f"{name}.png", "question": "?", "answer": "!"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = tiny_config(dataset=str(folder), skip_bad_rows=True, held_out=0.1, seed=seed)
    report = check_configured(config, say_nothing)
    train, held_out = report.sides(config.held_out, config.seed)
    assert len(train) + len(held_out) == 24
    assert 1 <= len({example.images for example in held_out}) < 6
    assert {example.images for example in held_out}.isdisjoint(example.images for example in train)


def test_g19_rows_that_were_trained_on_are_not_held_out_later(halfway: Run) -> None:
    """An older version held out other rows where broken ones were skipped."""
    data = halfway.events({"data"})[-1]
    fields = {name: value for name, value in data.items() if name not in ("time", "kind")}
    EventLog(halfway.events_path).append("data", **fields | {"held_out": 0, "train": data["train"] + 12})
    assert go_on(halfway) == worker.BAD_INPUT
    assert halfway.status().problem.code == "rows-changed"
