"""Words of a shell that lead out of the workspace, or ask for a repository's code: all refused."""

import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from support.canaries import source_that_makes
from support.untouched import untouched
from training import runs
from training.__main__ import COMMANDS, main
from training.commands.flags import CommandLine
from training.config import build, run_name
from training.config.columns import ColumnMapping
from training.data.open import open_dataset
from training.data.safe_paths import DatasetFolder
from training.data.splits import parse_part
from training.runs.events import EventLog
from vlm.errors import UserError

OF_A_RUN = (
    *("stop {name}", "resume {name}", "resume {name} --background", "retry {name}", "show {name} --log"),
    *("show {name} --json", "rename {name} x", "rename demo {name}", "note {name} words", "delete {name}"),
    *("restore {name}", "duplicate {name}", "duplicate demo --name {name}", "queue --move {name}"),
    *("run --name {name}", "start --name {name}", "submit --name {name}", "run --folder {name}"),
)
OUTSIDE = "../../victim/runs/theirs"
NAMES = (
    *(OUTSIDE, "..", ".", "", "/", "runs/../../victim", "demo/../../../victim", "..\\..\\victim", "demo/."),
    *("demo\0", "demo\n", "~", "%2e%2e", "\ud800", "demo/checkpoints", ".trash", "C:demo"),
)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with a run, and another beside it, whose run is a stranger's."""
    for place, name in (("workspace", "demo"), ("victim", "theirs")):
        run = runs.prepare(build({"workspace": tmp_path / place, "name": name}))
        EventLog(run.events_path).append("stopped", step=1, elapsed_s=1.0)
    monkeypatch.setenv("LORA_LENS_WORKSPACE", str(tmp_path / "workspace"))
    return tmp_path / "workspace"


@pytest.mark.slow
def test_every_command_of_a_run_refuses_a_name_that_leads_out(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (workspace / "runs" / OUTSIDE).resolve().is_dir(), "a command that followed it would find a run"
    with untouched(workspace.parent):
        for words in OF_A_RUN:
            assert main([word.format(name=OUTSIDE) for word in words.split()]) == 2, words
            said = capsys.readouterr()
            assert said.out == "", words
            assert len(said.err.splitlines()) == 2, said.err


def test_no_name_that_leads_out_is_found_however_it_is_written(workspace: Path) -> None:
    full_width = OUTSIDE.replace(".", "\uff0e").replace("/", "\uff0f")
    assert unicodedata.normalize("NFKC", full_width) == OUTSIDE
    victim = str((workspace.parent / "victim" / "runs" / "theirs").absolute())
    with untouched(workspace.parent):
        for name in (*NAMES, full_width, victim):
            with pytest.raises(UserError) as refused:
                runs.find(workspace, name)
            assert refused.value.code in ("no-such-run", "run-misspelt"), name
            with pytest.raises(UserError):
                runs.restore(workspace, name)


@pytest.mark.slow
def test_every_command_refuses_to_trust_a_repositorys_code(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "evil.py").write_bytes(source_that_makes(tmp_path / "ran"))
    names = {field.alias or name for name, field in CommandLine.model_fields.items()}
    assert names - {"unknown"} == {*COMMANDS}
    places = {"rename": ["a", "b"], "note": ["a", "b"], "list": [], "queue": [], "disk": [], "adapters": []}
    two = ("export", "merge", "evaluate", "take", "push", "export-adapter", "bundle", "ask")
    places |= {name: ["a", "b"] for name in two}
    trains = ("run", "start", "submit")
    with untouched(workspace):
        for name in COMMANDS:
            words = [] if name in trains else places.get(name, ["demo"])
            assert main([name, *words, "--trust_remote_code", "true"]) == 2, name
            assert "--trust_remote_code: there is no such setting" in capsys.readouterr().err, name
    (tmp_path / "mine.yaml").write_text("trust_remote_code: true\nmodel: evil\n")
    assert main(["run", "--config", str(tmp_path / "mine.yaml")]) == 2
    assert "--trust_remote_code: there is no such setting" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


IMPOSSIBLE = {"a long name": "x" * 300, "nobody's home": "~nobody-of-this-name/x"}
TAKES_A_PATH = (
    *("check {path}", "check {data} --model {path}", "check {data} --workspace {path}", "export {path} new"),
    *("export {data} {path}", "run --model {path}", "run --dataset {path}", "run --from_adapter {path}"),
    *("run --workspace {path}", "run --config {path}", "list --workspace {path}", "inspect {path}"),
    *("merge {path} new --model starter", "evaluate {path} {data}"),
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_what_can_be_no_path_is_told_so_by_every_command_that_takes_one(
    kind: str,
    workspace: Path,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(workspace.parent)
    for words in TAKES_A_PATH:
        given = [word.format(path=IMPOSSIBLE[kind], data=pictures) for word in words.split()]
        assert main(given) == 2, words
        said = capsys.readouterr().err
        assert "Traceback" not in said
        assert len(said.splitlines()) in (2, 3), (words, said)
    assert {path.name for path in workspace.parent.iterdir()} == {"workspace", "victim"}


TEXTS = {
    "one word": "x" * 10**6,
    "folders": "a/" * 500_000,
    "parents": "../" * 333_334,
    "halves": "a+" * 500_000,
    "columns": "a=b," * 250_000,
    "accents": "a" + "\u0301" * 999_999,
    "digits": "9" * 10**6,
    "an id": "org/" + "a-." * 333_334,
}
SETTINGS = (
    "dataset",
    "model",
    "name",
    "columns",
    "epochs",
    "text_lora_targets",
    "use_text_lora",
    "workspace",
)
READ_BY: dict[str, Callable[[Path, str], object]] = {
    "a run's name": runs.find,
    "a new name": lambda workspace, text: run_name.new_name(text, workspace) and run_name.problem_with(text),
    "a run in the trash": runs.restore,
    "a dataset": lambda workspace, text: open_dataset(text, workspace),
    "an adapter": runs.require_adapter,
    "columns": lambda workspace, text: ColumnMapping.parse(text),
    "a split": lambda workspace, text: parse_part(text),
    "an image": lambda workspace, text: DatasetFolder(workspace).file(text),
    "settings": lambda workspace, text: build(dict.fromkeys(SETTINGS, text) | {text: 1}),
    "a note": lambda workspace, text: runs.write_note(runs.find(workspace, "demo"), text),
}


@pytest.mark.slow
@pytest.mark.parametrize("reader", READ_BY)
def test_a_megabyte_of_text_is_refused_within_seconds_and_quoted_short(reader: str, workspace: Path) -> None:
    for kind, text in TEXTS.items():
        began, said = time.process_time(), ""
        try:
            READ_BY[reader](workspace, text)
        except UserError as refused:
            said = max(str(refused).splitlines(), key=len)
        assert time.process_time() - began < 5, kind
        assert len(said) < 1000, (kind, said[:200])
