"""python -m training export-adapter: what it writes, proves and refuses."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from support.adapter_folders import CONFIG, WEIGHTS, fresh, logits, saved
from support.untouched import untouched
from training.__main__ import main
from training.runs import Run
from vlm.filesystem import sha256_of


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
