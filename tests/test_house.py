"""The figures of tools/house.py: counted as it says, and held."""

from support.source_tree import ROOT, sources
from tools import draw, house

# Of vlm and training; why these numbers: docs/decisions/house.md.
MAX_FUNCTIONS = 1000
MAX_SINGLE_CALLERS = 140
MAX_CODE_LINES = 16_000
MIN_COMMENTS_PER_100 = 4.0
MAX_MODULES_ENTERED = 24


def test_no_folder_is_too_full_and_the_figures_of_the_house_hold():
    files = sources("vlm", "training")
    assert {f: n for f, n in house.modules_in_folders(files).items() if n > house.MAX_MODULES} == {}
    figures = house.measure(ROOT)
    assert figures["functions"] <= MAX_FUNCTIONS
    assert sum(figures["single_callers"].values()) <= MAX_SINGLE_CALLERS
    assert figures["code_lines"] <= MAX_CODE_LINES
    assert figures["comments_per_100"] >= MIN_COMMENTS_PER_100
    assert {*figures["walks"]} == {*house.WALKS}
    assert max(walk["entered"] for walk in figures["walks"].values()) <= MAX_MODULES_ENTERED


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
