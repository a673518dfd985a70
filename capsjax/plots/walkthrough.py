"""Figures and tables of the notebooks in docs/: numbers in, a figure out."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

BLUE, RED, GREY = "#2166ac", "#d6604d", "#777777"
COLORS = ("black", RED, BLUE, "#1b7837", "#e08214")
# Side of a window of the max pooling in the first figure.
WINDOW = 3


def table(head: Sequence, *rows: Sequence):
    """Make a Markdown table, which a notebook displays."""
    from IPython.display import Markdown

    lines = [f"| {' | '.join(map(str, row))} |" for row in (head, *rows)]
    ruler = "| --- " + "| ---: " * (len(head) - 1) + "|"
    return Markdown("\n".join([lines[0], ruler, *lines[1:]]))


def why_capsules() -> Figure:
    """Draw what capsules are meant for: viewpoint, overlap, and what pooling forgets."""
    figure = Figure(figsize=(9.5, 2.5), layout="constrained")
    axes = figure.subplots(1, 6, width_ratios=(1, 1, 1.3, 1, 1, 0.8))
    titles = ("Viewpoint: parts\nturn with the whole", "", "Overlap: whose\nis each part?")
    for axis, title in zip(axes[:3], titles, strict=True):
        axis.set(title=title, xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), aspect="equal")
        axis.set_axis_off()
    _house(axes[0], 0.0, (0.0, -0.1), BLUE)
    _house(axes[1], -35.0, (-0.1, -0.1), BLUE)
    _house(axes[2], -25.0, (-0.3, -0.2), BLUE)
    _house(axes[2], 30.0, (0.3, -0.1), RED)
    first, second = arrangements()
    pooled = max_pool(first)
    titles = ("Pooling: a face", "parts elsewhere", "after max pooling\nboth are this")
    for axis, image, title in zip(axes[3:], (first, second, pooled), titles, strict=True):
        axis.imshow(image, cmap="Blues", vmin=0, vmax=1.3)
        axis.set(title=title, xticks=[], yticks=[])
        for line in range(WINDOW, len(image), WINDOW) if len(image) > WINDOW else ():
            axis.axhline(line - 0.5, color=GREY, lw=0.8)
            axis.axvline(line - 0.5, color=GREY, lw=0.8)
    for axis in axes:
        axis.title.set_fontsize(9)
    return figure


def arrangements() -> tuple[np.ndarray, np.ndarray]:
    """Return two arrangements (9, 9) of the same features, which max pooling cannot tell apart."""
    face, other = np.zeros((2, 9, 9))
    # Two eyes, a nose, and the two ends of a mouth; each moves within its window.
    places = ((2, 2), (2, 6), (4, 4), (7, 2), (7, 6)), ((0, 0), (1, 8), (5, 3), (8, 0), (6, 8))
    for image, points in zip((face, other), places, strict=True):
        image[tuple(np.transpose(points))] = 1.0
    return face, other


def max_pool(image: np.ndarray) -> np.ndarray:
    """Return the largest value of each window of 3x3 pixels."""
    rows, columns = (side // WINDOW for side in image.shape)
    return image.reshape(rows, WINDOW, columns, WINDOW).max(axis=(1, 3))


def _house(axis: Axes, degrees: float, centre: tuple[float, float], color: str) -> None:
    """Draw walls and a roof, each with its own pose as an arrow, turned as one."""
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    walls = [(-0.6, -0.7), (0.6, -0.7), (0.6, 0.3), (-0.6, 0.3)]
    for corners in (walls, [(-0.8, 0.3), (0.8, 0.3), (0.0, 1.1)]):
        axis.add_patch(Polygon(corners @ turn.T + centre, fill=False, ec=color, lw=2))
        middle = np.mean(corners, axis=0) @ turn.T + centre
        arrow = {"arrowstyle": "-|>", "color": color, "lw": 1.2}
        axis.annotate("", middle + turn @ (0.0, 0.45), middle, arrowprops=arrow)


def images_in_a_row(images: Iterable[np.ndarray], titles: Iterable) -> Figure:
    """Draw images (h, w) side by side, ink on paper; three channels are colours."""
    images, titles = list(images), list(titles)
    figure = Figure(figsize=(0.85 * len(images), 1.2), layout="constrained")
    axes = np.ravel(figure.subplots(1, len(images), squeeze=False))
    for axis, image, title in zip(axes, images, titles, strict=True):
        axis.imshow(image, cmap="gray_r")
        axis.set_title(title, fontsize=9)
        axis.set_axis_off()
    return figure


def squash_curve(before: np.ndarray, after: np.ndarray) -> Figure:
    """Draw the length after squash against the length before."""
    figure, (axis,) = _panels(6.0, 3.0)
    axis.plot(before, after, color=BLUE, label=r"$|v|$, squashed")
    short = before <= 1
    axis.plot(before[short], before[short] ** 2, ":", color=RED, label=r"$|s|^2$")
    axis.axhline(1, color=GREY, lw=1, ls="--")
    axis.plot(3, 0.9, "o", color=BLUE)
    axis.annotate("worked by hand", (3, 0.9), (3.1, 0.72))
    axis.set(xlabel=r"$|s|$", ylabel=r"$|v|$", xlim=(0, 5), ylim=(0, 1.1))
    axis.legend(frameon=False, loc="center right", bbox_to_anchor=(1, 0.35))
    return figure


def votes_and_poses(votes: np.ndarray, routed: Mapping[int, tuple]) -> Figure:
    """Draw the votes for two upper capsules, as thick as their couplings, and the poses.

    Args:
      votes: (i, 2, 2), of which the first four for A agree.
      routed: poses v (j, d), lengths a (j,) and couplings c (i, j), by the number of the round.
    """
    figure, axes = _panels(10.0, 2.8, columns=2 * len(routed), sharex=True, sharey=True)
    panels = [(r, j) for j in range(2) for r in routed]
    for axis, (r, j) in zip(axes, panels, strict=True):
        v, a, c = routed[r]
        for i, vote in enumerate(votes[:, j]):
            color, width = BLUE if i < 4 else RED, 4 * c[i, j]
            axis.plot([0, vote[0]], [0, vote[1]], color=color, lw=width, solid_capstyle="round")
            axis.plot(*vote, "o", color=color, ms=3)
        arrow = {"arrowstyle": "-|>", "color": "black", "lw": 1.5}
        axis.annotate("", v[j], (0, 0), arrowprops=arrow)
        axis.set(title=f"capsule {'AB'[j]}, round {r}\n|v| = {a[j]:.2f}", aspect="equal")
        axis.set(xlim=(-2.3, 2.3), ylim=(-2.1, 2.1), xticks=[-2, 0, 2], yticks=[-2, 0, 2])
    return figure


def routing_curves(rounds: Sequence[int], couplings: np.ndarray, lengths: np.ndarray) -> Figure:
    """Draw couplings with A (rounds, i) and the lengths of A and B (rounds, 2) over the rounds."""
    figure, (left, right) = _panels(9.0, 3.0, columns=2)
    for i, shares in enumerate(np.transpose(couplings)):
        name = {0: "the four that agree", 4: "the two others"}.get(i)
        left.plot(rounds, shares, ".-", color=BLUE if i < 4 else RED, label=name)
    left.set(xlabel="round", ylabel="coupling with A", xticks=rounds, ylim=(-0.05, 1.05))
    left.legend(frameon=False, loc="center right")
    for j, (name, style) in enumerate((("capsule A", "o-"), ("capsule B", "s--"))):
        right.plot(rounds, lengths[:, j], style, color="black", ms=4, label=name)
    right.set(xlabel="round", ylabel="length of the upper capsule", xticks=rounds, ylim=(0, 1.05))
    right.legend(frameon=False, loc="lower right")
    return figure


def margin_curves(lengths: Iterable, there: Iterable, absent: Iterable) -> Figure:
    """Draw the margin loss of one class that is there, and of one that is not."""
    figure, (axis,) = _panels(6.0, 3.0)
    axis.plot(lengths, there, color=BLUE, label="the class is there")
    axis.plot(lengths, absent, color=RED, label="it is not")
    for margin in (0.1, 0.9):
        axis.axvline(margin, color=GREY, lw=1, ls="--")
    axis.set(xlabel=r"length $|v_k|$ of its capsule", ylabel=r"$L_k$", xlim=(0, 1))
    axis.legend(frameon=False)
    return figure


def turned_digits(degrees: Iterable, right: Iterable, length: Iterable) -> Figure:
    """Draw the share of turned digits recognised, and the length of the longest capsule."""
    figure, (axis,) = _panels(6.0, 3.0)
    axis.plot(degrees, right, "o-", color=BLUE, label="share recognised")
    axis.plot(degrees, length, "s--", color=GREY, label="mean length of the longest capsule")
    axis.set(xlabel="turned by, degrees", ylim=(0, 1.05), xticks=degrees)
    axis.legend(frameon=False, loc="lower left")
    return figure


def eps_curves(sizes: np.ndarray, root: np.ndarray, norm: np.ndarray) -> Figure:
    """Draw lengths after squash as shares of the exact ones, with a small number in two places."""
    figure, (axis,) = _panels(6.0, 3.0)
    axis.semilogx(sizes, root, color=BLUE, label="root, eps 1e-7")
    axis.semilogx(sizes, norm, color=RED, ls="--", label="norm, eps 1e-8")
    axis.axvline(np.sqrt(1e-7), color=GREY, lw=1, ls=":", label=r"$\sqrt{10^{-7}}$")
    axis.set(xlabel=r"$|s|$", ylabel="length / exact length", ylim=(0, 1.1))
    axis.legend(frameon=False, loc="lower right")
    return figure


def accuracy_race(accuracies: Mapping[str, Sequence[float]], named: Sequence[str]) -> Figure:
    """Draw accuracies in percent over epochs: the named runs, and other seeds dotted."""
    figure, (axis,) = _panels(7.0, 3.4)
    colors = dict(zip(named, COLORS, strict=False))
    for name, values in accuracies.items():
        epochs = range(1, len(values) + 1)
        if name in colors:
            axis.plot(epochs, values, ".-", color=colors[name], label=name)
        else:
            axis.plot(epochs, values, ":", color="black", lw=1)
    axis.plot([], [], ":", color="black", lw=1, label="paper, other seeds")
    axis.set(xlabel="epoch", ylabel="validation accuracy, %", ylim=(None, 101))
    axis.legend(frameon=False, loc="lower right")
    return figure


def class_sizes(counts: Mapping[str, Mapping[str, int]]) -> Figure:
    """Draw how many pictures each class has in each part.

    Args:
      counts: numbers by class, by part.
    """
    figure, (axis,) = _panels(6.0, 2.6)
    names = list(next(iter(counts.values())))
    left = np.zeros(len(names))
    for color, (part, numbers) in zip((BLUE, RED, GREY), counts.items(), strict=False):
        width = np.array([numbers[name] for name in names])
        axis.barh(names, width, left=left, color=color, label=part)
        left += width
    for place, total in enumerate(left):
        axis.text(total + 1, place, f"{total:.0f}", va="center")
    axis.set(xlabel="pictures", xlim=(0, 1.1 * left.max()))
    axis.invert_yaxis()
    axis.legend(frameon=False)
    return figure


def _panels(width: float, height: float, columns: int = 1, **settings) -> tuple[Figure, np.ndarray]:
    """Make axes side by side, with a light grid."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = np.ravel(figure.subplots(1, columns, squeeze=False, **settings))
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes
