"""The figures of the house: functions, their callers, code and comment lines, circles, modules, walks, tests.

`python tools/house.py [--since COMMIT]` measures this checkout; the last line is JSON. tests/test_house.py
holds the limits. What counts is said at each function below.
"""

import argparse
import ast
import io
import json
import re
import subprocess
import tokenize
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("vlm", "training")
CALLERS = (*ROOMS, "ui", "app", "benchmarks", "recipes")
WALKS = {
    "prepare_data": ("training.loop.prepare_data", "prepare_data", "config"),
    "open_dataset": ("training.data.open", "open_dataset", "source"),
}
MAX_MODULES = 14
GUARANTEE = re.compile(r"^test_g\d\d_")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(root: Path, *rooms: str) -> dict[str, str]:
    """Path -> source of the rooms' Python files, sorted; `app` is the file app.py."""
    found = {}
    for room in rooms:
        files = [root / "app.py"] if room == "app" else sorted((root / room).rglob("*.py"))
        found |= {
            file.relative_to(root).as_posix(): file.read_text("utf-8") for file in files if file.is_file()
        }
    return found


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def functions(source: str) -> Iterator[tuple[str, bool]]:
    """Each function's name, and whether it stands inside another: nested ones and lambdas with a name too."""

    def walk(node: ast.AST, nested: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function):
                yield child.name, nested
                yield from walk(child, True)
                continue
            if isinstance(child, ast.Assign | ast.AnnAssign | ast.NamedExpr) and isinstance(
                child.value, ast.Lambda
            ):
                target = child.targets[0] if isinstance(child, ast.Assign) else child.target
                yield ast.unparse(target), nested
            yield from walk(child, nested)

    return walk(ast.parse(source), False)


def references(source: str) -> Counter[str]:
    """How often each name is read, as a name or as an attribute; an entry of a table counts twice.

    A function in a module's table (`METRICS = {"chrf": Metric(chrf)}`) is chosen by data: it has no place of
    its own to be inlined into.
    """
    tree, read = ast.parse(source), Counter()
    tables = [node.value for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign) and node.value]
    for node in [*ast.walk(tree), *(part for table in tables for part in ast.walk(table))]:
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            read[node.id if isinstance(node, ast.Name) else node.attr] += 1
    return read


def single_callers(rooms: Mapping[str, str], others: Mapping[str, str]) -> dict[str, list[str]]:
    """Functions that a single place of their own file reads and no other file, as `path:name`, by kind.

    `private` have an underscore, `nested` stand inside another function, and `public` are private in all
    but name: their own file alone calls them. Renaming or nesting a helper moves it to another list.
    """
    read = {path: references(source) for path, source in {**rooms, **others}.items()}
    found: dict[str, list[str]] = {"private": [], "nested": [], "public": []}
    for path, source in rooms.items():
        for name, nested in functions(source):
            if name.startswith("__") or read[path][name] != 1:
                continue
            if name.startswith("_"):
                found["private"].append(f"{path}:{name}")
            elif nested:
                found["nested"].append(f"{path}:{name}")
            elif not any(names[name] for other, names in read.items() if other != path):
                found["public"].append(f"{path}:{name}")
    return found


def line_counts(source: str) -> tuple[int, int]:
    """Lines of code, and comments. Code has no blank line, comment or docstring (an attribute's is code)."""
    documented: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Function | ast.ClassDef | ast.Module) and ast.get_docstring(node, clean=False):
            documented |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    code, comments = set(), 0
    blank = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            # What speaks to a tool says nothing to a reader.
            comments += not token.string.startswith(("# noqa", "# type:", "# fmt:"))
        elif token.type not in blank:
            code |= set(range(token.start[0], token.end[0] + 1))
    return len(code - documented), comments


