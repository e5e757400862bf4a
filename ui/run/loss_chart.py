"""The loss chart's geometry: (step, loss) points in, places in percent out; `run_charts` draws it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from training.sharing.drawing import Point, ceiling, thinned
from ui.i18n import Language, number, say

MOST_POINTS = 240


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
