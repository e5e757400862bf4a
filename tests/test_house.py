"""The figures of tools/house.py: counted as it says, and held."""

import re

from support.source_tree import ROOT, project_files, sources
from tools import draw, house

# Of vlm and training; why these numbers: docs/decisions/house.md.
MAX_FUNCTIONS = 1625
MAX_SINGLE_CALLERS = 290
MAX_CODE_LINES = 24_650
MIN_COMMENTS_PER_100 = 4.0
MAX_MODULES_ENTERED = 35
# Of the page: Python, and all with its templates, scripts and styles.
MAX_UI_PYTHON_LINES = 6850
MAX_UI_FUNCTIONS = 478
MAX_UI_LINES = 9920

MADE_HTML = re.compile(r"(?:innerHTML|outerHTML) = (.*?);?$")
PLAIN = re.compile(r"[\w.?|\" =]+")


def test_no_folder_is_too_full_and_the_figures_of_the_house_hold():
    files = sources("vlm", "training", "ui")
    assert {f: n for f, n in house.modules_in_folders(files).items() if n > house.MAX_MODULES} == {}
    figures = house.measure(ROOT)
    assert figures["functions"] <= MAX_FUNCTIONS
    assert sum(figures["single_callers"].values()) <= MAX_SINGLE_CALLERS
    assert figures["code_lines"] <= MAX_CODE_LINES
    assert figures["comments_per_100"] >= MIN_COMMENTS_PER_100
    assert {*figures["walks"]} == {*house.WALKS}
    assert max(walk["entered"] for walk in figures["walks"].values()) <= MAX_MODULES_ENTERED


def test_the_page_is_small_and_its_scripts_make_no_html():
    python = sources("ui")
    beside = {path: (ROOT / path).read_text("utf-8") for path in project_files() if is_of_the_page(path)}
    lines = {path: len(text.splitlines()) for path, text in (python | beside).items()}
    assert sum(lines[path] for path in python) <= MAX_UI_PYTHON_LINES
    assert sum(len([*house.functions(source)]) for source in python.values()) <= MAX_UI_FUNCTIONS
    assert sum(lines.values()) <= MAX_UI_LINES
    assert [path for path in python if "escape(" in python[path]] == []
    scripts = {path: text for path, text in beside.items() if path.endswith(".js")}
    assert [path for path in scripts if lines[path] > 400] == []
    assert [row for path, text in scripts.items() for row in script_violations(path, text)] == []


def is_of_the_page(path: str) -> bool:
    return path.startswith(("ui/static/", "ui/templates/"))


def script_violations(path: str, text: str) -> list[str]:
    """Functions of over 60 lines, and HTML that is not, whole, what the server wrote."""
    found = [
        f"{path}:{number}: HTML made in the browser"
        for number, line in enumerate(text.splitlines(), 1)
        if "insertAdjacentHTML" in line or ((made := MADE_HTML.search(line)) and not PLAIN.fullmatch(made[1]))
    ]
    opened: list[int] = []
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        for sign in re.sub(r'"[^"]*"|/[^/ ]+/|`[^`]*`', "", line):
            if sign == "{":
                opened.append(number)
            elif sign == "}":
                began = opened.pop()
                is_function = re.search(r"=>\s*\{$|^\s*(async )?\w+\(.*\) \{$|function", lines[began - 1])
                # A file is one function that hides its names, and a class is none.
                if is_function and began > 6 and number - began > 60:
                    found.append(f"{path}:{began}: {number - began} lines")
    return found


def test_a_script_that_makes_html_or_goes_on_too_long_is_seen():
    assert script_violations("a.js", "node.innerHTML = `<b>${name}</b>`;") == [
        "a.js:1: HTML made in the browser"
    ]
    assert script_violations("a.js", "node.innerHTML = a + b;\nnode.innerHTML = answer.html;") == [
        "a.js:1: HTML made in the browser"
    ]
    long = "\n" * 6 + "function f() {\n" + "  g();\n" * 61 + "}\n"
    assert script_violations("a.js", long) == ["a.js:7: 62 lines"]


def test_the_figures_are_counted_as_they_are_said_to_be():
    source = (
        '"""Two lines\n\nof text."""\nX = 1  # why\n\n\ndef _one():\n    """Says."""\n    f = lambda: 0\n'
        "    def g():\n        return f()  # noqa: X\n    return g\n\n\ndef two():\n    return _one()\n"
        "\n\ndef three():\n    return two() + two()\n"
    )
    assert [name for name, _ in house.functions(source)] == ["_one", "f", "g", "two", "three"]
    assert house.line_counts(source) == (10, 1)
    assert house.single_callers({"a.py": source}, {}) == {
        "private": ["a.py:_one"],
        "nested": ["a.py:f", "a.py:g"],
        "public": [],
    }
    assert house.single_callers({"a.py": source}, {"b.py": "from a import _one\n_one()\n"})["private"] == [
        "a.py:_one"
    ]
    tabled = source + "\n\nTABLE = {'one': _one}\n"
    assert house.single_callers({"a.py": tabled.replace("return _one()", "return 0")}, {})["private"] == []
    assert house.modules_in_folders({"a/__init__.py": "", "a/b.py": "", "a/c/d.py": ""}) == {"a": 1, "a/c": 1}


def test_a_test_that_was_given_the_number_of_its_guarantee_is_not_lost():
    before = house.count_tests({"a.py": "def test_a_kill_is_known(): 0\ndef test_a_stop_is_obeyed(): 0\n"})
    now = house.count_tests({"b.py": "def test_g05_a_kill_is_known(): 0\ndef test_g14_stop(): 0\n"})
    assert sorted((before - now).elements()) == ["test_a_stop_is_obeyed"]


def test_a_walk_follows_one_parameter_and_comes_back():
    files = {
        "training/a.py": "from training import b\nfrom training.c import C, see\n"
        "def go(way):\n    part = way.part\n    b.one(part)\n    see(3)\n    C(part)\n    see(part)\n",
        "training/b.py": "from training.d import two\ndef one(value, by=1):\n    two(by)\n    two(x=value)\n",
        "training/c.py": "class C:\n    pass\ndef see(it):\n    pass\n",
        "training/d.py": "def two(x):\n    pass\n",
        "training/e.py": "def never(x):\n    pass\n",
    }
    # a, b, d, back to b, back to a, c, back to a; the class alone would not be entered.
    assert house.walk(files, "training.a", "go", "way") == {"entered": 3, "returns": 3}
    assert house.walk(files, "training.b", "one", "by") == {"entered": 1, "returns": 1}
    assert house.walk(files, "training.a", "go", "other") == {"entered": 0, "returns": 0}


def test_the_picture_of_the_architecture_is_drawn_from_todays_imports():
    assert draw.PICTURE.read_text("utf-8") == draw.draw(), "run: python tools/draw.py"


def test_a_box_stands_above_what_it_imports():
    graph = {"a.one": {"a.two", "a.sub.part"}, "a.two": {"a.sub.part"}, "a.sub.part": {"b.x"}, "b.x": set()}
    boxes = draw.boxes_of("a", graph)
    assert {name: box.floor for name, box in boxes.items()} == {"one": 2, "two": 1, "sub": 0}
    assert draw.boxes_of("", graph)["a"].imports == {"b"}
