"""The project's shape: who imports whom, on which floor, what is free of torch, sizes, where tests lie.

Each rule is a function over source text, and is tried on a planted violation as well as on the project.
"""

import ast
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from support.source_tree import ROOMS, ROOT, imports, module_name, sources
from tools import house

# Imports point one way. Nothing imports app, tests or benchmarks; the tests themselves are bound by nothing.
MAY_IMPORT = {
    "vlm": {"vlm"},
    "training": {"training", "vlm"},
    "ui": {"ui", "training", "vlm"},
    "app": {"ui", "training", "vlm"},
    "benchmarks": {"ui", "training", "vlm"},
}


HEAVY = {"torch", "torchvision", "transformers", "peft", "accelerate", "bitsandbytes"}


NO_TORCH = {
    *("vlm", "vlm.example", "vlm.errors", "vlm.settings", "vlm.catalog"),
    *(
        "training",
        "training.__main__",
        "training.config",
        "training.runs",
        "training.data",
    ),
}
# What is checked with the model's processor needs transformers.
DATA_WITH_TORCH = {"training/data/validate/model_check.py", "training/data/validate/token_counter.py"}

# The floors inside the rooms, lowest first: a file or folder imports from lower floors of its room alone.
FLOORS = {
    "vlm": (
        "machine",
        "build_lock errors example methods oom param_counts",
        "filesystem",
        "composed prompting settings",
        "image_features",
        "catalog model_view",
        "models",
        "adapters",
        "lazy_torch",
        "meta_model",
        "inference",
    ),
    "vlm/inference": ("answering asked turns", "inputs", "loaded_base", "engine"),
    "vlm/machine": ("posix windows",),
    "vlm/models": (
        "checkpoint_files hub_errors image_size towers where_it_loads",
        *("hub quantization", "loading"),
    ),
    "vlm/prompting": ("base templates", "chat completion seq2seq"),
    "vlm/composed": ("configuration processing", "pretrained", "modeling"),
    "vlm/adapters": (
        "eva file_check peft_config probing",
        "attaching untrusted",
        "loading optimizer_groups python_lines saving",
        "merging reloading",
        "exporting",
    ),
    "vlm/adapters/untrusted": ("files patterns", "tensors", "schema", "layers", "rebuild", "facts match"),
    "training": (
        "program quiet",
        "config",
        "data",
        "runs",
        "distributed",
        "cache",
        "batching memory",
        "evaluation",
        "sharing",
        "model_card serving",
        "loop",
        "commands",
        "__main__",
    ),
    "training/config": ("columns fields run_name", "rules", "loading"),
    "training/runs": (
        "checkpoints event_types supervisor",
        "drift lock",
        "events",
        "status",
        "folder",
        "adapters disk failure keeping queueing",
        "run",
    ),
    "training/data": (
        "row safe_paths synthetic",
        "images",
        "dataset rows",
        "splits",
        "readers",
        "open",
        "edit validate",
    ),
    "training/data/rows": ("answers marks naming pictures texts", "layouts", "example"),
    "training/data/readers": (
        "archives boxes disguises encodings",
        "json_csv",
        "annotations beside tables",
        "pages unread",
        "several",
        "folder",
    ),
    "training/cache": ("tensor_store", "encoded_text image_features"),
    "training/memory": ("tensor_tracker", "simulate", "estimate", "auto"),
    "training/batching": ("samplers shared_prefix", "collator", "equivalence", "setup"),
    "training/evaluation": (
        "best_checkpoint equality",
        "metrics",
        "learned paired",
        "compare",
        "blindfold",
        "answers asked_file forgetting",
        "evaluate",
        "photo_questions",
    ),
    "training/loop": (
        "adalora context hardest_examples import_speed trackers",
        "callbacks eva prepare_data trainer",
        "oom_retry preflight resuming",
        "train",
        "worker",
    ),
    "training/serving": ("door errors", "offered request", "line", "chat", "api"),
    "training/sharing": (
        "account card_header samples",
        *("answer_table drawing", "files", "pull push", "tasks"),
    ),
    "training/commands": (
        *("flags", "parser", "output remote_job"),
        "adapters data disk sharing submit",
        "ask evaluate exporting run serve",
    ),
    "ui": (
        "events first_script i18n inference login theme",
        "html security widgets",
        "datasets run",
        "adapters",
        "gate train",
        *("ask data runs", "endpoints", "page"),
    ),
    "ui/run": ("loss_chart summary", "take view", "board", "panel"),
    "ui/train": ("form_values", "base_model", "continue_from form_view", "memory_hint", "tab"),
    "ui/data": (
        "asked columns row_text work",
        "labelling model_view row_edits source_card",
        "check_card",
        "examples_card row_editor",
        "pins",
        "tab",
    ),
    "ui/ask": ("models_card", "tab"),
    "ui/runs": ("adapters_card disk_card", "tab"),
}


MAX_FILE_LINES = 400


MAX_FUNCTION_LINES = 60


