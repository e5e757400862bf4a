"""No file of the program runs text, reads a pickle or asks a shell: ruff's rules, and what they don't see."""

import ast
import itertools
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterable

import pytest

from support.source_tree import ROOMS, ROOT, imports, sources

WHERE = ("app", *ROOMS, "recipes", "tools", "benchmarks")
UNSAFE = {"S102", "S301", "S307", "S506", "S602", "S604", "S605", "TID251"}
PICKLES = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
RUNNERS = {"eval", "exec", "__import__"}
SWITCHES = {"shell", "allow_pickle", "trust_remote_code"}
"""Arguments that are off: they let a shell, a pickle or a repository's Python run."""
WORDS = PICKLES | RUNNERS | SWITCHES


def refused(arguments: Iterable[str], source: str | None = None) -> list[tuple[str, int, str]]:
    """File, line and rule of everything unsafe that ruff finds with the project's settings."""
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "json", *arguments]
    ended = subprocess.run(command, cwd=ROOT, input=source, capture_output=True, text=True, check=False)
    assert ended.returncode in (0, 1), ended.stderr
    found = json.loads(ended.stdout)
    return [
        (each["filename"].removeprefix(f"{ROOT}/"), each["location"]["row"], each["code"])
        for each in found
        if each["code"] in UNSAFE
    ]


def unseen(path: str, source: str) -> list[str]:
    """What ruff does not look for: a switch that may be on, eval by another name, an import by a text."""
    if not any(word in source for word in WORDS):  # most files: they need not be parsed
        return []
    found = [f"{path}:{line}: {name}" for name, line in imports(path, source) if name in PICKLES]
    for node in ast.walk(ast.parse(source)):
        pairs: list[tuple[str | None, ast.expr]] = []
        if isinstance(node, ast.Call):
            pairs = [(keyword.arg, keyword.value) for keyword in node.keywords]
        elif isinstance(node, ast.Dict):
            named = zip(node.keys, node.values, strict=True)
            pairs = [(key.value, value) for key, value in named if isinstance(key, ast.Constant)]
        elif isinstance(node, ast.Name) and node.id in RUNNERS:
            found.append(f"{path}:{node.lineno}: {node.id}")
        for name, value in pairs:
            if name in SWITCHES and not (isinstance(value, ast.Constant) and value.value is False):
                found.append(f"{path}:{value.lineno}: {name} is not False")
    return found


def test_nothing_in_the_program_is_unsafe_and_no_comment_hides_it():
    texts = sources(*WHERE)
    assert {path.split("/")[0].removesuffix(".py") for path in texts} == {*WHERE}
    # The loader is chosen there by what is installed, and is a safe one either way.
    assert [(path, rule) for path, _, rule in refused(["--ignore-noqa", *texts])] == [("ui/i18n.py", "S506")]
    assert [row for path, source in texts.items() for row in unseen(path, source)] == []


PLANTED = [
    "import subprocess\nsubprocess.run('ls', shell=True)",
    "from subprocess import Popen\nPopen(['ls'], shell=1)",
    "run('ls', shell=True)",
    "import os\nos.system('ls')",
    "from os import system as run",
    "import os\nos.popen('ls')",
    "eval('1')",
    "exec('1')",
    "import builtins\nbuiltins.eval('1')",
    "import pickle",
    "from pickle import loads as read",
    "def late():\n    import dill",
    "import torch\ntorch.load('x')",
    "import torch\ntorch.load('x', weights_only=True)",
    "from torch import load",
    "import yaml\nyaml.load('x')",
    "import yaml\nyaml.load('x', Loader=yaml.Loader)",
    "import yaml\nyaml.load('x', yaml.UnsafeLoader)",
    "import yaml\nyaml.unsafe_load('x')",
    "import yaml\nyaml.full_load('x')",
    "import pandas\npandas.read_pickle('x')",
]


@pytest.mark.parametrize("where", ["vlm/models/planted.py", "app.py", "benchmarks/soak/planted.py"])
def test_ruff_refuses_each_planted_violation(where: str):
    """Each in a function of its own, in one file: ruff starts once."""
    functions = [f"def f():\n{textwrap.indent(source, '    ')}\n" for source in PLANTED]
    begins = [*itertools.accumulate((text.count("\n") for text in functions), initial=1)]
    lines = [line for _, line, _ in refused(["--stdin-filename", where, "-"], "".join(functions))]
    ranges = zip(PLANTED, itertools.pairwise(begins), strict=True)
    assert [source for source, (begin, end) in ranges if not any(begin <= n < end for n in lines)] == []


@pytest.mark.parametrize(
    "source",
    [
        "subprocess.run('ls', shell=wanted)",
        "subprocess.run('ls', **{'shell': True})",
        "run = eval",
        "importlib.import_module('pickle')",
        "__import__('pickle')",
        "numpy.load('x', allow_pickle=True)",
        "AutoModel.from_pretrained('x', trust_remote_code=asked)",
    ],
)
def test_what_ruff_does_not_see_is_seen(source: str):
    assert unseen("vlm/planted.py", source) != []


def test_methods_of_these_names_and_safe_calls_are_let_through():
    source = (
        "import subprocess, yaml\nmodel.eval()\npage.exec()\nsubprocess.run(['ls'], shell=False)\n"
        "yaml.safe_load('x')\nyaml.load('x', Loader=yaml.CSafeLoader)\nload('x', trust_remote_code=False)\n"
    )
    assert refused(["--stdin-filename", "vlm/planted.py", "-"], source) == []
    assert unseen("vlm/planted.py", source) == []
