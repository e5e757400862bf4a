"""The project's files and what they import, for the tests of its shape."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


ROOMS = ("vlm", "training", "ui")


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
