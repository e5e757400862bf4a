"""A stranger's model folder, full of what would run if it were read: it is used, and none of that runs.

Nothing on the way asks another machine either, whatever its configuration names.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support.canaries import PICKLES, Server, pickle_that_makes, source_that_makes
from support.families import FAMILIES
from vlm.inference import Engine
from vlm.models.loading import check_base, load_base
from vlm.settings import ModelSettings

AUTO_MAP = {
    "config.json": {"AutoConfig": "evil.Config", "AutoModelForImageTextToText": "evil.Model"},
    "tokenizer_config.json": {"AutoTokenizer": ["evil.Slow", "evil.Fast"]},
    "processor_config.json": {"AutoProcessor": "evil.Processor"},
    "preprocessor_config.json": {"AutoImageProcessor": "evil.Images", "AutoProcessor": "evil.Processor"},
    "video_preprocessor_config.json": {"AutoVideoProcessor": "evil.Videos"},
    "generation_config.json": {"AutoModelForCausalLM": "evil.Model"},
}
WISHES = {"trust_remote_code": True, "custom_generate": "evil", "attn_implementation": "org/kernel"}


def poisoned(folder: Path, canaries: Path, server: Server) -> Path:
    """The folder with pickles and Python under every name, and configurations that ask for them."""
    canaries.mkdir()
    for name in PICKLES:
        if not (folder / name).exists():
            (folder / name).write_bytes(pickle_that_makes(canaries / name))
    for name in ("evil.py", "modeling_evil.py", "custom_generate/generate.py", "__init__.py", "setup.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(source_that_makes(canaries / name.replace("/", "-")))
    for name, auto_map in AUTO_MAP.items():
        known = json.loads((folder / name).read_text()) if (folder / name).exists() else None
        if known is not None:
            named: dict[str, Any] = {"_name_or_path": server.addresses[0], "auto_map": auto_map}
            (folder / name).write_text(json.dumps(known | WISHES | named))
    return folder


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_nothing_of_a_strangers_model_runs_and_nobody_is_asked(
    family: str, tmp_path: Path, canary_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What these allow elsewhere is not asked for here.
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    monkeypatch.setenv("HF_DATASETS_TRUST_REMOTE_CODE", "1")
    FAMILIES[family](tmp_path / "base")
    folder = poisoned(tmp_path / "base", tmp_path / "canaries", canary_server)
    settings = ModelSettings(model=str(folder), device="cpu")
    check_base(settings)
    load_base(settings)
    engine = Engine()
    answers = [*engine.ask(settings, Image.new("RGB", (56, 56), "red"), "What is it?", [None], 2)]
    assert answers
    assert [*(tmp_path / "canaries").iterdir()] == []
    assert canary_server.connected == []


def test_the_canaries_sing_where_they_are_read(tmp_path: Path, canary_server: Server) -> None:
    """Else the tests that listen for them would prove nothing."""
    import pickle
    import runpy
    import urllib.request

    pickle.loads(pickle_that_makes(tmp_path / "unpickled"))
    (tmp_path / "evil.py").write_bytes(source_that_makes(tmp_path / "imported"))
    runpy.run_path(str(tmp_path / "evil.py"))
    with pytest.raises(OSError, match="redirect"):
        urllib.request.urlopen(canary_server.addresses[0], timeout=10)
    assert {path.name for path in tmp_path.iterdir()} == {"unpickled", "evil.py", "imported"}
    assert canary_server.hits[0] == "GET /x.png"
    assert ("127.0.0.1", canary_server.port) in canary_server.connected
