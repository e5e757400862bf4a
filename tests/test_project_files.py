"""The project's files: no traces of one machine, requirements, a README that is true.

Each rule is a function over text, and is tried on a planted violation as well as on the project.
"""

import functools
import importlib.metadata
import itertools
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from support import durations
from support.source_tree import ROOMS, ROOT, imports, project_files, sources

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

    A release known not to work is kept out by name or by an upper bound, under a comment that says why.
    """
    bound, reasoned = re.compile(r">=[0-9][0-9.]*"), set()
    for above, line in itertools.pairwise(text.splitlines()):
        if above.startswith("#") and re.fullmatch(r"[\w-]+>=[0-9.]+(,!=[0-9.]+)*(,<[0-9.]+)?", line):
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
    known = {*sys.stdlib_module_names, "app", "benchmarks", *ROOMS}
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
    """What the README's tree should hold: the top level, and the folders in the rooms.

    Left out: settings files that begin with a dot.
    """
    entries = set()
    for path in paths:
        top, *rest = path.split("/")
        if not top.startswith(".") or rest:
            entries.add(f"{top}/" if rest else top)
        if top in ROOMS and len(rest) > 1:
            entries.add(f"{top}/{rest[0]}/")
    return entries


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
    assert real_tree(paths) == {"app.py", ".ci/", "docs/", "vlm/", "vlm/sub/"}


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


def test_the_longest_test_files_start_first_and_a_file_keeps_its_order():
    names = ["a.py::second", "a.py::first", "b.py::only", "new.py::only", "c.py::only"]
    items = [SimpleNamespace(nodeid=f"tests/{name}") for name in names]
    seconds = {"tests/a.py": 5.0, "tests/b.py": 300.0, "tests/c.py": 90.0}
    order = [item.nodeid.removeprefix("tests/") for item in durations.longest_first(items, seconds)]
    assert order == ["b.py::only", "c.py::only", "new.py::only", "a.py::second", "a.py::first"]
    assert "--dist loadfile --no-loadscope-reorder" in (ROOT / "Makefile").read_text("utf-8")


def test_durations_are_summed_by_file_from_pytests_report(tmp_path: Path):
    report = tmp_path / "report.xml"
    case = '<testcase classname="tests.{}" name="x" time="{}" />'
    cases = [("test_project_files", 1.25), ("ui.test_page", 60), ("test_project_files", 2), ("gone", 9)]
    report.write_text(f"<testsuites>{''.join(case.format(*each) for each in cases)}</testsuites>")
    assert durations.by_file(report) == {"tests/ui/test_page.py": 60.0, "tests/test_project_files.py": 3.2}


def test_every_decision_stands_in_the_index():
    index = (ROOT / "docs" / "decisions.md").read_text("utf-8")
    rows = dict(re.findall(r"(?m)^\| \[\w+\]\((decisions/\w+\.md)\) \|.*?\| (.*) \|$", index))
    written = {
        f"decisions/{file.name}": "; ".join(re.findall(r"(?m)^## [0-9-]+: (.+)$", file.read_text("utf-8")))
        for file in (ROOT / "docs" / "decisions").glob("*.md")
    }
    assert rows == written
