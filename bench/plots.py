"""Draw the pictures of a record: `plots.py FILE.json`, in the peers' environment, which has matplotlib."""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

_OURS, _OTHERS, _LIMIT = "#c2410c", "#64748b", "#cbd5e1"


def _colour(way: str) -> str:
    if way.startswith("kc-worker"):
        return _OURS
    return _LIMIT if way.startswith("direct") else _OTHERS


def _bars(axes: Any, record: dict[str, Any], plot: dict[str, Any]) -> None:
    rows = [row for row in record["rows"] if row.get(plot["value"]) is not None]
    ways, values = [row["way"] for row in rows], [row[plot["value"]] for row in rows]
    bars = axes.barh(ways, values, color=[_colour(way) for way in ways])
    axes.bar_label(
        bars, labels=[f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values], padding=3
    )
    axes.invert_yaxis()
    axes.set_xlabel(plot["label"])
    axes.margins(x=0.12)


def _line(axes: Any, record: dict[str, Any], plot: dict[str, Any]) -> None:
    points = sorted((row[plot["x"]], row[plot["value"]]) for row in record["rows"])
    axes.plot(*zip(*points, strict=True), marker="o", color=_OURS)
    axes.set_xscale("log")
    axes.set_ylim(0, 1.2 * max(value for _, value in points))
    axes.set_xlabel(plot["x_label"])
    axes.set_ylabel(plot["label"])


def main() -> None:
    """Draw them beside the record."""
    file = Path(sys.argv[1])
    record = json.loads(file.read_text())
    for suffix, plot in record["plots"].items():
        height = 1.2 + 0.34 * len(record["rows"]) if plot["kind"] == "bars" else 4
        figure, axes = plt.subplots(figsize=(8, height), layout="constrained")
        (_bars if plot["kind"] == "bars" else _line)(axes, record, plot)
        axes.set_title(record["title"], fontsize=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(file.with_name(f"{file.stem}-{suffix}.png"), dpi=110)
        plt.close(figure)


if __name__ == "__main__":
    main()
