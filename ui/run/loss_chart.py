"""The loss chart: (step, loss) points in, HTML with an SVG line out.

Its colours are CSS variables, so that a switch between light and dark needs no redraw.
"""

import html
import math
from collections.abc import Sequence

from ui.i18n import Language, escaped, number, say

MOST_POINTS = 240
Point = tuple[float, float]


def loss_chart(language: Language, training: Sequence[Point], held_out: Sequence[Point], total: int) -> str:
    """The line stretches with its card; labels and dots keep their size. `total` is the run's last step."""
    points = [*training, *held_out]
    if not points:
        return f'<p class="small waiting">{escaped(language, "loss_waiting")}</p>'
    top = ceiling(max(loss for _, loss in points))
    last_step = max(total, int(max(step for step, _ in points)), 1)

    def place(point: Point) -> Point:
        return 100 * point[0] / last_step, 100 * (1 - point[1] / top)

    line = " ".join(f"{x:.2f},{y:.2f}" for x, y in map(place, thinned(training, MOST_POINTS)))
    dots = "".join(f'<i style="left:{x:.2f}%;top:{y:.2f}%"></i>' for x, y in map(place, held_out))
    grid = "".join(f'<path d="M0 {y}H100"/>' for y in (0, 50, 100))
    newest = (training or held_out)[-1][1]
    label = say(language, "loss_label", total=last_step, loss=number(language, newest, 3))
    return (
        f'<div class="plot" role="img" aria-label="{html.escape(label)}">'
        f'<span class="y" style="top:0">{number(language, top, decimals_of(top))}</span>'
        '<span class="y" style="top:100%">0</span>'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none"><g class="grid">{grid}</g>'
        f'<polyline points="{line}"/></svg>{dots}'
        f'<span class="x">{escaped(language, "step_n", step=number(language, last_step))}</span></div>'
        f'<p class="small legend"><u></u>{escaped(language, "legend_train")}'
        f"<i></i>{escaped(language, 'legend_held_out')}</p>"
    )


def ceiling(value: float) -> float:
    """The next round number (1, 1.5, 2, 3, 4, 5, 6, 8 or 10 times a power of ten) at or above `value`."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * power >= value * 0.999)


def decimals_of(top: float) -> int:
    """Enough to write a round number: 1.5 needs one, 0.04 two."""
    return next(decimals for decimals in range(12) if math.isclose(round(top, decimals), top))


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