def imports(path: str, source: str, known: set[str]) -> dict[str, int]:
    """The modules that a file imports, at any depth and under TYPE_CHECKING too -> the line."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from a import b` is an import of a.b where that is a module, else of a.
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.append(inner if inner in known else node.module)
        found |= {name: node.lineno for name in names if name in known and name != module_name(path)}
    return found


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """The groups of modules that import each other: strongly connected components, by Tarjan."""
    index, low, stack, found = {}, {}, [], []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in graph.get(node, ()):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def import_graph(files: Mapping[str, str]) -> dict[str, set[str]]:
    """Module -> modules. A package's `__init__` hands on its parts' public names: it is no start."""
    known = {module_name(path) for path in files}
    return {
        module_name(path): set(imports(path, source, known))
        for path, source in files.items()
        if not path.endswith("__init__.py")
    }


def modules_in_folders(files: Mapping[str, str]) -> Counter[str]:
    """Folder -> how many modules lie in it, `__init__` aside."""
    return Counter(str(PurePosixPath(path).parent) for path in files if not path.endswith("__init__.py"))


class Walk:
    """A reader who follows one parameter: into each function of the house that it is passed on to.

    What is computed from the parameter is followed as itself. Names are resolved through the file's own
    definitions and imports; a method of an object is not followed. A module is *entered* once; leaving it and
    coming back to it from another is a *return*. The first module is not counted.
    """

    def __init__(self, files: Mapping[str, str]) -> None:
        self.known = {module_name(path): path for path in files}
        self.trees = {module_name(path): ast.parse(source) for path, source in files.items()}
        self.names = {module: self._bindings(module) for module in self.trees}
        self.seen: set[tuple[str, str, frozenset[str]]] = set()
        self.way: list[str] = []

    def _bindings(self, module: str) -> dict[str, tuple[str, str | None]]:
        """Name -> (module, name in it), or (module, None) for a module itself."""
        bound: dict[str, tuple[str, str | None]] = {}
        for node in ast.walk(self.trees[module]):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    name = alias.asname or alias.name
                    if inner in self.known:
                        bound[name] = (inner, None)
                    elif node.module in self.known:
                        bound[name] = (node.module, alias.name)
        for node in self.trees[module].body:
            if isinstance(node, Function | ast.ClassDef):
                bound[node.name] = (module, node.name)
        return bound

    def _found(self, module: str, name: str) -> tuple[str, ast.AST] | None:
        """Where a name is defined, through the packages that hand it on."""
        for node in self.trees.get(module, ast.Module([], [])).body:
            if isinstance(node, Function | ast.ClassDef) and node.name == name:
                return module, node
        further = self.names.get(module, {}).get(name)
        if further and further != (module, name):
            return self._found(further[0], further[1]) if further[1] else None
        return None

    def follow(self, module: str, name: str, given: frozenset[str]) -> None:
        """Walks through a function whose parameters `given` carry what is followed."""
        found = self._found(module, name)
        if found is None or (*found[:1], name, given) in self.seen:
            return
        module, node = found
        self.seen.add((module, name, given))
        if isinstance(node, ast.ClassDef):  # nobody reads on where a value is only put into a type
            return
        if not self.way or self.way[-1] != module:
            self.way.append(module)
        carriers = set(given)
        for call in carried_calls(node, carriers):
            target = self._target(module, call.func)
            if target and (into := self._found(*target)):
                self.follow(*target, passed_on(call, into[1], carriers))
                if self.way[-1] != module:
                    self.way.append(module)

    def _target(self, module: str, called: ast.expr) -> tuple[str, str] | None:
        names = self.names[module]
        if isinstance(called, ast.Name):
            bound = names.get(called.id)
            return (bound[0], bound[1]) if bound and bound[1] else None
        if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
            bound = names.get(called.value.id)
            if bound and bound[1] is None:
                return bound[0], called.attr
        return None


def mentions(node: ast.AST, names: set[str]) -> bool:
    return any(isinstance(part, ast.Name) and part.id in names for part in ast.walk(node))


def carried_calls(function: Function, carriers: set[str]) -> Iterator[ast.Call]:
    """The calls that get what `carriers` hold, in order; names that are set from it join `carriers`."""
    for node in sorted(
        (n for n in ast.walk(function) if hasattr(n, "lineno")), key=lambda n: (n.lineno, n.col_offset)
    ):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr | ast.For) and node is not function:
            source = node.iter if isinstance(node, ast.For) else node.value
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if source is not None and mentions(source, carriers):
                carriers |= {
                    part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)
                }
        if isinstance(node, ast.Call) and any(
            mentions(part, carriers) for part in [*node.args, *(word.value for word in node.keywords)]
        ):
            yield node


def passed_on(call: ast.Call, into: ast.AST, carriers: set[str]) -> frozenset[str]:
    """The callee's parameters that get what `carriers` hold."""
    if not isinstance(into, Function):
        return frozenset()
    names = [argument.arg for argument in [*into.args.posonlyargs, *into.args.args]]
    by_place = {name for name, value in zip(names, call.args, strict=False) if mentions(value, carriers)}
    return frozenset(
        by_place | {word.arg for word in call.keywords if word.arg and mentions(word.value, carriers)}
    )


