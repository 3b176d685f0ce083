"""Pictures as data URIs: arrays as JPEG, loss curves as SVG. All can be read in black and white."""

import base64
import io
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_dilation
from torch.nn import functional

Array = NDArray[np.float32]

LONGEST = 256  # side of an embedded image, pixels
DIFFERENCE_SCALE = 0.5  # change in display value that is drawn as black or white
READER_FONTS = b"'Helvetica Neue', Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
INK, QUIET = "#1c1c1a", "#73736d"
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "cxrsynth",  # the same curves give the same bytes
    "font.family": "DejaVu Sans",  # comes with matplotlib, so texts are measured alike everywhere
    "font.size": 9.5,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
}


def grey(image: Array, longest: int = LONGEST) -> str:
    """A display image `[H, W]` in [0, 1], its longer side at most `longest` pixels."""
    return _jpeg(np.repeat(_shrink(image, longest)[..., None], 3, axis=2))


def attention(image: Array, attention_map: Array) -> str:
    """The map as colour over its image; lightness follows attention, so it reads in grey too."""
    heat = colormaps["inferno"](_shrink(attention_map))[..., :3]
    return _jpeg(0.35 * _shrink(image)[..., None] + 0.65 * heat)


def outlined(image: Array, region: NDArray[np.bool_]) -> str:
    """The image with the region's border in white on black."""
    small = _shrink(image)
    inside = _shrink(region.astype(np.float32)) > 0.5
    thick = max(1, round(max(small.shape) / 128))
    white = binary_dilation(inside, iterations=thick) & ~inside
    black = binary_dilation(inside, iterations=2 * thick) & ~inside & ~white
    return _jpeg(np.where(white, 1, np.where(black, 0, small))[..., None].repeat(3, axis=2))


def difference(before: Array, after: Array) -> str:
    """Result minus source: mid-grey where nothing changed, lighter where brighter, darker where darker."""
    return grey(np.clip(0.5 + (after - before) / (2 * DIFFERENCE_SCALE), 0, 1))


def loss_curves(curves: dict[str, pd.DataFrame]) -> dict[str, str]:
    """Training and validation loss of each classifier over its steps, on the same axes, one SVG each (Figure A1)."""
    series = {
        arm: {
            name: table[["step", f"{name}/loss"]].dropna().to_numpy()
            for name in ("train", "val")
            if f"{name}/loss" in table
        }
        for arm, table in curves.items()
    }
    values = [points for lines in series.values() for points in lines.values() if len(points)]
    if not values:
        return {}
    together = np.concatenate(values)
    limits = (together[:, 0].max() * 1.25 + 1, max(together[:, 1].max() * 1.05, 1e-6))
    return {arm: _curve(lines, limits) for arm, lines in series.items() if any(len(p) for p in lines.values())}


def loss_multiples(curves: dict[str, list[pd.DataFrame]], prior: float | None) -> dict[str, str]:
    """Losses of all trainings of each arm on the same axes, one small SVG an arm.

    Args:
        curves: Logged `step, train/loss, val/loss` of each training, by arm.
        prior: Validation loss of the prevalences as probabilities, drawn dotted.
    """
    lines = {
        arm: [(name, table[["step", f"{name}/loss"]].dropna().to_numpy()) for table in tables
              for name in ("train", "val") if f"{name}/loss" in table]
        for arm, tables in curves.items()
    }  # fmt: skip
    known = [points for of in lines.values() for _, points in of if len(points)]
    if not known:
        return {}
    together = np.concatenate(known)
    # a first loss far above all others would press every curve to the floor
    top = float(np.quantile(together[:, 1], 0.97)) * 1.1
    limits = (float(together[:, 0].max()) * 1.02 + 1, max(top, 1.15 * (prior or 0), 1e-6))
    return {arm: _multiple(of, limits, prior) for arm, of in lines.items() if any(len(points) for _, points in of)}


def _multiple(lines: list[tuple[str, NDArray[np.float64]]], limits: tuple[float, float], prior: float | None) -> str:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.6, 1.9), layout="constrained")
        axes = figure.add_subplot(xlim=(0, limits[0]), ylim=(0, limits[1]))
        axes.locator_params(nbins=4)
        if prior is not None:
            axes.axhline(prior, color=QUIET, linestyle=":", linewidth=1.2)
        for name, points in lines:
            style: Any = {"train": {"linestyle": "--", "color": QUIET}, "val": {"linestyle": "-", "color": INK}}[name]
            axes.plot(points[:, 0], points[:, 1], linewidth=1.1, **style)
        return _svg(figure)


def _svg(figure: Figure) -> str:
    content = io.BytesIO()
    figure.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _uri("image/svg+xml", content.getvalue().replace(b"'DejaVu Sans'", READER_FONTS))


def _curve(lines: dict[str, NDArray[np.float64]], limits: tuple[float, float]) -> str:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.7, 2.5), layout="constrained")
        axes = figure.add_subplot(xlabel="optimiser step", ylabel="loss", xlim=(0, limits[0]), ylim=(0, limits[1]))
        labels = {"train": ("training", QUIET, "--", "s"), "val": ("validation", INK, "-", "o")}
        ends = sorted((points[-1, 1], name) for name, points in lines.items() if len(points))
        for rank, (end, name) in enumerate(ends):
            text, colour, dash, marker = labels[name]
            points = lines[name]
            axes.plot(points[:, 0], points[:, 1], dash, color=colour, marker=marker, markersize=3, linewidth=1.4)
            apart = 0.08 * limits[1] * (rank if len(ends) > 1 and ends[1][0] - ends[0][0] < 0.08 * limits[1] else 0)
            axes.annotate(
                text, (points[-1, 0], end + apart), xytext=(5, 0), textcoords="offset points", va="center", color=colour
            )
        return _svg(figure)


def few_shot(rows: list[dict[str, Any]]) -> str:
    """Mean AUROC of each arm over the number of real positives, with intervals; arms differ by dash and marker."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    steps = list(dict.fromkeys(row["positives"] for row in rows))
    dashes, markers = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1))), "osD^v*"
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        axes = figure.add_subplot(xlabel="real training images of each finding", ylabel="mean AUROC")
        for number, arm in enumerate(arms):
            points = [row for row in rows if row["arm"] == arm]
            x = [steps.index(row["positives"]) + 0.06 * (number - len(arms) / 2) for row in points]
            y = [row["estimate"] for row in points]
            for place, row in zip(x, points, strict=True):
                if row["low"] is not None:
                    axes.plot([place, place], [row["low"], row["high"]], color=QUIET, linewidth=1)
            style: Any = {"linestyle": dashes[number % 6], "marker": markers[number % 6], "linewidth": 1.4}
            axes.plot(x, y, color=INK, markersize=4, label=points[0]["title"], **style)
        axes.set_xticks(range(len(steps)), ["all" if step is None else str(step) for step in steps])
        figure.legend(frameon=False, fontsize=8, loc="outside lower left", ncols=2)
        return _svg(figure)


def _shrink(image: Array, longest: int = LONGEST) -> Array:
    height, width = image.shape
    factor = min(1.0, longest / max(height, width))
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    batch = torch.from_numpy(np.ascontiguousarray(image, np.float32))[None, None]
    return functional.interpolate(batch, size, mode="bilinear", antialias=True)[0, 0].numpy()


def _jpeg(colour: NDArray[np.floating]) -> str:
    content = io.BytesIO()
    Image.fromarray(np.round(colour.clip(0, 1) * 255).astype(np.uint8)).save(content, "JPEG", quality=88)
    return _uri("image/jpeg", content.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
