"""Base models from the Hub: the real client in a child process, against a stub Hub on this machine."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from support.canaries import PICKLES
from support.composed_towers import make_text, make_vision
from support.hub_client import Client
from support.stub_hub import TOKEN, Repo, StubHub, serving
from support.untouched import untouched


@pytest.fixture(scope="module")
def hub() -> Iterator[StubHub]:
    with serving() as hub:
        yield hub


@pytest.fixture(scope="module")
def online(hub: StubHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    client = Client(hub.endpoint, tmp_path_factory.mktemp("home"))
    yield client
    client.close()


@pytest.fixture
def tiny(tiny_base: Path) -> dict[str, bytes]:
    """The files of a whole model, to be changed."""
    return {path.name: path.read_bytes() for path in tiny_base.iterdir()}


def asked(hub: StubHub, name: str) -> list[str]:
    """What was asked of a repository since the last time."""
    found = [line for line in hub.requests if f"/{name}" in line]
    hub.requests.clear()
    return found


def weights_of(requests: list[str]) -> list[str]:
    return [
        line for line in requests if line.startswith("GET") and ".safetensors" in line and "index" not in line
    ]


@pytest.mark.slow
def test_a_model_is_downloaded_loaded_and_the_second_time_the_hub_is_not_asked(
    hub: StubHub, online: Client, tiny: dict[str, bytes]
) -> None:
    junk = {"run.py": b"1/0", "original/big.safetensors": b"y", "a.gguf": b"z"} | dict.fromkeys(PICKLES, b"x")
    licences = {"LICENSE": b"free", "legal/NOTICE.txt": b"of a part"}
    weights = {"consolidated.safetensors": b"w", "model.fp16.safetensors": b"v"}
    hub.add("org/tiny", tiny | junk | weights | licences)
    first = online.ask("load", settings={"model": "org/tiny"})
    assert first["loaded"] == "ComposedForConditionalGeneration"
    requests = asked(hub, "org/tiny")
    assert weights_of(requests) == [
        line for line in requests if line.endswith("/model.safetensors") and "GET" in line
    ]
    assert len(weights_of(requests)) == 1
    size = len(tiny["model.safetensors"]) / 1e6
    assert f"Downloading org/tiny: 1 files, {size:.1f} MB." in first["log"]
    folder = Path(online.fetch("org/tiny")["folder"])
    assert {path.name for path in folder.iterdir()} == {*tiny, "LICENSE"}
    again = online.ask("load", settings={"model": "org/tiny"})
    assert again["loaded"]
    assert asked(hub, "org/tiny") == []
    assert not any("Downloading" in line for line in again["log"])


def test_the_configuration_alone_needs_no_weights(
    hub: StubHub, online: Client, tiny: dict[str, bytes]
) -> None:
    hub.add("org/configured", tiny)
    assert online.ask("config", model="org/configured")["model_type"] == "composed"
    requests = asked(hub, "org/configured")
    assert {line.rpartition("/")[2] for line in requests if "resolve" in line} == {"config.json"}


def test_a_revision_is_what_is_loaded(hub: StubHub, online: Client, tiny: dict[str, bytes]) -> None:
    hub.repos["org/branched"] = Repo({"main": {"config.json": b"{}"}, "tested": tiny})
    assert "folder" in online.fetch("org/branched", "tested")
    assert "problem" in online.fetch("org/branched")
    missing = online.fetch("org/branched", "nowhere")
    assert missing["problem"] == "org/branched has no revision nowhere."
    assert "--revision" in missing["remedy"]


REFUSED = {
    "95: gguf": ({"model.gguf": b""}, "GGUF", "original model"),
    "95: lora": (
        {"adapter_config.json": b'{"base_model_name_or_path": "org/big"}'},
        "is an adapter",
        "org/big",
    ),
    "95: pipeline": ({"model_index.json": b"{}"}, "makes images", "vision-language"),
    "95: bare": ({"README.md": b""}, "no config.json", "transformers' format"),
    "96: pickled": (
        {"config.json": b"{}", "pytorch_model.bin": b""},
        "a pickle, which may run code",
        "convert",
    ),
    "97: code": ('{"model_type": "new", "auto_map": {"AutoConfig": "m.C"}}', "code of its own", "-hf"),
    "95: newer": ('{"model_type": "vlm9"}', "does not know", "pip install --upgrade transformers"),
    "95: text": ('{"model_type": "llama"}', "does not answer about images", "vision-language"),
    "95: seq2seq": (
        '{"model_type": "mbart"}',
        "does not answer about images",
        "facebook/dinov2-base+org/seq2seq",
    ),
    "95: encoder": ('{"model_type": "dinov2"}', "does not answer about images", "org/encoder+vinai/bartpho"),
    "95: robot": ('{"model_type": "pi0"}', "movements of a robot", "another"),
    "95: gptq": ('{"model_type": "llava", "quantization_config": {"quant_method": "gptq"}}', "gptq", "4bit"),
    "95: broken": ("{", "no configuration that can be read", "config.json"),
}


def checks(online: Client, model: str, dataset: Path, workspace: Path) -> list[str]:
    """What `check` with a base says of it; it ends with 2, and leaves dataset and workspace as they were."""
    words = [str(dataset), "--model", model, "--workspace", str(workspace)]
    with untouched(dataset, workspace):
        answer = online.ask("check", words=words)
    assert answer["code"] == 2
    return answer["told"][-2:]


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_done_is_refused_before_a_weight_is_fetched(
    case: str, hub: StubHub, online: Client, pictures: Path, tmp_path: Path
) -> None:
    files, problem, remedy = REFUSED[case]
    model = f"org/{case.partition(': ')[2]}"
    if isinstance(files, str):
        files = {"config.json": files.encode(), "model.safetensors": b"0" * 1000}
    hub.add(model, files)
    refusal = online.fetch(model)
    assert refusal["problem"].startswith(f"{model} ")
    assert problem in refusal["problem"]
    assert remedy in refusal["remedy"]
    assert checks(online, model, pictures, tmp_path) == [refusal["problem"], refusal["remedy"]]
    assert weights_of(asked(hub, model)) == []


def test_row_93_to_95_what_is_not_there_private_gated_or_a_dataset_says_so(
    hub: StubHub, online: Client, tiny: dict[str, bytes], pictures: Path, tmp_path: Path
) -> None:
    hub.add("org/rows", {"data.csv": b""}, kind="datasets")
    hub.add("org/secret", tiny, private=True)
    hub.add("org/gated", tiny, gated=True)
    for name in ("org/typo", "org/secret"):
        refusal = online.fetch(name)
        assert refusal["problem"].startswith(f"{name} was not found on the Hub, or it is private")
        assert "spelling" in refusal["remedy"]
        assert "HF_TOKEN" in refusal["remedy"]
        assert checks(online, name, pictures, tmp_path) == [refusal["problem"], refusal["remedy"]]
    rows = online.fetch("org/rows")
    assert rows["problem"] == "org/rows is a dataset, not a model."
    assert checks(online, "org/rows", pictures, tmp_path) == [rows["problem"], rows["remedy"]]
    gated = online.fetch("org/gated")
    assert checks(online, "org/gated", pictures, tmp_path) == [gated["problem"], gated["remedy"]]
    assert gated["problem"].startswith("org/gated is gated")
    assert f"{hub.endpoint}/org/gated" in gated["remedy"]
    assert "HF_TOKEN" in gated["remedy"]
    assert "refuses the token" in online.fetch("org/gated", HF_TOKEN="hf_wrong")["problem"]
    assert "folder" in online.fetch("org/gated", HF_TOKEN=TOKEN)
    assert "folder" in online.fetch("org/secret", HF_TOKEN=TOKEN)


def test_a_hub_that_is_down_is_named_with_its_answer(hub: StubHub, online: Client) -> None:
    hub.status = 503
    try:
        refusal = online.fetch("org/later")
    finally:
        hub.status = 200
    assert refusal["problem"] == "The Hub answered 503 when asked for org/later."
    assert refusal["seconds"] < 10


def test_a_download_that_breaks_off_goes_on_where_it_stopped(
    hub: StubHub, online: Client, tiny: dict[str, bytes]
) -> None:
    hub.add("org/cut", tiny)
    hub.cut["model.safetensors"] = 50_000
    folder = Path(online.fetch("org/cut")["folder"])
    assert (folder / "model.safetensors").read_bytes() == tiny["model.safetensors"]
    requests = weights_of(asked(hub, "org/cut"))
    assert len(requests) == 2
    assert requests[1].endswith("from 50000")


def test_g24_weights_that_arrive_damaged_are_refused_and_the_next_start_fetches_them_anew(
    hub: StubHub, online: Client, tiny: dict[str, bytes]
) -> None:
    """As many bytes as there should be, one bit of them turned."""
    hub.add("org/turned", tiny)
    hub.damaged.add("model.safetensors")
    refusal = online.fetch("org/turned")
    hub.damaged.clear()
    assert refusal["problem"].startswith("model.safetensors of org/turned arrived damaged")
    assert refusal["remedy"] == "Start again: that file alone is downloaded anew."
    asked(hub, "org/turned")
    folder = Path(online.fetch("org/turned")["folder"])
    assert (folder / "model.safetensors").read_bytes() == tiny["model.safetensors"]
    fetched = [line for line in asked(hub, "org/turned") if line.startswith("GET") and "/resolve/" in line]
    assert [line.rpartition("/")[2] for line in fetched] == ["model.safetensors"]


@pytest.mark.slow
def test_files_that_came_before_the_process_died_are_not_fetched_again(
    hub: StubHub, tiny: dict[str, bytes], tmp_path: Path
) -> None:
    files = sharded(tiny, tmp_path)
    shards = sorted(name for name in files if name.startswith("model-"))
    hub.add("org/killed", files)
    hub.held[shards[0]] = Event()
    home = tmp_path / "home"
    killed = Client(hub.endpoint, home)
    killed.send("folder", model="org/killed")
    deadline = time.monotonic() + 60
    while len(list(home.glob("hub/models--org--killed/snapshots/*/model-*"))) < len(shards) - 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    killed.process.kill()
    killed.process.wait()
    hub.held.pop(shards[0]).set()
    asked(hub, "org/killed")
    client = Client(hub.endpoint, home)
    assert "folder" in client.fetch("org/killed")
    client.close()
    assert [line.rpartition("/")[2] for line in weights_of(asked(hub, "org/killed"))] == [shards[0]]


def sharded(tiny: dict[str, bytes], folder: Path) -> dict[str, bytes]:
    """The same model with its weights in several files."""
    from transformers import AutoModelForImageTextToText

    import vlm.composed  # noqa: F401

    for name, content in tiny.items():
        folder.joinpath(name).write_bytes(content)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    model.save_pretrained(folder / "shards", max_shard_size="100KB")
    shards = {path.name: path.read_bytes() for path in (folder / "shards").iterdir()}
    return {name: tiny[name] for name in tiny if name != "model.safetensors"} | shards


def test_shards_are_fetched_by_the_index_and_a_damaged_one_is_named(
    hub: StubHub, online: Client, tiny: dict[str, bytes], tmp_path: Path
) -> None:
    files = sharded(tiny, tmp_path)
    shards = sorted(name for name in files if name.startswith("model-"))
    assert len(shards) > 2
    hub.add("org/shards", files)
    assert online.ask("load", settings={"model": "org/shards"})["loaded"]
    folder = Path(online.fetch("org/shards")["folder"])
    os.truncate((folder / shards[1]).resolve(), 1000)
    damaged = online.fetch("org/shards")
    assert damaged["problem"].startswith(f"{shards[1]} is damaged")
    assert damaged["remedy"] == "Download it again: hf download org/shards --force-download"
    asked(hub, "org/shards")
    (folder / shards[1]).resolve().unlink()
    (folder / shards[1]).unlink()
    assert "folder" in online.fetch("org/shards")
    assert [line.rpartition("/")[2] for line in weights_of(asked(hub, "org/shards"))] == [shards[1]]


def test_a_shard_that_the_hub_lacks_is_named(
    hub: StubHub, online: Client, tiny: dict[str, bytes], tmp_path: Path
) -> None:
    files = sharded(tiny, tmp_path)
    gone = sorted(name for name in files if name.startswith("model-"))[-1]
    del files[gone]
    hub.add("org/short", files)
    assert online.fetch("org/short")["problem"] == f"{gone} is missing, a part of the model's weights."


def test_pickles_alone_give_way_to_the_hubs_own_conversion(
    hub: StubHub, online: Client, tiny: dict[str, bytes]
) -> None:
    pickled = {name: content for name, content in tiny.items() if name != "model.safetensors"}
    pickled["pytorch_model.bin"] = b"pickle"
    hub.repos["org/old"] = Repo({"main": pickled, "refs/pr/4": tiny | pickled})
    answer = online.ask("load", settings={"model": "org/old"})
    assert answer["loaded"]
    assert any("refs/pr/4" in line for line in answer["log"])
    assert not any("pytorch_model.bin" in line for line in asked(hub, "org/old"))
    assert online.ask("load", settings={"model": "org/old"})["loaded"]
    assert asked(hub, "org/old") == []


@pytest.mark.slow
def test_without_a_network_what_is_here_loads_and_the_rest_is_refused_at_once(
    hub: StubHub, online: Client, tiny: dict[str, bytes], tmp_path: Path
) -> None:
    hub.add("org/kept", tiny)
    hub.add("org/begun", tiny)
    assert "folder" in online.fetch("org/kept")
    assert online.ask("config", model="org/begun")["model_type"] == "composed"
    shutil.copytree(online.cache, tmp_path / "hub", symlinks=True)
    # Nothing listens on port 1.
    for values in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:1"}):
        client = Client(hub.endpoint, tmp_path, **values)
        asked(hub, "org/kept")
        assert "folder" in client.fetch("org/kept")
        for name in ("org/begun", "org/other"):
            refusal = client.fetch(name)
            wanted = "HF_HUB_OFFLINE forbids" if "HF_HUB_OFFLINE" in values else "can't be reached"
            assert wanted in refusal["problem"]
            assert name in refusal["problem"]
            assert refusal["seconds"] < 5
        assert hub.requests == []
        client.close()


def test_a_composed_model_comes_from_two_repositories_with_all_their_small_files(
    hub: StubHub, online: Client, tmp_path: Path
) -> None:
    vision = make_vision("dinov2", tmp_path / "dinov2")
    text = make_text("bartpho-syllable", tmp_path / "bartpho")
    hub.add("org/dino", vision)
    hub.add("org/bartpho", text)
    assert online.ask("config", model="org/dino+org/bartpho")["model_type"] == "composed"
    assert weights_of(asked(hub, "org/")) == []
    answer = online.ask("load", settings={"model": "org/dino+org/bartpho"})
    assert answer["loaded"] == "ComposedForConditionalGeneration"
    assert len(weights_of(asked(hub, "org/"))) == 2
    for name, folder in (("dino", vision), ("bartpho", text)):
        (found,) = online.cache.glob(f"models--org--{name}/snapshots/*")
        assert {path.name for path in found.iterdir()} == {path.name for path in folder.iterdir()}
    assert online.ask("load", settings={"model": "org/dino+org/bartpho"})["loaded"]
    assert asked(hub, "org/") == []
    assert "not an image encoder" in online.ask("config", model="org/bartpho+org/dino")["problem"]
