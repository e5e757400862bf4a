"""An adapter goes to the Hub and comes back through the real client: what is asked first, and what breaks."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from support.stub_hub import TOKEN, StubHub
from support.stub_jobs import USER, Jobs
from training.__main__ import main
from training.runs import Run
from training.sharing import account, pull
from ui import adapters as page_adapters

NAME = f"{USER}/pets"
FILES = {"README.md", "adapter_config.json", "adapter_model.safetensors"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "PAUSES_S", (0.0, 0.0))


@pytest.fixture
def workspace(taught: Run, tmp_path: Path) -> Path:
    """A copy of the taught run's workspace, which is also the shell's own."""
    shutil.copytree(taught.workspace, tmp_path / "workspace")
    return tmp_path / "workspace"


@pytest.fixture
def hub(platform: tuple[StubHub, Jobs]) -> StubHub:
    return platform[0]


def header_of(card: bytes) -> dict:
    return yaml.safe_load(card.decode().split("---\n")[1])


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main([*words]) == 2
    return capsys.readouterr().err


def test_a_push_is_private_and_brings_weights_configuration_and_card_alone(
    workspace: Path, hub: StubHub, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = workspace / "runs" / "demo" / "adapter"
    (adapter / "notes.txt").write_text("private")
    (adapter / "optimizer.pt").write_bytes(b"pickle")
    (adapter / "README.md").open("a").write("\nOnly for pets, says its owner.\n")
    assert main(["push", "demo", NAME, "--language", "vi, en"]) == 0
    assert f"{NAME}/commit/" in capsys.readouterr().out
    repo = hub.repos[NAME]
    assert repo.private
    files = repo.branches["main"]
    assert files.keys() == FILES
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert files[name] == (adapter / name).read_bytes()
    assert b"Only for pets, says its owner." in files["README.md"]
    header = header_of(files["README.md"])
    assert header["language"] == ["vi", "en"]
    assert header["pipeline_tag"] == "image-text-to-text"
    assert header["library_name"] == "peft"
    assert "base_model" not in header, "the base is a folder of this machine"
    assert TOKEN not in json.dumps([content.decode("latin-1") for content in files.values()])


def test_a_push_says_public_and_pictures_only_when_that_is_typed(evaluated: Run, hub: StubHub) -> None:
    place = ["--workspace", str(evaluated.workspace)]
    assert main(["push", evaluated.name, NAME, "--public", "--with_pictures", *place]) == 0
    repo = hub.repos[NAME]
    assert not repo.private
    files = repo.branches["main"]
    assert files.keys() == {*FILES, "before-after.png"}
    assert files["before-after.png"].startswith(b"\x89PNG")
    card = files["README.md"].decode()
    assert "](before-after.png)" in card
    [model] = header_of(files["README.md"])["model-index"]
    told = {one["type"]: one["value"] for result in model["results"] for one in result["metrics"]}
    after = [event for event in evaluated.events({"evaluated"}) if event["step"] > 0][-1]
    assert told["exact_match"] == round(after["metrics"]["exact_match"], 4)


def test_a_run_without_answers_of_before_and_after_has_no_pictures_to_send(
    workspace: Path, hub: StubHub, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, "push", "demo", NAME, "--with_pictures")
    assert "demo has no answers from before and after training." in said
    elsewhere = workspace / "adapters" / "mine"
    shutil.copytree(workspace / "runs" / "demo" / "adapter", elsewhere)
    said = refused(capsys, "push", str(elsewhere), NAME, "--with_pictures")
    assert "Only of a run's own adapter" in said
    assert hub.repos == {}


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["demo", "pets"], f"Write it as owner/name: {USER}/pets"),
        (["demo", "someone/pets"], f"The token is {USER}'s, who can't write for someone."),
        (["demo", NAME, "--language", "Vietnamese!"], "--language: Vietnamese! is no language's code."),
    ],
)
def test_a_push_that_may_not_be_is_refused_before_anything_is_sent(
    workspace: Path, hub: StubHub, capsys: pytest.CaptureFixture[str], words: list[str], problem: str
) -> None:
    assert problem in refused(capsys, "push", *words)
    assert hub.repos == {}
    assert not [line for line in hub.requests if line.startswith(("POST", "PUT"))]


def test_a_token_that_may_only_read_and_none_at_all_are_told(
    workspace: Path,
    platform: tuple[StubHub, Jobs],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    platform[1].role = "read"
    assert f"The token of {USER} may only read." in refused(capsys, "push", "demo", NAME)
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(workspace / "no-token"))
    assert "The Hub needs a token for this, and there is none." in refused(capsys, "push", "demo", NAME)


def test_a_repository_that_is_there_is_not_shown_to_more_people_nor_overwritten(
    workspace: Path, hub: StubHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add(NAME, {"adapter_config.json": b"{}"})
    assert "is there already, and everybody sees it" in refused(capsys, "push", "demo", NAME)
    assert main(["push", "demo", NAME, "--public"]) == 0
    hub.repos[NAME].private = True
    assert "is there already, and private" in refused(capsys, "push", "demo", NAME, "--public")
    hub.add(NAME, {"config.json": b"{}", "model.safetensors": b"x"}, private=True)
    assert "holds something else than an adapter: config.json" in refused(capsys, "push", "demo", NAME)
    assert hub.repos[NAME].branches["main"].keys() == {"config.json", "model.safetensors"}


@pytest.mark.parametrize("status", [0, 503])
def test_g24_a_push_goes_on_where_the_network_broke_off_and_sends_no_large_file_twice(
    workspace: Path, platform: tuple[StubHub, Jobs], status: int
) -> None:
    hub, jobs = platform
    jobs.refusals = [status, status]
    assert main(["push", "demo", NAME]) == 0
    assert hub.repos[NAME].branches["main"].keys() == FILES
    assert len([line for line in hub.requests if line.startswith("PUT /lfs/")]) == 1


def test_g24_a_push_that_fails_for_good_leaves_no_repository_and_the_same_command_sends_it_later(
    workspace: Path, platform: tuple[StubHub, Jobs], capsys: pytest.CaptureFixture[str]
) -> None:
    hub, jobs = platform
    jobs.refusals = [0] * 9
    assert "The Hub can't be reached" in refused(capsys, "push", "demo", NAME)
    assert hub.repos == {}
    jobs.refusals, jobs.broken = [], [403]
    jobs.objects.clear()
    assert "Give the token write access" in refused(capsys, "push", "demo", NAME)
    assert hub.repos == {}
    assert main(["push", "demo", NAME]) == 0
    assert hub.repos[NAME].branches["main"].keys() == FILES


def test_g24_without_a_network_nothing_is_sent(
    workspace: Path, hub: StubHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set, and this needs the Hub." in refused(capsys, "push", "demo", NAME)


def test_what_was_pushed_comes_back_into_another_workspace_and_is_found_there(
    workspace: Path, hub: StubHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", "demo", NAME]) == 0
    other = tmp_path / "other"
    capsys.readouterr()
    assert main(["pull", NAME, "--json", "--workspace", str(other)]) == 0
    told = json.loads(capsys.readouterr().out)
    folder = other / "adapters" / f"{USER}--pets"
    assert told["path"] == str(folder)
    mine = workspace / "runs" / "demo" / "adapter"
    assert (folder / "adapter_model.safetensors").read_bytes() == (
        mine / "adapter_model.safetensors"
    ).read_bytes()
    assert json.loads((folder / pull.ORIGIN_FILE).read_text()) == {
        "repository": NAME,
        "commit": told["commit"],
    }
    assert {path.name for path in folder.iterdir()} == {*FILES, pull.ORIGIN_FILE}
    base = yaml.safe_load((workspace / "runs" / "demo" / "config.yaml").read_text())["model"]
    words = ["inspect", folder.name, "--model", base, "--workspace", str(other)]
    assert main(words) == 0
    assert "32 of 32 tensors match" in capsys.readouterr().out
    assert [each.name for each in page_adapters.available(other)] == [folder.name]

    before = len(hub.requests)
    assert main(["pull", f"{NAME}@main", "--workspace", str(other)]) == 0
    assert [path.name for path in (other / "adapters").iterdir()] == [folder.name]
    assert not [line for line in hub.requests[before:] if "/resolve/" in line], "nothing is fetched twice"


def test_a_pull_takes_nothing_but_safetensors_json_and_the_card_of_one_commit(
    taught: Run, hub: StubHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {path.name: path.read_bytes() for path in taught.adapter_path.iterdir()}
    extra = {"evil.py": b"1", "adapter_model.bin": b"pickle", "sub/more.json": b"{}", pull.ORIGIN_FILE: b"{}"}
    hub.add("someone/pets", files | extra)
    hub.repos["someone/pets"].branches["old"] = files | {"extra.json": b"{}"}
    place = ["--workspace", str(tmp_path)]
    assert main(["pull", "someone/pets", *place]) == 0
    assert main(["pull", "someone/pets@old", *place]) == 0
    first, second = sorted((tmp_path / "adapters").iterdir())
    assert {path.name for path in first.iterdir()} == {*FILES, pull.ORIGIN_FILE}
    assert {path.name for path in second.iterdir()} == {*FILES, "extra.json", pull.ORIGIN_FILE}
    assert second.name == "someone--pets-2"


# The Hub's client itself tries a cut download again for 15 seconds.
FAULTS = [pytest.param("cut", marks=pytest.mark.slow), "damaged", "answers", "torn", "none"]


@pytest.mark.parametrize("fault", FAULTS)
def test_g24_of_a_pull_that_breaks_nothing_is_left(
    taught: Run, hub: StubHub, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    weights = "adapter_model.safetensors"
    files = {path.name: path.read_bytes() for path in taught.adapter_path.iterdir()}
    hub.add("someone/pets", files)
    if fault == "cut":
        hub.dead.add(weights)
    elif fault == "damaged":
        hub.damaged.add(weights)
    elif fault == "answers":
        hub.answers[weights] = 403
    elif fault == "torn":
        hub.add("someone/pets", files | {weights: b"torn"})
    else:
        hub.add("someone/pets", {"README.md": b"# nothing"})
    words = ["pull", "someone/pets", "--workspace", str(tmp_path)]
    said = refused(capsys, *words)
    wanted = {
        "damaged": "arrived damaged",
        "torn": f"someone--pets has no readable {weights}.",
        "none": "someone/pets has no adapter",
    }
    assert wanted.get(fault, "someone/pets") in said
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    for faults in (hub.dead, hub.damaged, hub.answers):
        faults.clear()
    hub.add("someone/pets", files)
    assert main(words) == 0


def test_what_is_no_name_on_the_hub_is_told(
    hub: StubHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "../x is no adapter on the Hub." in refused(capsys, "pull", "../x", "--workspace", str(tmp_path))
    said = refused(capsys, "pull", "someone/nothing", "--workspace", str(tmp_path))
    assert "someone/nothing was not found on the Hub" in said
