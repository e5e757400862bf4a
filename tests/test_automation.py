"""What docs/automation.md, AGENTS.md and docs/serving.md say to other programs: commands and code hold."""

import importlib.metadata
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from support.page_client import launched
from support.source_tree import ROOT
from support.tiny import PICTURES
from training.__main__ import COMMANDS
from training.commands.parser import parse_command
from training.runs import Run

DOCS = ROOT / "docs"


def blocks(page: Path, language: str, below: str) -> list[str]:
    """The fenced blocks of a language under a heading of the second level."""
    section = page.read_text("utf-8").split(f"\n## {below}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def commands_of(page: Path) -> list[list[str]]:
    """Words after the program's name, of each whole command in a block or between backticks."""
    text = page.read_text("utf-8")
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).splitlines()
    lines += re.findall(r"`([^`\n]+)`", text)
    typed = [re.match(r"(?:python -m training|lora-lens) ([a-z].*)", line) for line in lines]
    return [shlex.split(match[1], comments=True) for match in typed if match]


@pytest.mark.parametrize("page", [DOCS / "automation.md", ROOT / "AGENTS.md"], ids=lambda page: page.name)
def test_every_command_is_one_that_the_program_takes(page: Path):
    found = commands_of(page)
    assert len(found) > 4
    for words in found:
        command = parse_command(words)
        assert command.name in COMMANDS, words
        assert command.problems == [], words


def test_a_command_with_a_flag_that_is_gone_is_seen(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(
        "Say `lora-lens show demo --jason`, or:\n```sh\npython -m training list --json # all\n```\n"
    )
    listed, shown = commands_of(page)
    assert listed == ["list", "--json"]
    assert parse_command(listed).problems == []
    assert len(parse_command(shown).problems) == 1


@pytest.mark.slow
def test_the_python_of_the_page_trains_and_asks(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    train, ask = blocks(DOCS / "automation.md", "python", "Python")
    names = {"photo": pictures / "blue.png"}
    assert train.count("max_steps=200") == 1
    exec(train.replace("max_steps=200", "max_steps=2"), names)
    exec(ask, names)
    state, answers = capsys.readouterr().out.splitlines()[-2:]
    assert state == f"finished {names['run'].adapter_path}"
    adapter, base = answers.split(" | ")
    assert adapter
    assert base
    assert Path("workspace/runs/demo/adapter/adapter_config.json").is_file()


@pytest.mark.slow
def test_the_pages_endpoints_answer_as_serving_says(
    taught: Run, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(taught.path, tmp_path / "runs" / "my-run")
    shutil.copy(pictures / "blue.png", tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    [block] = blocks(DOCS / "serving.md", "python", "From another program")
    with launched(tmp_path) as (url, _):
        assert block.count("http://127.0.0.1:7860") == 1
        # The last of the calls is the question.
        before, after = block.replace("http://127.0.0.1:7860", url).rsplit("page.predict(", 1)
        names: dict[str, Any] = {}
        exec(f"{before}said = page.predict({after}", names)
    adapter, base = names["said"]
    assert (adapter["model"], adapter["text"]) == ("my-run", PICTURES["blue"])
    assert base["model"] == "base"


def test_gradios_extra_for_mcp_still_holds_pydantic_below_what_is_needed():
    needed = [Requirement(line) for line in importlib.metadata.requires("gradio") or ()]
    of_mcp = [
        each
        for each in needed
        if each.name == "pydantic" and each.marker and each.marker.evaluate({"extra": "mcp"})
    ]
    own = re.search(r"(?m)^pydantic>=(.*)$", (ROOT / "requirements.txt").read_text("utf-8"))[1]
    # Where it does not any more, the paragraph in docs/automation.md is to go.
    assert not all(own in SpecifierSet(str(each.specifier)) for each in of_mcp)
