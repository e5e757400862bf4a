"""The project's shape: who imports whom, what is free of torch, sizes, requirements, a README that is true.

Each rule is a function over source text, and is tried on a planted violation as well as on the project.
"""

import ast
import functools
import importlib.metadata
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("vlm", "training", "ui")

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
        "training.runs.events",
        "training.runs",
        "training.data",
    ),
}

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


def project_files() -> list[str]:
    """Every file of the project: what git tracks, and what it would take in."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return sorted(name for name in set(names) if name and (ROOT / name).is_file())


def sources(*rooms: str) -> dict[str, str]:
    """Path -> source of the Python files in these rooms (`app` is one too); of all if none is named."""
    paths = [path for path in project_files() if path.endswith(".py")]
    chosen = [path for path in paths if not rooms or path.removesuffix(".py").split("/")[0] in rooms]
    return {path: (ROOT / path).read_text(encoding="utf-8") for path in chosen}


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imports(path: str, source: str) -> Iterator[tuple[str, int]]:
    """Everything a file imports, at any depth, as (absolute dotted name, line).

    `from a import b` gives `a` and `a.b`, as `b` may be a module; so does `importlib.import_module("a.b")`.
    """
    package = module_name(path).split(".")
    if not path.endswith("/__init__.py"):
        package = package[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base, node.lineno
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in {
            "import_module",
            "__import__",
        }:
            yield from ((arg.value, node.lineno) for arg in node.args[:1] if isinstance(arg, ast.Constant))


def import_violations(path: str, source: str) -> list[str]:
    """Imports against the direction of the rooms, and of libraries that are another file's matter."""
    room = module_name(path).split(".")[0]
    owns_peft = path == "vlm/adapters.py" or path.startswith("vlm/adapters/")
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


# Written so that no pattern matches its own text.
MACHINE_PATTERNS = {
    "a path of one machine": r"(?<![\w.~)}])/(?:work|root|opt|Users)/|(?<![\w.~])/home/(?!user\b)\w",
    "a package index": r"https?://[^\s/]+/(?:\S+/)?simp[l]e\b|--(?:extra-)?index[-]url|--find[-]links|pythonhoste[d]",
}


def machine_traces(path: str, text: str) -> list[str]:
    """Absolute paths of one machine and addresses of package indexes."""
    return [
        f"{path}:{number}: {what}: {line.strip()[:80]}"
        for number, line in enumerate(text.splitlines(), 1)
        for what, pattern in MACHINE_PATTERNS.items()
        if re.search(pattern, line)
    ]


def normalised(package: str) -> str:
    return package.lower().replace("_", "-")


def requirements(text: str) -> dict[str, str]:
    """Package -> version specifier, of a requirements file's lines."""
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    names = (
        re.match(r"([A-Za-z0-9._-]+)\s*([^;]*)", line) for line in lines if line and not line.startswith("-")
    )
    return {normalised(match[1]): match[2].strip() for match in names if match}


def not_lower_bounds(text: str) -> list[str]:
    """Requirements that are anything but one lower bound: a pin would keep newer hardware's torch out.

    A release that is known not to work is kept out by an upper bound under a comment that says why.
    """
    bound, reasoned = re.compile(r">=[0-9][0-9.]*"), set()
    for above, line in itertools.pairwise(text.splitlines()):
        if above.startswith("#") and re.fullmatch(r"[\w-]+>=[0-9.]+,<[0-9.]+", line):
            reasoned |= {*requirements(line)}
    return [
        name
        for name, specifier in requirements(text).items()
        if not bound.fullmatch(specifier) and (name not in reasoned or name == "torch")
    ]


@functools.cache
def installed_distributions() -> dict[str, list[str]]:
    """Top-level module -> the packages on this machine that bring it, by their normalised names."""
    found = importlib.metadata.packages_distributions()
    return {top: [normalised(name) for name in names] for top, names in found.items()}


def undeclared(path: str, source: str, declared: Iterable[str]) -> list[str]:
    """Packages a file imports that `declared` doesn't name, though pip may have brought them with another."""
    distributions = installed_distributions()
    known = {*sys.stdlib_module_names, *MAY_IMPORT}
    tops = {(name.split(".")[0], line) for name, line in imports(path, source)}
    return sorted(
        f"{path}:{line}: {top}"
        for top, line in tops
        if top not in known and not {*distributions.get(top, [top])} & {*declared}
    )


def readme_tree(text: str) -> set[str]:
    """The entries of the README's tree, as `vlm/` and `vlm/errors.py`: each line's first word."""
    lines = text.split("<!-- tree -->")[1].split("<!-- /tree -->")[0].strip().splitlines()
    entries, folder = set(), ""
    for line in lines:
        if line.strip() and not line.startswith("```"):
            name = line.split()[0]
            entries.add(folder + name if line.startswith(" ") else name)
            folder = folder if line.startswith(" ") else name
    return entries


