"""Draws docs/architecture.svg from the imports: rooms, floors, the way of a row and of a run.

`python tools/draw.py` writes the picture; tests/test_house.py draws it again and compares. A box is a file or
a folder of a room, and stands one floor above the highest box it imports: every arrow points down. Where a
reader enters a box first, following a row or a run (tools/house.py, Walk), it has that way's number.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools import house

PICTURE = house.ROOT / "docs" / "architecture.svg"
# Top to bottom; "" is the whole house. A room inside another is one box in it, and has a frame of its own.
ROOMS = ("", "training", "training/data", "vlm", "vlm/adapters")

WAYS = {
    "row": ("training.data.open", "open_dataset", "source"),
    "run": ("training.loop.worker", "main", "run"),
}
WIDTH, MARGIN, TITLE = 1180, 24, 34
BOX, BOX_HEIGHT, GAP, FLOOR = 132, 38, 12, 62

STYLE = """
  svg { font: 13px system-ui, sans-serif; }
  .paper { fill: #fff; } .room { fill: #f4f4f5; stroke: #d4d4d8; } .box { fill: #fff; stroke: #a1a1aa; }
  text { fill: #18181b; } .quiet { fill: #52525b; font-size: 11px; }
  .title { font-weight: 600; font-size: 15px; }
  .arrow { stroke: #71717a; stroke-opacity: .28; fill: none; } .number { font-size: 10px; fill: #fff; }
  .row { fill: #0f766e; } .run { fill: #b45309; }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #09090b; } .room { fill: #18181b; stroke: #3f3f46; }
    .box { fill: #27272a; stroke: #52525b; } .arrow { stroke: #d4d4d8; }
    text { fill: #f4f4f5; } .quiet { fill: #a1a1aa; } .number { fill: #fff; }
  }
"""


@dataclass
class Box:
    """A file or folder of a room: which modules it holds, what it imports, where it is drawn."""

    name: str
    modules: list[str] = field(default_factory=list)
    imports: set[str] = field(default_factory=set)
    floor: int = 0
    x: float = 0
    y: float = 0


def prefix_of(room: str) -> str:
    return room.replace("/", ".") + "." if room else ""


def boxes_of(room: str, graph: Mapping[str, set[str]]) -> dict[str, Box]:
    """The boxes of a room, on their floors (0 is the lowest)."""
    package = prefix_of(room)

    def name_of(module: str) -> str | None:
        return module.removeprefix(package).split(".")[0] if module.startswith(package) else None

    boxes: dict[str, Box] = {}
    for module, imported in sorted(graph.items()):
        name = name_of(module)
        if name:
            box = boxes.setdefault(name, Box(name))
            box.modules.append(module)
            box.imports |= {other for target in imported if (other := name_of(target)) and other != name}
    for _ in boxes:  # a floor rises at most once for each box below it
        for box in boxes.values():
            box.floor = max((boxes[other].floor + 1 for other in box.imports if other in boxes), default=0)
    return boxes


def place(boxes: Mapping[str, Box], top: float) -> float:
    """Sets each box's place, the highest floor first; the frame's height in px."""
    floors = sorted({box.floor for box in boxes.values()}, reverse=True)
    fitting = (WIDTH - 2 * MARGIN) // (BOX + GAP)
    y = top + TITLE
    for floor in floors:
        row = [box for box in boxes.values() if box.floor == floor]
        for start in range(0, len(row), fitting):
            line = row[start : start + fitting]
            left = (WIDTH - len(line) * (BOX + GAP) + GAP) / 2
            for at, box in enumerate(line):
                box.x, box.y = left + at * (BOX + GAP), y
            y += FLOOR
    return y - top - FLOOR + BOX_HEIGHT + 14


def ways(files: Mapping[str, str]) -> dict[str, list[str]]:
    """Way -> the modules that it enters, in the order of the first time."""
    found = {}
    for way, start in WAYS.items():
        walked = house.Walk(files)
        module, function, parameter = start
        walked.follow(module, function, frozenset({parameter}))
        found[way] = list(dict.fromkeys(walked.way))
    return found


def numbers(
    room: str, boxes: Mapping[str, Box], entered: Mapping[str, list[str]]
) -> dict[str, list[tuple[str, int]]]:
    """Box -> (way, number) for each way that comes through it, counted within the room."""
    found: dict[str, list[tuple[str, int]]] = {name: [] for name in boxes}
    prefix = prefix_of(room)
    for way, modules in entered.items():
        names = [module.removeprefix(prefix).split(".")[0] for module in modules if module.startswith(prefix)]
        for number, name in enumerate(dict.fromkeys(names), 1):
            if name in found:
                found[name].append((way, number))
    return found


def drawn(
    room: str, boxes: Mapping[str, Box], top: float, height: float, entered: Mapping[str, list[str]]
) -> list[str]:
    """A room's frame, its arrows and its boxes as SVG."""
    floors = len({box.floor for box in boxes.values()})
    modules = sum(len(box.modules) for box in boxes.values())
    rows = [
        f'<rect class="room" x="8" y="{top:g}" width="{WIDTH - 16}" height="{height:g}" rx="8"/>',
        f'<text class="title" x="{MARGIN}" y="{top + 22:g}">{escape(room or "the house")}</text>',
        f'<text class="quiet" x="{WIDTH - MARGIN}" y="{top + 22:g}" text-anchor="end">'
        f"{len(boxes)} boxes, {floors} floors, {modules} modules</text>",
    ]
    for box in boxes.values():
        for other in sorted(box.imports & {*boxes}):
            x, y = box.x + BOX / 2, box.y + BOX_HEIGHT
            to, below = boxes[other].x + BOX / 2, boxes[other].y
            curve = f"M{x:g} {y:g}C{x:g} {y + 26:g} {to:g} {below - 26:g} {to:g} {below:g}"
            rows.append(f'<path class="arrow" d="{curve}"/>')
    badges = numbers(room, boxes, entered)
    for box in boxes.values():
        folder = box.modules[0] != prefix_of(room) + box.name
        size = f"{len(box.modules)} module{'s' if len(box.modules) > 1 else ''}" if folder else "a file"
        middle = box.x + BOX / 2
        rows += [
            f'<rect class="box" x="{box.x:g}" y="{box.y:g}" width="{BOX}" height="{BOX_HEIGHT}" rx="6"/>',
            f'<text x="{middle:g}" y="{box.y + 17:g}" text-anchor="middle">{escape(box.name)}</text>',
            f'<text class="quiet" x="{middle:g}" y="{box.y + 31:g}" text-anchor="middle">{size}</text>',
        ]
        for at, (way, number) in enumerate(badges[box.name]):
            x = box.x + BOX - 4 - 19 * at
            rows += [
                f'<circle class="{way}" cx="{x:g}" cy="{box.y:g}" r="9"/>',
                f'<text class="number" x="{x:g}" y="{box.y + 3.5:g}" text-anchor="middle">{number}</text>',
            ]
    return rows


def draw(root: Path = house.ROOT) -> str:
    """The whole picture as SVG text, the same for the same sources."""
    files = house.sources(root, "app", "ui", *house.ROOMS)
    graph = house.import_graph(files)
    entered = ways(files)
    body, top = [], 64.0
    for room in ROOMS:
        boxes = boxes_of(room, graph)
        height = place(boxes, top)
        body += drawn(room, boxes, top, height, entered)
        top += height + 14
    legend = [
        f'<text class="title" x="{MARGIN}" y="24">LoRA Lens: every arrow is an import and points down</text>',
        f'<circle class="row" cx="{MARGIN + 8}" cy="42" r="7"/>',
        f'<text class="quiet" x="{MARGIN + 22}" y="46">the way of a row, from open_dataset on</text>',
        f'<circle class="run" cx="{MARGIN + 268}" cy="42" r="7"/>',
        f'<text class="quiet" x="{MARGIN + 282}" y="46">the way of a run, from worker.main on</text>',
    ]
    size = f'width="{WIDTH}" height="{top:g}" viewBox="0 0 {WIDTH} {top:g}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{STYLE}</style>'
    return "\n".join(
        [head, f'<rect class="paper" width="{WIDTH}" height="{top:g}"/>', *legend, *body, "</svg>\n"]
    )


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
    print(PICTURE.relative_to(house.ROOT))
