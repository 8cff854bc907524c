"""The report's diagrams: accuracy, paired differences, accuracy against cost, reliability."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from nnunet_kd.report.calibration import Reliability
from nnunet_kd.report.measurements import HIGHER_IS_BETTER, SHARES
from nnunet_kd.report.numbers import Numbers
from nnunet_kd.report.style import FAINT, INK, PAPER, MethodStyle, new_figure

WIDTH_IN = 7.2
Styles = Mapping[str, MethodStyle]


def dot_plot(numbers: Numbers, metric: str, styles: Styles) -> Figure:
    """Mean and standard deviation of what every comparable method has, one panel for each class.

    A ring marks significant differences. Axes end where the metric does: at 0, and shares at 1.

    Source: the form is that of Noothout et al. 2022, Fig. 4.
    """
    panels = numbers.columns
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    rows = -(-len(panels) // columns)
    height = rows * (0.21 * len(numbers.methods) + 0.62) + 0.15
    figure = new_figure(WIDTH_IN, height, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    positions = np.arange(len(numbers.methods))[::-1]
    for ax, (label, title) in zip(grid.flat, panels.items(), strict=False):
        for y, method in zip(positions, numbers.methods, strict=True):
            score, style = numbers.score(method, metric, label), styles[method]
            mean, sd = score.common_mean, score.common_sd
            if not np.isfinite(mean):
                reason = "not comparable" if np.isfinite(score.mean) else "undefined"
                ax.text(0.5, y, reason, transform=ax.get_yaxis_transform(), ha="center", va="center", color=FAINT)
                continue
            sd = sd if np.isfinite(sd) else 0.0
            ax.plot([mean - sd, mean + sd], [y, y], color=style.color, lw=1.6, solid_capstyle="butt")
            ax.plot(mean, y, style.marker, color=style.color, ms=6, mec=PAPER, mew=0.4, zorder=3, clip_on=False)
            test = numbers.test(method, numbers.roles.reference, metric, label)
            if test is not None and test.significant:
                ax.plot(mean, y, "o", mfc="none", mec=INK, ms=10, mew=1.1, zorder=4, clip_on=False)
        low, high = ax.get_xlim()
        ax.set_xlim(max(low, 0.0), min(high, 1.0) if metric in SHARES else high)
        ax.set_title(title, loc="left")
        ax.set_ylim(-0.6, len(positions) - 0.4)
        ax.grid(axis="y", color=FAINT, lw=0.4, alpha=0.5)
        ax.set_axisbelow(True)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.tick_params(axis="y", length=0)
    for ax in grid.flat[len(panels) :]:
        ax.remove()
    for row in grid:
        row[0].set_yticks(positions, numbers.methods)
    figure.supxlabel(numbers.title(metric), fontsize=8)
    return figure


def paired_plot(numbers: Numbers, first: str, second: str, metric: str, styles: Styles) -> Figure:
    """Left: each case of one method against the other. Right: the differences in order, their mean and its interval."""
    test = numbers.test(first, second, metric)
    assert test is not None, (first, second)
    figure = new_figure(WIDTH_IN, 2.7, layout="constrained")
    scatter, sorted_ax = figure.subplots(1, 2, width_ratios=(1, 1.75))
    values = numbers.pair(first, second, metric).dropna()
    a, b = values[first].to_numpy(), values[second].to_numpy()
    _scatter_pairs(scatter, b, a, styles[first])
    title = numbers.title(metric)
    scatter.set(xlabel=f"{second}: {title}", ylabel=f"{first}: {title}")
    _sorted_differences(sorted_ax, np.sort(a - b), test, title)
    return figure


def _scatter_pairs(ax: Axes, x: np.ndarray, y: np.ndarray, style: MethodStyle) -> None:
    if x.size:
        low, high = min(x.min(), y.min()), max(x.max(), y.max())
        pad = 0.05 * (high - low) or 0.01
        limits = low - pad, high + pad
        ax.plot(limits, limits, color=FAINT, lw=0.8, zorder=1)
        ax.set(xlim=limits, ylim=limits)
    ax.plot(x, y, style.marker, color=style.color, ms=4, mec=PAPER, mew=0.4, alpha=0.9)
    ax.set_aspect("equal")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(4))


def _sorted_differences(ax: Axes, difference: np.ndarray, test: Any, title: str) -> None:
    good = difference > 0 if HIGHER_IS_BETTER[test.metric] else difference < 0
    rank = np.arange(1, difference.size + 1)
    ax.axhline(0, color=INK, lw=0.8)
    if np.isfinite(test.low):
        ax.axhspan(test.low, test.high, color=FAINT, alpha=0.28, lw=0)
    if np.isfinite(test.mean):
        ax.axhline(test.mean, color=INK, lw=1.2, ls=(0, (5, 2)))
    ax.vlines(rank, 0, difference, color=FAINT, lw=0.9)
    for chosen, marker, face, name in ((good, "o", INK, "better"), (~good, "o", PAPER, "worse or equal")):
        ax.plot(rank[chosen], difference[chosen], marker, mfc=face, mec=INK, ms=3.6, mew=0.8, ls="none", label=name)
    ax.set(xlabel="cases, in order of the difference", ylabel=f"{test.first} − {test.second}: {title}")
    ax.set_xlim(0.2, difference.size + 0.8)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.legend(loc="lower right", handletextpad=0.1, borderaxespad=0.2)


def cost_plot(
    numbers: Numbers,
    metric: str,
    costs: Mapping[str, Mapping[str, float]],
    fronts: Mapping[str, Collection[str]],
    titles: Mapping[str, str],
    styles: Styles,
) -> Figure:
    """Accuracy against each kind of cost, logarithmic; the Pareto front is a stepped line through ringed points.

    Args:
        numbers: the report's numbers.
        metric: on the vertical axis.
        costs: of each kind: cost of each method, positive.
        fronts: of each kind: Pareto-optimal methods by rising cost.
        titles: axis label of each kind.
        styles: of each method.
    """
    figure = new_figure(WIDTH_IN if len(costs) > 1 else WIDTH_IN / 2 + 0.4, 2.9, layout="constrained")
    axes = figure.subplots(1, len(costs), squeeze=False, sharey=True)[0]
    for ax, (kind, cost) in zip(axes, costs.items(), strict=True):
        names = [n for n in numbers.methods if n in cost]
        x, y = [cost[n] for n in names], [numbers.score(n, metric).common_mean for n in names]
        front = [names.index(n) for n in fronts[kind]]
        ax.set_xscale("log")
        ax.step([x[i] for i in front], [y[i] for i in front], where="post", color=FAINT, lw=1, ls=(0, (4, 2)), zorder=1)
        for i, name in enumerate(names):
            style, student = styles[name], name == numbers.roles.student
            look = {"ms": 5 if student else 7, "zorder": 4 if student else 3}  # seen also where its twin is as good
            ax.plot(x[i], y[i], style.marker, color=style.color, mec=PAPER, mew=0.6, ls="none", label=name, **look)
            if i in front:
                ax.plot(x[i], y[i], "o", mfc="none", mec=INK, ms=11, mew=1.1, zorder=2)
        ax.set_xlabel(titles[kind])
        ax.grid(color=FAINT, lw=0.4, alpha=0.4)
        ax.set_axisbelow(True)
        ax.margins(0.14)
        _log_ticks(ax, x)
    axes[0].set_ylabel(f"{numbers.title(metric)}, {numbers.over}")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(4, len(names)))
    return figure


def _log_ticks(ax: Axes, values: Sequence[float]) -> None:
    """Plain numbers; also between the powers of ten where the values span less than two of them."""
    span = np.log10(max(values) / min(values)) if values else 0
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if span < 2 else (1.0,), numticks=12))
    ax.xaxis.set_major_formatter(_PLAIN)
    ax.xaxis.set_minor_formatter(NullFormatter())


_PLAIN = FuncFormatter(lambda v, _: f"{v:g}" if 1e-3 <= v < 1e4 else f"{v:.0e}")


def reliability_plot(curves: Mapping[str, Reliability], styles: Styles) -> Figure:
    """Left: accuracy against confidence, with the diagonal of perfect calibration. Right: where the voxels are."""
    figure = new_figure(WIDTH_IN, 3.0, layout="constrained")
    ax, share = figure.subplots(1, 2, width_ratios=(1, 1))
    ax.plot([0, 1], [0, 1], color=FAINT, lw=0.8)
    lowest = 1.0
    for name, curve in curves.items():
        style, used = styles[name], curve.count > 0
        lowest = min(lowest, curve.mean_confidence[used].min(initial=1), curve.accuracy[used].min(initial=1))
        line = {"color": style.color, "marker": style.marker, "ms": 4, "mec": PAPER, "mew": 0.4, "lw": 1.1}
        ax.plot(curve.mean_confidence[used], curve.accuracy[used], label=f"{name}: ECE {curve.error:.4f}", **line)
        middles = (np.arange(len(curve.count)) + 0.5) / len(curve.count)
        share.plot(middles[used], curve.count[used] / curve.count.sum(), **line)
    low = np.floor(10 * lowest) / 10
    ax.set(xlabel="confidence (mean of each bin)", ylabel="share of right voxels", xlim=(low, 1.01), ylim=(low, 1.01))
    ax.set_aspect("equal")
    ax.legend(loc="upper left")
    share.set(xlabel="confidence (middle of each bin)", ylabel="share of voxels", xlim=(low, 1.01), yscale="log")
    share.yaxis.set_major_formatter(_PLAIN)
    for a in (ax, share):
        a.grid(color=FAINT, lw=0.4, alpha=0.4)
        a.set_axisbelow(True)
    return figure
