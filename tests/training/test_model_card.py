"""A run can be repeated, and its adapter's card says from what it came, in lines that run as they stand."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
import yaml

from support.tiny_runs import Setting, finish
from training import TrainingConfig, runs
from training.__main__ import main
from training.model_card import loss_curve, write_card
from training.runs import Run
from training.sharing.card_header import header_of
from vlm import adapters
from vlm.models import hub
from vlm.models.loading import load_base
from vlm.param_counts import TowerCount, TowerCounts

MakeConfig = Callable[..., TrainingConfig]


def card_of(run: Run) -> str:
    return (run.adapter_path / "README.md").read_text()


@pytest.mark.slow
def test_a_runs_config_file_repeats_it_bit_for_bit_and_another_seed_does_not(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    run = finish(tiny_config(use_vision_lora=True, seed=3))
    words = ["run", "--config", str(run.config_path), "--workspace", str(tmp_path / "elsewhere")]
    assert main([*words, "--name", "again"]) == 0
    assert main([*words, "--name", "other", "--seed", "4"]) == 0
    again, other = (runs.find(tmp_path / "elsewhere", name) for name in ("again", "other"))
    files = [each.adapter_path / "adapter_model.safetensors" for each in (run, again, other)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].read_bytes() != files[2].read_bytes()
    assert again.config_path.read_bytes() == run.config_path.read_bytes()


def test_the_cards_two_lines_load_the_adapter_with_plain_peft(
    taught: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    [code] = re.findall(r"```python\n(.*?)```", card_of(taught), re.DOTALL)
    assert len(code.splitlines()) == 2
    monkeypatch.chdir(taught.adapter_path)
    names = {"base_model": load_base(taught.config()).model}
    exec(code, names)
    setting = Setting(taught.config(), cached=False)
    batch = setting.collator(setting.examples)
    ours = adapters.load(load_base(taught.config()).model, taught.adapter_path)
    with torch.no_grad():
        logits = [model.eval()(**batch).logits for model in (names["model"], ours, setting.model)]
    assert torch.equal(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2], atol=0.1)


def test_the_card_tells_data_and_adapter_by_hash_and_settings_counts_curve_and_versions(taught: Run) -> None:
    card = card_of(taught)
    [data] = taught.events({"data"})
    assert re.fullmatch("[0-9a-f]{64}", data["fingerprint"])
    assert f"| dataset, SHA-256 | `{data['fingerprint']}` |" in card
    weights = (taught.adapter_path / "adapter_model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() in card
    assert "| examples | 4 trained on, 0 held out |" in card
    [started] = taught.events({"started"})
    assert f"transformers {started['versions']['transformers']}" in card
    assert f"| text | {started['towers']['text']['trainable']:,} |" in card
    last = taught.events({"step"})[-1]
    table = re.search(r"^\| step \| (.*) \|\n.*\n\| loss \| (.*) \|$", card, re.MULTILINE)
    assert table[1].endswith(f"| {last['step']}")
    assert table[2].endswith(f"| {last['loss']:.3f}")
    told = yaml.safe_load(re.search(r"```yaml\n(.*?)```", card, re.DOTALL)[1])
    written = yaml.safe_load(taught.config_path.read_text())
    assert told.keys() == written.keys()
    assert {name for name in told if told[name] != written[name]} == {"dataset", "model"}


def test_the_card_shows_what_was_watched_before_and_after_and_the_settings_that_were_chosen_first(
    tmp_path: Path,
) -> None:
    asked = {"kind": "sample", "image": "a.png", "references": ["one", "1"], "answer": "one"}
    said = [("how | many?", 0, "two"), ("how | many?", 2, "1 <b>"), ("", 0, "a"), ("", 2, "one")]
    told = [
        asked | {"example_id": str(at // 2), "question": question, "step": step, "prediction": text}
        for at, (question, step, text) in enumerate(said)
    ]
    told += [{"kind": "sample", "example_id": "x", "step": 2, "prediction": "new", **asked, "question": "?"}]
    metrics = {"exact_match": 0.123456, "token_f1": None}
    told += [{"kind": "evaluated", "step": n, "loss": 1.0, "examples": 4, "metrics": metrics} for n in (0, 2)]
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    counts = TowerCounts(TowerCount(1, 2), TowerCount(0, 0), TowerCount(1, 2))
    names = {"model": "org/vision+org/text", "dataset": "org/pets:cats", "name": "pets", "seed": 3}
    write_card(tmp_path / "README.md", TrainingConfig(**names, text_lora_r=4), counts, told, 2)
    card = (tmp_path / "README.md").read_text()
    rows = re.search(r"## Before and after\n\n(.*?)\n\n", card, re.DOTALL)[1].splitlines()[2:]
    assert rows == ["| how many? | one | two ✗ | 1 b ✗ |", "| (caption) | one | a ✗ | one ✓ |"]
    assert "* Not for: …" in card
    block = re.search(r"```yaml\n(.*?)```", card, re.DOTALL)[1]
    assert yaml.safe_load(block)["text_lora_r"] == 4
    chosen = yaml.safe_load(block.partition("# As they are by default:")[0])
    assert chosen == {**{name: names[name] for name in ("model", "dataset", "seed")}, "text_lora_r": 4}
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["base_model"] == ["org/vision", "org/text"]
    assert header["datasets"] == ["org/pets"]
    [result] = header["model-index"][0]["results"]
    [metric] = result["metrics"]
    assert (metric["type"], metric["value"]) == ("exact_match", 0.1235)


@pytest.mark.parametrize(
    ("model", "licence"),
    [
        ("starter", {"license": "apache-2.0"}),
        ("google/gemma-3-4b-it", {"license": "gemma"}),
        ("llava-hf/llava-1.5-7b-hf", {"license": "other", "license_name": "llama-2"}),
        ("someone/else", {}),
    ],
)
def test_the_card_names_the_licence_of_a_base_of_the_catalog(model: str, licence: dict[str, str]) -> None:
    data = header_of(TrainingConfig(model=model, dataset="shapes-vi"), [], None).to_dict()
    assert {key: data[key] for key in ("license", "license_name") if key in data} == licence
    assert data["language"] == "vi"
    assert "model-index" not in data


def test_a_loss_that_was_not_finite_is_said_and_another_steps_blindfold_test_is_not(
    taught: Run, tmp_path: Path
) -> None:
    metrics = {"exact_match": 0.5, "token_f1": 0.5}
    evaluated = [
        {"kind": "evaluated", "step": n, "loss": None, "examples": 4, "metrics": metrics} for n in (0, 2)
    ]
    rates = {"own": 1.0, "blind": 0.0, "own_interval": [0.5, 1.0], "blind_interval": [0.0, 0.5]}
    tested = {
        "kind": "blindfold",
        "step": 2,
        "verdict": "looks",
        "metric": "exact_match",
        "examples": 4,
    } | rates
    told = [*taught.events({"data", "started", "step"}), *evaluated, tested]
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    counts = TowerCounts(TowerCount(1, 2), TowerCount(0, 0), TowerCount(1, 2))
    write_card(tmp_path / "README.md", taught.config(), counts, told, 2)
    card = (tmp_path / "README.md").read_text()
    assert "| not finite |" in card
    assert "Blindfold test" in card
    write_card(tmp_path / "README.md", taught.config(), counts, told, 0)
    assert "Blindfold test" not in (tmp_path / "README.md").read_text()


def test_a_curve_takes_the_last_of_a_step_trained_twice_and_leaves_out_what_is_no_number() -> None:
    steps = [{"step": step, "loss": loss} for step, loss in ((1, 4.0), (2, 9.0), (2, 2.0), (3, None))]
    assert loss_curve(steps).splitlines() == [
        "`█▁` from 4.000 to 2.000",
        "",
        "| step | 1 | 2 |",
        "| --- | --- | --- |",
        "| loss | 4.000 | 2.000 |",
    ]
    long = loss_curve([{"step": step, "loss": 1.0} for step in range(1, 1001)])
    assert long.splitlines()[2] == "| step | 1 | 144 | 286 | 429 | 572 | 715 | 857 | 1000 |"


def test_the_base_is_told_by_its_commit_where_it_is_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--org--base"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    (repository / "snapshots" / ("a" * 40)).mkdir(parents=True)
    (repository / "snapshots" / ("a" * 40) / "config.json").write_text("{}")
    assert hub.commit("org/base", None) == "a" * 40
    assert hub.commit("starter", None) is None
    assert hub.commit("starter+org/base", None) == f"a folder + {'a' * 40}"