def import_violations(path: str, source: str) -> list[str]:
    """Imports against the direction of the rooms, and of libraries that are another file's matter."""
    room = module_name(path).split(".")[0]
    owns_peft = path.startswith("vlm/adapters/")
    found = []
    for name, line in imports(path, source):
        top = name.split(".")[0]
        if top in {*MAY_IMPORT, "tests"} - MAY_IMPORT[room] and not (top == room == "benchmarks"):
            found.append(f"{path}:{line}: {room} imports {name}")
        if top == "peft" and room != "benchmarks" and not owns_peft:
            found.append(f"{path}:{line}: peft is imported in vlm/adapters alone")
        if top == "gradio" and room in {"vlm", "training"}:
            found.append(f"{path}:{line}: {room} knows no gradio")
    for node in ast.walk(ast.parse(source)):
        named = getattr(node, "id", None) or getattr(node, "attr", None) or getattr(node, "name", None)
        if named == "BitsAndBytesConfig" and path != "vlm/models/loading.py":
            found.append(f"{path}:{node.lineno}: BitsAndBytesConfig is named in vlm/models/loading.py alone")
    return found


def says_no_torch(source: str) -> bool:
    """Whether a module's docstring claims it: its first line ends in "No torch."."""
    return (ast.get_docstring(ast.parse(source)) or "").split("\n")[0].endswith("No torch.")


def heavy_imports(path: str, source: str) -> list[str]:
    return [f"{path}:{line}: {name}" for name, line in imports(path, source) if name.split(".")[0] in HEAVY]


def loaded_heavy(modules: Iterable[str], folder: Path = ROOT) -> dict[str, list[str]]:
    """Import modules one by one in a fresh interpreter: the first that brings something heavy, with what."""
    program = (
        "import importlib, json, sys\n"
        "names, heavy = json.loads(sys.argv[1])\n"
        "for name in names:\n"
        "    importlib.import_module(name)\n"
        "    found = sorted(set(heavy) & set(sys.modules))\n"
        "    if found:\n"
        "        break\n"
        "print(json.dumps({name: found} if found else {}))\n"
    )
    argument = json.dumps([list(modules), sorted(HEAVY)])
    command = [sys.executable, "-c", program, argument]
    ended = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def too_long(path: str, source: str) -> list[str]:
    """Files and functions over the limit whose docstring gives no reason ("Long because …")."""
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    sizes = [(tree, path, len(source.splitlines()), MAX_FILE_LINES)]
    for node in functions:
        lines = node.end_lineno - node.lineno + 1
        sizes.append((node, f"{path}:{node.lineno} {node.name}", lines, MAX_FUNCTION_LINES))
    return [
        f"{where}: {lines} lines"
        for node, where, lines, limit in sizes
        if lines > limit and "Long because" not in (ast.get_docstring(node) or "")
    ]


def floor_violations(files: dict[str, str], floors: dict[str, tuple[str, ...]]) -> list[str]:
    """Imports to the same or a higher floor, or from a package's own `__init__`; gaps in the table."""
    known = {module_name(path) for path in files}
    found = []
    for room, rows in floors.items():
        floor_of = {name: number for number, row in enumerate(rows) for name in row.split()}
        inside = {
            path: path.removeprefix(f"{room}/").split("/")[0] for path in files if path.startswith(f"{room}/")
        }
        names = {path: name.removesuffix(".py") for path, name in inside.items()}
        there = {*names.values()} - {"__init__"}
        found += [f"{room}: {name} is on no floor" for name in sorted(there - {*floor_of})]
        found += [f"{room}: {name} is gone" for name in sorted({*floor_of} - there)]
        package = room.replace("/", ".")
        for path, name in names.items():
            for target, line in house.imports(path, files[path], known).items():
                if name == "__init__" or not f"{target}.".startswith(f"{package}."):
                    continue
                other = target.removeprefix(package).removeprefix(".").split(".")[0]
                allowed = name == other or floor_of.get(other, 99) < floor_of.get(name, -1)
                if not allowed:
                    found.append(f"{path}:{line}: {name} imports {target}")
    return found


def test_imports_point_one_way_and_each_library_has_its_place():
    found = [row for path, source in sources(*MAY_IMPORT).items() for row in import_violations(path, source)]
    assert found == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("vlm/inference/engine.py", "def ask():\n    from training.runs import find\n"),
        ("vlm/composed/modeling.py", "from ...training import runs\n"),
        ("vlm/__init__.py", "from ..ui import page\n"),
        ("training/loop/worker.py", "import importlib\nimportlib.import_module('ui.page')\n"),
        ("training/runs/run.py", "import app\n"),
        ("ui/page.py", "from tests import conftest\n"),
        ("app.py", "import benchmarks.speed\n"),
        ("training/loop/trainer.py", "def save():\n    from peft import PeftModel\n"),
        ("vlm/adapters_extra.py", "import peft.tuners\n"),
        ("vlm/composed/modeling.py", "from transformers import BitsAndBytesConfig as Config\n"),
        ("vlm/models/towers.py", "import transformers\nconfig = transformers.BitsAndBytesConfig()\n"),
        ("training/config/fields.py", "import gradio as gr\n"),
    ],
)
def test_the_import_rule_sees_a_planted_violation(path: str, source: str):
    assert len(import_violations(path, source)) >= 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("vlm/adapters/attach.py", "from peft import LoraConfig\nfrom ..errors import UserError\n"),
        ("vlm/models/loading.py", "from transformers import BitsAndBytesConfig\nfrom . import composed\n"),
        ("training/data/rows/example.py", "from ...vlm.example import Example\nfrom .. import events\n"),
        ("ui/page.py", "import gradio as gr\nfrom training import runs\nfrom vlm.inference import Engine\n"),
    ],
)
def test_the_import_rule_lets_the_design_through(path: str, source: str):
    assert import_violations(path, source.replace("...vlm", "vlm")) == []


