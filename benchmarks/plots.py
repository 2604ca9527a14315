"""Plots as SVG, written by hand: panels of horizontal bars, and curves. Pure: numbers in, text out.

The colours are told apart by the colour-blind and on light and dark pages alike: a plot brings its own background.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from xml.sax.saxutils import escape

# Paul Tol's "bright" scheme, black for what comes last.
COLOURS = ("#4477aa", "#66ccee", "#aa3377", "#ee6677", "#228833", "#ccbb44", "#222222")
_FONT = "font-family='system-ui, sans-serif'"
_BACK, _INK, _FAINT, _GRID = "#ffffff", "#1a1a1a", "#666666", "#dddddd"
_ROW, _BAR = 17, 12
_PANEL_WIDTH, _NAME_WIDTH, _VALUE_WIDTH = 430, 118, 64
_GAP = 26
_RANGE_ROW = 26
_MARKS = ("#228833", "#4477aa", "#ee6677", "#222222")  # for up to four values of a range
_PLOT_WIDTH, _PLOT_HEIGHT, _LEFT, _TOP, _BOTTOM, _LEGEND_WIDTH = 520, 260, 58, 68, 46, 150


@dataclass(frozen=True, slots=True)
class Panel:
    """A group of bars with a scale of its own."""

    title: str
    bars: tuple[tuple[str, float], ...]  # name and value


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a chart."""

    name: str
    points: tuple[tuple[float, float], ...]


def panels(title: str, groups: Sequence[Panel], colours: dict[str, str], columns: int = 2) -> str:
    """Panels of bars, in so many columns; every value is written beside its bar."""
    rows = [groups[start : start + columns] for start in range(0, len(groups), columns)]
    parts: list[str] = []
    top = 46.0
    for row in rows:
        for column, panel in enumerate(row):
            parts += _panel(panel, _GAP + column * (_PANEL_WIDTH + _GAP), top, colours)
        top += max(len(panel.bars) for panel in row) * _ROW + 20 + _GAP
    return _svg(_GAP + columns * (_PANEL_WIDTH + _GAP), top, title, parts)