def walk(files: Mapping[str, str], module: str, function: str, parameter: str) -> dict[str, int]:
    """Modules entered by one parameter of a function, and returns to one already left."""
    walked = Walk(files)
    walked.follow(module, function, frozenset({parameter}))
    entered = set(walked.way) - {module}
    return {"entered": len(entered), "returns": max(0, len(walked.way) - len(set(walked.way)))}


def count_tests(sources: Mapping[str, str]) -> Counter[str]:
    """The names of all test functions, and how often each stands there.

    The number of a guarantee is left out of a name, `test_g05_…`: a test that was given one is not lost.
    """
    found = Counter()
    for source in sources.values():
        found += Counter(
            GUARANTEE.sub("test_", node.name)
            for node in ast.walk(ast.parse(source))
            if isinstance(node, Function) and node.name.startswith("test_")
        )
    return found


def tests_at(root: Path, commit: str) -> dict[str, str]:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, check=True, capture_output=True, text=True).stdout

    paths = git("ls-tree", "-r", "--name-only", commit, "tests").splitlines()
    return {path: git("show", f"{commit}:{path}") for path in paths if path.endswith(".py")}


def measure(root: Path = ROOT, since: str | None = None) -> dict:
    files = sources(root, *ROOMS)
    house = {path: source for path, source in files.items() if "starter_recipe" not in path}
    callers = single_callers(house, sources(root, *(room for room in CALLERS if room not in ROOMS)))
    lines = {path: line_counts(source) for path, source in house.items()}
    code, comments = (sum(row[at] for row in lines.values()) for at in (0, 1))
    ui = sources(root, "ui")
    figures = {
        "functions": sum(1 for source in house.values() for _ in functions(source)),
        "single_callers": {kind: len(names) for kind, names in callers.items()},
        "code_lines": code,
        "comments_per_100": round(100 * comments / code, 2),
        "circles": circles(import_graph(files)),
        "modules": len(house),
        "fullest_folders": dict(modules_in_folders(house).most_common(5)),
        "walks": {
            name: walk({**files, **ui}, *start)
            for name, start in WALKS.items()
            if start[0] in {module_name(path) for path in files}
        },
    }
    tests = count_tests(sources(root, "tests"))
    figures["test_functions"] = tests.total()
    if since:
        figures["tests_lost"] = sorted((count_tests(tests_at(root, since)) - tests).elements())
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT)
    parser.add_argument("--since", help="a commit: which of its test functions are gone")
    parser.add_argument("--list", action="store_true", help="name the functions with a single caller")
    given = parser.parse_args()
    figures = measure(given.root, given.since)
    if given.list:
        by_room = sources(given.root, *ROOMS)
        others = sources(given.root, *(room for room in CALLERS if room not in ROOMS))
        for kind, names in single_callers(by_room, others).items():
            print(*(f"{kind:8} {name}" for name in names), sep="\n")
    for name, value in figures.items():
        print(f"{name:20} {value}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
