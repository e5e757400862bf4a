"""The loss chart's geometry: (step, loss) points in, places in percent out; `run_charts` draws it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ui.i18n import Language, number, say

MOST_POINTS = 240
Point = tuple[float, float]


@dataclass(frozen=True)
class Plot:
    """`line` is an SVG polyline in a box of 100 by 100; `dots` are places in percent, from the top left."""

    label: str
    top: str
    line: str
    dots: list[Point]
    last_step: int


def plotted(
    language: Language, training: Sequence[Point], held_out: Sequence[Point], total: int
) -> Plot | None:
    """None while there is nothing to draw. `total` is the run's last step."""
    points = [*training, *held_out]
    if not points:
        return None
    top = ceiling(max(loss for _, loss in points))
    last_step = max(total, int(max(step for step, _ in points)), 1)

    def place(point: Point) -> Point:
        return 100 * point[0] / last_step, 100 * (1 - point[1] / top)

    newest = (training or held_out)[-1][1]
    decimals = next(decimals for decimals in range(12) if math.isclose(round(top, decimals), top))
    return Plot(
        label=say(language, "loss_label", total=last_step, loss=number(language, newest, 3)),
        top=number(language, top, decimals),
        line=" ".join(f"{x:.2f},{y:.2f}" for x, y in map(place, thinned(training, MOST_POINTS))),
        dots=[place(point) for point in held_out],
        last_step=last_step,
    )


def ceiling(value: float) -> float:
    """The next round number (1, 1.5, 2, 3, 4, 5, 6, 8 or 10 times a power of ten) at or above `value`."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * power >= value * 0.999)


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """At most `most` points: neighbours become their mean, the last one stays itself."""
    size = math.ceil(len(points) / most)
    if size <= 1:
        return list(points)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    means = [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups
    ]
    return [*means, points[-1]]