def curves(title: str, x_axis: str, y_axis: str, lines: Sequence[Curve], colours: dict[str, str]) -> str:
    """Curves over a linear x and a logarithmic y: what matters is the factor between them."""
    values = [y for curve in lines for _, y in curve.points]
    xs = sorted({x for curve in lines for x, _ in curve.points})
    low, high = floor(log10(min(values)) * 2) / 2, ceil(log10(max(values)) * 2) / 2
    right, bottom = _LEFT + _PLOT_WIDTH, _TOP + _PLOT_HEIGHT

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - xs[0]) / ((xs[-1] - xs[0]) or 1)
        return _LEFT + across * _PLOT_WIDTH, bottom - (log10(y) - low) / ((high - low) or 1) * _PLOT_HEIGHT

    parts = []
    for tick in _log_ticks(low, high):
        _, y = at(xs[0], tick)
        parts.append(f"<line x1='{_LEFT}' y1='{y:.1f}' x2='{right}' y2='{y:.1f}' stroke='{_GRID}'/>")
        parts.append(_text(_LEFT - 7, y + 4, f"{tick:g}", anchor="end", colour=_FAINT))
    for tick in xs:
        x, _ = at(tick, values[0])
        parts.append(f"<line x1='{x:.1f}' y1='{_TOP}' x2='{x:.1f}' y2='{bottom}' stroke='{_GRID}'/>")
        parts.append(_text(x, bottom + 16, f"{tick:g}", anchor="middle", colour=_FAINT))
    parts.append(_text(_LEFT + _PLOT_WIDTH / 2, bottom + 34, x_axis, anchor="middle"))
    parts.append(_text(_GAP, _TOP - 16, y_axis, colour=_FAINT))
    ends = sorted(((*at(*curve.points[-1]), curve) for curve in lines), key=lambda end: end[1])
    label = (0.0, -1e9)
    for across, down, curve in ends:
        colour = colours[curve.name]
        spots = [at(x, y) for x, y in curve.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        parts.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2.2'/>")
        parts += [f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3.2' fill='{colour}'/>" for x, y in spots]
        # Names of curves that end close together stand below each other.
        label = (across, max(label[1] + 15, down) if across == label[0] else down)
        parts.append(_text(across + 10, label[1] + 4, curve.name, colour=colour, weight=600))
    return _svg(right + _LEGEND_WIDTH, max(bottom + _BOTTOM, label[1] + 16), title, parts)


def ranges(title: str, unit: str, rows: Sequence[tuple[str, Sequence[float]]], marks: Sequence[str]) -> str:
    """One line for each row, from its first to its last value on a logarithmic axis, with a mark at each value."""
    values = [value for _, row in rows for value in row]
    low, high = floor(log10(min(values)) * 2) / 2, ceil(log10(max(values)) * 2) / 2
    left, top = 170, 66
    right, bottom = left + _PLOT_WIDTH, top + len(rows) * _RANGE_ROW

    def at(value: float) -> float:
        return left + (log10(value) - low) / ((high - low) or 1) * _PLOT_WIDTH

    parts = []
    for place, mark in enumerate(marks):
        parts.append(_dot(left + 8 + place * 62, 44, place))
        parts.append(_text(left + 17 + place * 62, 48, mark))
    for tick in _log_ticks(low, high):
        parts.append(f"<line x1='{at(tick):.1f}' y1='{top - 8}' x2='{at(tick):.1f}' y2='{bottom}' stroke='{_GRID}'/>")
        parts.append(_text(at(tick), bottom + 16, f"{tick:g}", anchor="middle", colour=_FAINT))
    parts.append(_text(left + _PLOT_WIDTH / 2, bottom + 34, unit, anchor="middle"))
    for line, (name, row) in enumerate(rows):
        y = top + (line + 0.4) * _RANGE_ROW
        parts.append(_text(left - 10, y + 4, name, anchor="end"))
        span = f"x1='{at(row[0]):.1f}' y1='{y:.1f}' x2='{at(row[-1]):.1f}' y2='{y:.1f}'"
        parts.append(f"<line {span} stroke='{_FAINT}' stroke-width='1.5'/>")
        parts += [_dot(at(value), y, place) for place, value in enumerate(row)]
    return _svg(right + 40, bottom + _BOTTOM, title, parts)


def _dot(x: float, y: float, place: int) -> str:
    return f"<circle cx='{x:.1f}' cy='{y:.1f}' r='4.5' fill='{_MARKS[place]}'/>"


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """The same colour for the same place in a table of names, in all plots of a page."""
    return {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}


def number(value: float) -> str:
    """Three digits, without the noise behind them."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _panel(panel: Panel, left: float, top: float, colours: dict[str, str]) -> list[str]:
    parts = [_text(left, top + 8, panel.title, weight=600)]
    room = _PANEL_WIDTH - _NAME_WIDTH - _VALUE_WIDTH
    scale = room / (max((value for _, value in panel.bars), default=1.0) or 1.0)
    for place, (name, value) in enumerate(panel.bars):
        y = top + 20 + place * _ROW
        start, width = left + _NAME_WIDTH, max(1.0, value * scale)
        parts.append(_text(start - 6, y + _BAR - 2, name, anchor="end"))
        parts.append(
            f"<rect x='{start:.1f}' y='{y:.1f}' width='{width:.1f}' height='{_BAR}' rx='2' fill='{colours[name]}'/>"
        )
        parts.append(_text(start + width + 5, y + _BAR - 2, number(value), colour=_FAINT))
    return parts


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each decade; only 1 where that would be too many."""
    steps = (1.0, 2.0, 5.0) if high - low <= 2.5 else (1.0,)
    ticks = [step * 10.0**decade for decade in range(floor(low), ceil(high) + 1) for step in steps]
    return [tick for tick in ticks if low - 1e-9 <= log10(tick) <= high + 1e-9]


def _text(x: float, y: float, words: str, *, anchor: str = "start", colour: str = _INK, weight: int = 400) -> str:
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' font-size='12' font-weight='{weight}' text-anchor='{anchor}'"
        f" fill='{colour}'>{escape(words)}</text>"
    )


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    size = f"width='{width:.0f}' height='{height:.0f}' viewBox='0 0 {width:.0f} {height:.0f}'"
    head = f"<text x='{_GAP}' y='24' font-size='15' font-weight='700' fill='{_INK}'>{escape(title)}</text>"
    lines = [
        f"<svg xmlns='http://www.w3.org/2000/svg' {size} {_FONT} role='img'>",
        f"<title>{escape(title)}</title>",
        f"<rect width='100%' height='100%' fill='{_BACK}'/>",
        head,
        *parts,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"
