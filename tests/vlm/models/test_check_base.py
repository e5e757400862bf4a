"""What a run would refuse of a base is refused by the check too, from headers: no weight is read."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from support.families import FAMILIES
from support.slow import slow_but
from support.untouched import untouched
from training.__main__ import main
from vlm.errors import UserError
from vlm.models.loading import check_base, load_base
from vlm.settings import ModelSettings

WEIGHTS = "model.safetensors"


def announce(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= values
    (folder / "config.json").write_text(json.dumps(config))


def split_in_two(folder: Path) -> None:
    """An index of two shards of which one is missing."""
    (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "96: pickles alone": (lambda folder: (folder / WEIGHTS).rename(folder / "pytorch_model.bin"), "pickle"),
    "98: cut short": (lambda folder: os.truncate(folder / WEIGHTS, 9000), "damaged"),
    "98: a shard is missing": (split_in_two, "model-00002-of-00002.safetensors is missing"),
    "99: 3,000 layers": (
        lambda folder: announce(folder, num_hidden_layers=3000),
        "lacks most of its layers",
    ),  # before they are built
    "96: no weights": (lambda folder: (folder / WEIGHTS).unlink(), "no safetensors"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "base"
    FAMILIES["llava"](folder)
    return folder


@pytest.mark.parametrize("broken", slow_but({"cut short", "3,000 layers"}, BROKEN))
def test_the_check_refuses_what_a_run_refuses(
    whole: Path, tmp_path: Path, broken: str, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    breaks, words = BROKEN[broken]
    folder = shutil.copytree(whole, tmp_path / "base")
    breaks(folder)
    with pytest.raises(UserError, match=words) as refusal:
        check_base(ModelSettings(model=str(folder)))
    with pytest.raises(UserError) as refused:
        load_base(ModelSettings(model=str(folder), device="cpu"))
    assert refused.value.code == refusal.value.code
    (tmp_path / "workspace").mkdir()
    words = ["check", str(pictures), "--model", str(folder), "--workspace", str(tmp_path / "workspace")]
    with untouched(tmp_path, pictures):
        assert main(words) == 2
    assert capsys.readouterr().err.splitlines()[-2:] == [refusal.value.problem, refusal.value.remedy]


def test_a_whole_base_passes_and_code_of_its_own_is_never_asked_for(whole: Path, tmp_path: Path) -> None:
    """`auto_map` on a type that transformers knows is passed over, by the check as by the run."""
    folder = shutil.copytree(whole, tmp_path / "base")
    check_base(ModelSettings(model=str(folder)))
    for name in ("config.json", "tokenizer_config.json"):
        known = json.loads((folder / name).read_text())
        known["auto_map"] = {"AutoConfig": "mine.Config", "AutoTokenizer": ["mine.Slow", "mine.Fast"]}
        (folder / name).write_text(json.dumps(known))
    check_base(ModelSettings(model=str(folder)))
    load_base(ModelSettings(model=str(folder), device="cpu"))