def test_no_torch_modules_load_nothing_heavy_even_through_another_import():
    texts = sources(*ROOMS)
    claimed = {
        module_name(path): path
        for path, source in texts.items()
        if says_no_torch(source)
        or module_name(path) in NO_TORCH
        or (path.startswith("training/data/") and path not in DATA_WITH_TORCH)
    }
    assert {"vlm.errors", "training.config", "training.data"} <= claimed.keys()
    named = [
        row for path in claimed.values() for row in heavy_imports(path, (ROOT / path).read_text("utf-8"))
    ]
    assert named == []
    assert loaded_heavy(sorted(claimed)) == {}


def test_the_no_torch_rule_sees_a_planted_violation(tmp_path: Path):
    (tmp_path / "light.py").write_text('"""One thing. No torch."""\nimport middle\n')
    (tmp_path / "middle.py").write_text("import peft\n")
    (tmp_path / "peft.py").write_text("")
    assert says_no_torch((tmp_path / "light.py").read_text())
    assert loaded_heavy(["json", "light"], tmp_path) == {"light": ["peft"]}
    assert heavy_imports("vlm/settings.py", "def late():\n    import torch.nn\n") == [
        "vlm/settings.py:2: torch.nn"
    ]


def test_files_and_functions_stay_short_or_give_a_reason():
    assert [row for path, source in sources().items() for row in too_long(path, source)] == []


def test_the_length_rule_sees_a_planted_violation():
    body = "    pass\n" * 60
    reason = '    """Long because a table reads better whole."""\n'
    assert too_long("a.py", "def f():\n" + body) == ["a.py:1 f: 61 lines"]
    assert too_long("a.py", "def f():\n" + body.removeprefix("    pass\n")) == []
    assert too_long("a.py", "def f():\n" + reason + body) == []
    assert too_long("a.py", "x = 1\n" * 401) == ["a.py: 401 lines"]
    assert too_long("a.py", '"""Long because it is a list."""\n' + "x = 1\n" * 401) == []


def test_inside_the_rooms_imports_point_down_and_there_is_no_circle():
    files = sources("vlm", "training", "ui")
    assert floor_violations(files, FLOORS) == []
    assert house.circles(house.import_graph(files)) == []


@pytest.mark.parametrize(
    ("path", "source", "found"),
    [
        ("room/low.py", "def late():\n    from room.high import thing\n", "low imports room.high"),
        ("room/low.py", "from room import beside\n", "low imports room.beside"),
        (
            "room/low.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import room.high\n",
            "low imports",
        ),
        ("room/sub/part.py", "from room.high import thing\n", "sub imports room.high"),
        ("room/sub/part.py", "from room import thing\n", "sub imports room"),
        ("room/new.py", "", "new is on no floor"),
        ("room/high.py", "from room.low import thing\n", ""),
        ("room/sub/part.py", "from room.sub.other import thing\n", ""),
    ],
)
def test_the_floor_rule_sees_a_planted_violation(path: str, source: str, found: str):
    floors = {"room": ("low beside", "sub", "high")}
    names = ("__init__", "low", "beside", "sub/__init__", "sub/part", "sub/other", "high")
    files = {f"room/{name}.py": "" for name in names} | {path: source}
    rows = floor_violations(files, floors)
    assert (found in rows[0] and len(rows) == 1) if found else rows == []


def test_a_planted_circle_is_found_even_for_types_alone():
    files = {
        "training/a.py": "from training.b import B\n",
        "training/b.py": "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from training.a import A\n",
    }
    assert house.circles(house.import_graph(files)) == [["training.a", "training.b"]]
    files["training/b.py"] = ""
    assert house.circles(house.import_graph(files)) == []


def test_tests_lie_where_the_code_lies_and_no_test_imports_another():
    files = sources("tests")
    rooms = {"", "support", *ROOMS}
    for path, source in files.items():
        folder = path.removeprefix("tests/").rpartition("/")[0]
        assert folder.split("/")[0] in rooms, path
        if not folder.startswith("support"):
            assert folder in {"", "vlm/families"} or (ROOT / folder).is_dir(), path
        tested = [name for name, _ in imports(path, source) if name.split(".")[-1].startswith("test_")]
        assert tested == [], path
