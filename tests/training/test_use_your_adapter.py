"""docs/use-your-adapter.md: what can run here runs as it stands there, the rest says that it was not run."""

import re
import shutil
from pathlib import Path

import pytest
import torch

from support.adapter_folders import fresh, logits
from support.source_tree import ROOT
from training.__main__ import main
from training.runs import Run
from vlm import adapters

PAGE = (ROOT / "docs" / "use-your-adapter.md").read_text("utf-8")
SECTIONS = {
    part.partition("\n")[0].strip("# "): part for part in re.split(r"^(?=##? )", PAGE, flags=re.M)[1:]
}
OURS = "lora-lens "


def blocks(kind: str, text: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def test_every_line_of_a_shell_is_ours_or_stands_in_a_section_that_says_it_was_not_run() -> None:
    for name, text in SECTIONS.items():
        lines = [line for block in blocks("sh", text) for line in block.splitlines()]
        foreign = [line for line in lines if not line.startswith(OURS)]
        assert bool(foreign) == ("Not run here." in text), name
    assert {"vLLM", "SGLang", "llama.cpp, Ollama, LM Studio", "PEFT", "transformers"} <= SECTIONS.keys()


@pytest.mark.parametrize("section", ["PEFT", "transformers"])
def test_the_lines_of_python_give_the_runs_own_answers(section: str, taught: Run, tiny_base: Path) -> None:
    [code] = blocks("python", SECTIONS[section])
    names = {"base": str(tiny_base), "adapter": str(taught.adapter_path)}
    exec(code, names)
    own = logits(adapters.load(fresh(tiny_base), taught.adapter_path))
    torch.testing.assert_close(logits(names["model"].eval()), own, rtol=0, atol=1e-5)
    assert not torch.allclose(own, logits(fresh(tiny_base)), atol=1e-2)


@pytest.mark.slow
def test_the_lines_of_our_own_command_do_what_they_say(
    taught: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(taught.workspace, tmp_path / "workspace")
    shutil.copytree(tmp_path / "workspace" / "runs" / "demo", tmp_path / "workspace" / "runs" / "second")
    monkeypatch.chdir(tmp_path)
    lines = [line for block in blocks("sh", PAGE) for line in block.splitlines() if line.startswith(OURS)]
    named = {"RUN1": "demo", "RUN2": "second", "RUN": "demo"}
    for number, line in enumerate(lines):
        words = [named.get(word, word) for word in line.removeprefix(OURS).split()]
        words = [f"{word}{number}" if word in ("OUT", "MERGED") else word for word in words]
        assert main([*words, "--workspace", "workspace"]) == 0, line
    made = {path.name.rstrip("0123456789") for path in tmp_path.iterdir()}
    assert made == {"workspace", "OUT", "MERGED"}