def real_tree(paths: Iterable[str]) -> set[str]:
    """What the README's tree should hold: the top level, and one level more in the rooms.

    Left out: settings files that begin with a dot, and `__init__.py`.
    """
    entries = set()
    for path in paths:
        top, *rest = path.split("/")
        if not top.startswith(".") or rest:
            entries.add(f"{top}/" if rest else top)
        if top in ROOMS and rest[0] != "__init__.py":
            entries.add(f"{top}/{rest[0]}{'/' if rest[1:] else ''}")
    return entries


def test_imports_point_one_way_and_each_library_has_its_place():
    found = [row for path, source in sources(*MAY_IMPORT).items() for row in import_violations(path, source)]
    assert found == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("vlm/inference.py", "def ask():\n    from training.runs import find\n"),
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
        ("training/data/rows/formats.py", "from ...vlm.example import Example\nfrom .. import events\n"),
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
        if says_no_torch(source) or module_name(path) in NO_TORCH or path.startswith("training/data/")
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


def test_no_file_names_a_machines_paths_or_a_package_index():
    texts = {}
    for path in project_files():
        content = (ROOT / path).read_bytes()
        if b"\0" not in content:
            texts[path] = content.decode("utf-8")
    assert [row for path, text in texts.items() for row in machine_traces(path, text)] == []


@pytest.mark.parametrize("parts", ["|root|x", "see:|home|me|x", "https:||host|simple|x"])
def test_the_machine_rule_sees_a_planted_path(parts: str):
    assert len(machine_traces("a.md", "see " + parts.replace("|", "/"))) == 1
    harmless = "|workspace|runs ~|work|x images|home|a.png `COPY . |app`"
    assert machine_traces("a.md", harmless.replace("|", "/")) == []


def test_requirements_are_lower_bounds_and_name_what_the_code_imports():
    user, developer = ((ROOT / f"requirements{part}.txt").read_text("utf-8") for part in ("", "-dev"))
    assert not_lower_bounds(user) + not_lower_bounds(developer) == []
    declared = requirements(user)
    files = sources(*ROOMS, "app").items()
    assert [row for path, source in files for row in undeclared(path, source, declared)] == []


def test_the_requirements_rules_see_planted_violations():
    text = "# torch==9\ntorch==2.0.0\npillow>=1.0,<2\n# 2.0 forgets names.\npyyaml>=6.0,<7\ngradio\n"
    assert not_lower_bounds(text) == ["torch", "pillow", "gradio"]
    assert not_lower_bounds("# Why not?\ntorch>=2.0,<3\n") == ["torch"]
    assert undeclared("a.py", "import yaml, json\nfrom vlm import errors\n", requirements(text)) == []
    assert undeclared("a.py", "def f():\n    import pydantic_settings\n", requirements(text)) == [
        "a.py:2: pydantic_settings"
    ]


def test_the_readmes_tree_is_the_real_tree():
    assert readme_tree((ROOT / "README.md").read_text("utf-8")) == real_tree(project_files())


def test_the_tree_rule_sees_what_is_missing_and_what_is_gone():
    readme = (
        "<!-- tree -->\n```\napp.py     the entry\nvlm/       a model\n  old.py   gone\n```\n<!-- /tree -->"
    )
    assert readme_tree(readme) == {"app.py", "vlm/", "vlm/old.py"}
    paths = [
        "app.py",
        ".gitignore",
        ".ci/run",
        "docs/a.png",
        "vlm/__init__.py",
        "vlm/new.py",
        "vlm/sub/a.py",
    ]
    assert real_tree(paths) == {"app.py", ".ci/", "docs/", "vlm/", "vlm/new.py", "vlm/sub/"}


def test_the_readme_opens_with_a_spaces_front_matter():
    _, front, page = (ROOT / "README.md").read_text("utf-8").split("---\n", 2)
    matter = yaml.safe_load(front)
    gradio = requirements((ROOT / "requirements.txt").read_text("utf-8"))["gradio"]
    assert matter["python_version"] == "3.12"
    assert (matter["sdk"], matter["app_file"], matter["license"]) == ("gradio", "app.py", "apache-2.0")
    assert f">={matter['sdk_version']}" == gradio
    # The Hub refuses a longer one.
    assert len(matter["short_description"]) <= 60
    assert page.lstrip().startswith("# LoRA Lens\n")
    assert page.index("make run") < page.index("make test") < page.index("pip install")
