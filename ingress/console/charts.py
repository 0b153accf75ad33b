"""Charts as inline SVG: no script, no file of anybody else's, colours from the sheet.

Only lines and bars are drawn. What is written on them stands beside as HTML, so that it is as large on a phone; and
every chart has its figures as a text or a table beside it.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

WIDTH, HEIGHT = 600, 120


class Mark(NamedTuple):
    """Something that happened: a line across the chart. ``at`` is a share of its width."""

    at: float
    kind: str
    text: str


class Picture(NamedTuple):
    """What is drawn: ``series`` with their classes in the sheet, a title for each step, what happened meanwhile."""

    label: str
    classes: Sequence[str]
    series: Sequence[Sequence[float | None]]
    titles: Sequence[str]
    marks: Sequence[Mark] = ()

    @property
    def steps(self) -> Iterable[tuple[float | None, ...]]:
        return zip(*self.series, strict=True)

    @property
    def width(self) -> float:
        """Of a step."""
        return WIDTH / max(1, len(self.titles))


def sparkline(values: Sequence[float], label: str) -> Markup:
    """A small line without axes; *label* says its figures."""
    points = _points(values, max(values, default=0) or 1)
    area = f'<polygon class="area" points="0,{HEIGHT} {points} {WIDTH},{HEIGHT}"/>'
    return _svg("sparkline", label, f'{area}<polyline points="{points}"/>')


def _points(values: Sequence[float], top: float) -> str:
    step, high = WIDTH / max(1, len(values) - 1), HEIGHT - 16
    return " ".join(f"{place * step:.1f},{8 + high - value / top * high:.1f}" for place, value in enumerate(values))


def bars(picture: Picture) -> tuple[Markup, float]:
    """The series one upon the other; and where the axis ends."""
    top = nice(max((sum(value or 0 for value in values) for values in picture.steps), default=0))
    width, lows, drawn = picture.width, [float(HEIGHT)] * len(picture.titles), ""
    for name, values in zip(picture.classes, picture.series, strict=True):
        path = ""
        for place, value in enumerate(values):
            if value:
                high = value / top * HEIGHT
                path += f"M{(place + 0.1) * width:.1f} {lows[place]:.1f}v-{high:.1f}h{0.8 * width:.1f}v{high:.1f}z"
                lows[place] -= high
        drawn += f'<path class="bars {escape(name)}" d="{path}"/>'
    return _plot(picture, drawn), top


def lines(picture: Picture) -> tuple[Markup, float]:
    """A line for each of the series, broken where there is no value; and where the axis ends."""
    top = nice(max((value or 0 for values in picture.series for value in values), default=0))
    drawn = "".join(
        f'<path class="line {escape(name)}" d="{_path(values, picture.width, top)}"/>'
        for name, values in zip(picture.classes, picture.series, strict=True)
    )
    return _plot(picture, drawn), top


def _path(values: Sequence[float | None], width: float, top: float) -> str:
    path, pen = "", "M"
    for place, value in enumerate(values):
        if value is None:
            pen = "M"
        else:
            path += f"{pen}{(place + 0.5) * width:.1f} {HEIGHT - value / top * HEIGHT:.1f}"
            path += "h.1" if pen == "M" else ""  # between two gaps it is a dot
            pen = "L"
    return path


def nice(most: float) -> float:
    """The end of an axis that holds *most*: 1, 2 or 5 with noughts."""
    scale = 1.0
    while scale * 10 < most:
        scale *= 10
    return next((scale * factor for factor in (1, 2, 5) if scale * factor >= most), scale * 10)


def _step(place: int, width: float, title: str) -> str:
    box = f"M{place * width:.1f} 0h{width:.1f}V{HEIGHT}h-{width:.1f}z"
    return f'<path class="step" d="{box}"><title>{escape(title)}</title></path>'


def _mark(mark: Mark) -> str:
    line = f"M{mark.at * WIDTH:.1f} 0V{HEIGHT}"
    return f'<path class="mark {escape(mark.kind)}" d="{line}"><title>{escape(mark.text)}</title></path>'


def _plot(picture: Picture, drawn: str) -> Markup:
    drawn += "".join(_step(place, picture.width, title) for place, title in enumerate(picture.titles))
    drawn += "".join(map(_mark, picture.marks))
    grid = f'<path class="grid-line" d="M0 .5H{WIDTH}M0 {HEIGHT / 2}H{WIDTH}M0 {HEIGHT - 0.5}H{WIDTH}"/>'
    return _svg("plot", picture.label, grid + drawn)


def _svg(kind: str, label: str, drawn: str) -> Markup:
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none"'
    # Every text in it is escaped where it is put in: what formats Markup takes ten times as long.
    return Markup(f'<svg class="{kind}" {box} role="img" aria-label="{escape(label)}">{drawn}</svg>')  # noqa: S704  (its texts are escaped)
