"""python -m training export-adapter and bundle: what they write, prove and refuse."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from support.adapter_folders import CONFIG, WEIGHTS, fresh, logits, saved
from support.untouched import untouched
from training.__main__ import main
from training.commands import exporting
from training.runs import Run
from vlm.filesystem import sha256_of
from vlm.models.where_it_loads import facts_of_settings, where_it_loads
from vlm.settings import AdapterSettings


@pytest.fixture
def workspace(taught: Run, tiny_base: Path, tmp_path: Path) -> Path:
    """A finished run, and two adapters from elsewhere."""
    shutil.copytree(taught.workspace, tmp_path / "ws")
    for method in ("rslora", "dora"):
        saved(method, tiny_base, tmp_path / "ws" / "adapters" / method)
    return tmp_path / "ws"


def test_a_runs_adapter_is_exported_with_its_card_and_answers_as_before(
    workspace: Path, taught: Run, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, place = tmp_path / "out", ["--workspace", str(workspace)]
    assert main(["export-adapter", "demo", str(out), "--for", "servers", "--json", *place]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rank"], told["layers"], told["factored"], told["path"]) == (16, 16, False, str(out))
    assert told["off"] < 1e-5 < 1e-2 < told["effect"]
    assert sorted(path.name for path in out.iterdir()) == ["README.md", CONFIG, WEIGHTS]
    own, plain = (PeftModel.from_pretrained(fresh(tiny_base), at).eval() for at in (taught.adapter_path, out))
    torch.testing.assert_close(logits(plain), logits(own), rtol=0, atol=1e-5)
    card = (out / "README.md").read_text("utf-8")
    assert card.count("library_name: peft") == 1
    assert "# demo, for servers" in card
    assert sha256_of(out / WEIGHTS) in card
    assert sha256_of(taught.adapter_path / WEIGHTS) in card
    assert f"{told['off']:.1e}" in card
    assert "## Training loss" in card, "the run's own card is below"
    assert "| vLLM | does not load: nothing but this project" in card.split("## Where it loads")[1]
    assert told["where_it_loads"][0] == {
        **{"runtime": "LoRA Lens", "verdict": "loads", "because": "", "remedy": "", "source": "tried"}
    }
    assert str(tmp_path) not in card


def test_an_adapter_from_elsewhere_is_exported_for_the_base_that_is_named(
    workspace: Path, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, place = tmp_path / "deep" / "out", ["--workspace", str(workspace)]
    (workspace / "adapters" / "rslora" / "README.md").write_text("somebody's words", encoding="utf-8")
    assert main(["export-adapter", "rslora", str(out), *place]) == 2
    assert "Name it: --model tiny" in capsys.readouterr().err
    assert not out.parent.exists()
    assert main(["export-adapter", "rslora", str(out), "--model", str(tiny_base), *place]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"rslora is a plain LoRA of rank 4 in {out}, ")
    assert "loaded anew in plain PEFT: logits off by " in said
    card = (out / "README.md").read_text("utf-8")
    assert "somebody's words" not in card
    assert "an rsLoRA" not in card
    assert "a rsLoRA: each layer's scale is multiplied" in card


def test_what_is_refused_leaves_nothing_behind(
    workspace: Path, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, model = tmp_path / "out", ["--model", str(tiny_base), "--workspace", str(workspace)]
    with untouched(workspace):
        assert main(["export-adapter", "dora", str(out), *model]) == 2
        assert "dora can't be a plain LoRA: a DoRA divides" in capsys.readouterr().err
        assert main(["export-adapter", "demo", str(out), "--for", "ollama", *model]) == 2
        assert "--for: adapters are exported for servers, not for 'ollama'." in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["ws"]
    out.mkdir()
    assert main(["export-adapter", "demo", str(out), *model]) == 2
    assert f"{out} is there already." in capsys.readouterr().err
    assert [*out.iterdir()] == []


def test_a_bundle_has_the_adapters_of_one_base_and_a_manifest(
    workspace: Path, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, place = tmp_path / "set", ["--model", str(tiny_base), "--workspace", str(workspace)]
    assert main(["bundle", "demo", "rslora", str(out), *place]) == 0
    said = capsys.readouterr().out
    assert "demo is a plain LoRA of rank 16 in " in said
    assert "rslora is a plain LoRA of rank 4 in " in said
    assert "vllm serve" not in said, "its base is composed"
    manifest = json.loads((out / "bundle.json").read_text("utf-8"))
    assert manifest["base"] == "tiny"
    assert [(one["name"], one["path"]) for one in manifest["adapters"]] == [
        ("demo", "adapters/demo"),
        ("rslora", "adapters/rslora"),
    ]
    assert str(tmp_path) not in (out / "bundle.json").read_text("utf-8")
    base = fresh(tiny_base)
    for one in manifest["adapters"]:
        base.load_adapter(str(out / one["path"]), adapter_name=one["name"])
        assert (out / one["path"] / "README.md").is_file()
    base.set_adapter("rslora")
    plain = PeftModel.from_pretrained(fresh(tiny_base), out / "adapters" / "rslora").eval()
    torch.testing.assert_close(logits(base.eval()), logits(plain), rtol=0, atol=1e-5)


def test_what_starts_a_bundle_names_every_adapter_with_the_flags_that_they_need() -> None:
    def exported(name: str, rank: int, **settings: object) -> dict:
        facts = facts_of_settings(AdapterSettings(**settings), "qwen2_5_vl")
        loads = [verdict.as_dict() for verdict in where_it_loads(facts)]
        return {"path": f"adapters/{name}", "rank": rank, "where_it_loads": loads}

    text = exported("a", 12)
    both = exported("b", 16, use_vision_lora=True, vision_lora_r=16)
    assert exporting.start_lines("org/qwen", [text, both]) == {
        "vLLM": "vllm serve org/qwen --enable-lora --max-lora-rank 16 --enable-tower-connector-lora "
        "--lora-modules a=adapters/a b=adapters/b",
        "SGLang": "python -m sglang.launch_server --model-path org/qwen --enable-lora "
        "--lora-paths a=adapters/a b=adapters/b",
    }
    # vLLM takes some ranks alone: an AdaLoRA of 24 needs the next of them.
    assert "--max-lora-rank 32 " in exporting.start_lines("org/qwen", [exported("d", 24)])["vLLM"]
    assert "tower" not in exporting.start_lines("org/qwen", [text])["vLLM"]
    assert exporting.start_lines("org/qwen", [text, exported("c", 8, method="dora")]) == {}


def test_a_bundle_of_nothing_or_of_several_bases_is_refused(
    workspace: Path, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--workspace", str(workspace)]
    assert main(["bundle", str(tmp_path / "set"), *place]) == 2
    assert "A bundle takes adapters and the folder to write them to" in capsys.readouterr().err
    other = workspace / "runs" / "other"
    shutil.copytree(workspace / "runs" / "demo", other)
    config = (other / "config.yaml").read_text("utf-8")
    (other / "config.yaml").write_text(config.replace(str(tiny_base), "starter"), encoding="utf-8")
    assert main(["bundle", "demo", "other", str(tmp_path / "set"), *place]) == 2
    assert f"These adapters are of several bases: {tiny_base}, starter." in capsys.readouterr().err
    assert not (tmp_path / "set").exists()
