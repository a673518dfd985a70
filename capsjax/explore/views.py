"""What a network makes of an image, as HTML and SVG: numbers and arrays in, text out."""

from collections.abc import Sequence
from html import escape

import numpy as np
from jaxtyping import Float, UInt8
from PIL import ImageColor

from capsjax.explore.encoding import to_data_uri
from capsjax.explore.network import Look, Network
from capsjax.explore.places import Grid

# One of each class, told apart by people who see colours differently too; more are spread evenly.
COLOURS = (
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee",
    "#aa3377", "#ee8866", "#44bb99", "#99729f", "#8a7a52",
)  # fmt: skip
# The radius of the largest dot, as a share of the image and of the distance of two places.
LARGEST_DOT = 0.08, 0.75
# Dots smaller than this share of the largest one are left out.
LEAST_DOT = 0.01


def colour_of(label: int) -> str:
    """Return the colour of a class.

    >>> colour_of(0), colour_of(12)
    ('#4477aa', 'hsl(210 55% 50%)')
    """
    return COLOURS[label] if label < len(COLOURS) else f"hsl({137.5 * label % 360:.0f} 55% 50%)"


def picture(image: UInt8[np.ndarray, "h w c"], what: str, caption: str = "") -> str:
    """Return a picture with its caption, which may hold HTML; `what` describes it."""
    source = f'<img class="pixels" src="{to_data_uri(image)}" alt="{escape(what)}">'
    return _figure(source, caption)


def _figure(inner: str, caption: str) -> str:
    return f"<figure>{inner}<figcaption>{caption}</figcaption></figure>"


def pictures(network: Network, image: np.ndarray, look: Look, chosen: int) -> str:
    """Return the pictures of a panel: input, reconstruction, and who votes for whom."""
    h, w, _ = network.image_shape
    shown = [picture(image, "input of the network", f"Input, {h} x {w} pixels")]
    if look.reconstruction is not None:
        caption = "Reconstruction"
        if look.labels is None:
            caption += f" of {_names(network, look.found)}"
        shown.append(picture(look.reconstruction, "reconstruction", caption))
    if look.labels is not None:
        shown.append(picture(_coloured(look.labels), "labels of the pixels", "Labels"))
    if look.support is not None:
        caption = "Votes of all places"
        shown.append(_figure(votes(image, look.support, network.grid), caption))
        caption = f"Votes for {_swatch(chosen)}{_name(network, chosen)}; rings: against"
        shown.append(_figure(votes(image, look.support, network.grid, chosen), caption))
    return f'<div class="pictures">{"".join(shown)}</div>'


def votes(
    image: UInt8[np.ndarray, "h w c"],
    support: Float[np.ndarray, "y x k"],
    grid: Grid,
    chosen: int | None = None,
) -> str:
    """Draw, over an image, for which class the capsules at each place vote.

    Args:
      image: the image, which is dimmed.
      support: what each place gives to each class, see `capsjax.explore.places.support`.
      grid: the middle of what each place sees.
      chosen: draw the votes for this class alone, those against it as rings; None draws those of
        each place for the class to which it gives most.

    Returns:
      SVG: dots with the area of the support.
    """
    h, w, _ = image.shape
    labels = support.argmax(axis=-1) if chosen is None else np.full(support.shape[:2], chosen)
    given = np.take_along_axis(support, labels[..., None], axis=-1)[..., 0]
    # One scale for both pictures: that of the largest dot in the first.
    most = max(float(support.max()), 1e-9)
    spacing = min(_spacing(grid.rows, h), _spacing(grid.columns, w))
    largest = min(LARGEST_DOT[0] * h, LARGEST_DOT[1] * spacing)
    dots = []
    for (y, x), amount in np.ndenumerate(given):
        share = min(abs(float(amount)) / most, 1.0)
        if share < LEAST_DOT or (chosen is None and amount < 0):
            continue
        kind = "against" if amount < 0 else "for"
        dots.append(
            f'<circle class="{kind}" cx="{grid.columns[x] + 0.5:.2f}" cy="{grid.rows[y] + 0.5:.2f}"'
            f' r="{largest * np.sqrt(share):.2f}" style="--class: {colour_of(int(labels[y, x]))}"/>'
        )
    return (
        f'<svg class="votes" viewBox="0 0 {w} {h}" role="img" aria-label="votes">'
        f'<image href="{to_data_uri(image)}" width="{w}" height="{h}" class="pixels dimmed"/>'
        f'<g stroke-width="{h / 140:.2f}">{"".join(dots)}</g></svg>'
    )


def _spacing(places: np.ndarray, pixels: int) -> float:
    return float(places[1] - places[0]) if len(places) > 1 else pixels / 2


def bars(network: Network, look: Look, chosen: int) -> str:
    """Return the scores of all classes as bars; a click on one chooses its capsule."""
    longest = max(1.0, float(look.scores.max()))
    rows = []
    for label, score in enumerate(look.scores):
        kinds = ["bar", *["winner"] * (label in look.found), *["chosen"] * (label == chosen)]
        width = 100 * max(float(score), 0.0) / longest
        rows.append(
            f'<button class="{" ".join(kinds)}" data-class="{label}" aria-pressed='
            f'"{str(label == chosen).lower()}"><span class="name">{_name(network, label)}</span>'
            f'<span class="track"><span class="fill" style="width: {width:.1f}%; '
            f'--class: {colour_of(label)}"></span></span><span class="value">{score:.2f}</span>'
            "</button>"
        )
    return f'<h3>{network.title_of_scores}</h3><div class="bars">{"".join(rows)}</div>'


def sliders(network: Network, look: Look, before: Look, chosen: int, version: int) -> str:
    """Return a slider for each dimension of a class capsule.

    Args:
      network: the network.
      look: what it makes of the image.
      before: the same without rotation and shift; a mark shows its pose.
      chosen: the class.
      version: another number for each call, so that sliders which were moved come back.
    """
    if look.poses is None or not look.poses.shape[-1]:
        return ""
    pose, mark = look.poses[chosen], before.poses[chosen]
    reach = max(network.reach, np.ceil(10 * float(np.abs([pose, mark]).max())) / 10)
    rows = [
        f'<label class="dimension"><span class="name">{index}</span><span class="range" '
        f'style="--mark-share: {0.5 + float(mark[index]) / (2 * reach):.3f}">'
        f'<input type="range" min="{-reach:.2f}" max="{reach:.2f}" step="0.01" '
        f'value="{value:.2f}" data-origin="{value:.9g}" aria-label="dimension {index}"></span>'
        f"<output>{value:+.2f}</output></label>"
        for index, value in enumerate(pose)
    ]
    return (
        f'<div data-version="{version}" data-class="{chosen}"><div class="title">'
        f"<h3>Pose of {_swatch(chosen)}{_name(network, chosen)}</h3>"
        '<button class="small back">Back</button></div>'
        f'<div class="dimensions">{"".join(rows)}</div></div>'
    )


def decoded(network: Network, image: np.ndarray | None, chosen: int) -> str:
    """Return the picture that the sliders make."""
    if image is None:
        return ""
    caption = f"The pose of {_swatch(chosen)}{_name(network, chosen)}, decoded"
    return picture(image, "decoded pose", caption)


def heading(network: Network, look: Look) -> str:
    """Return what a network is, what it lacks, and what it reads."""
    model = network.predictor.model
    count = sum(x.size for x in _leaves(network.predictor.variables.get("params", {})))
    facts = f"{type(model).__name__}, {count:,} parameters, step {network.predictor.step:,}"
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in network.notes)
    reads = f"reads <strong>{_names(network, look.found)}</strong>"
    verdict = f'<p class="reads">{reads}</p>' if look.labels is None else ""
    title = f"<h2>{escape(network.name)}</h2><p>{facts}</p>"
    return f'<div class="heading">{title}{verdict}</div>{notes}'


def strip(network: Network, places: Sequence[int]) -> str:
    """Return samples at some places as buttons, each with the name of its class."""
    labels, images = network.samples.labels, network.samples.images
    titles = [_name(network, int(labels[place])) if len(labels) else str(place) for place in places]
    return "".join(
        f'<button class="sample" data-sample="{place}" title="{title}">'
        f'<img class="pixels" src="{to_data_uri(images[place])}" alt="{title}"></button>'
        for place, title in zip(places, titles, strict=True)
    )


def message(text: str) -> str:
    """Return a line for the top of the page; nothing for no text."""
    return f'<p class="message" role="alert">{escape(text)}</p>' if text else ""


def _name(network: Network, label: int) -> str:
    return escape(network.class_names[label])


def _names(network: Network, labels: Sequence[int]) -> str:
    named = [f"{_swatch(label)}{_name(network, label)}" for label in labels]
    return ", ".join(named) or "none"


def _swatch(label: int) -> str:
    return f'<span class="swatch" style="--class: {colour_of(label)}"></span>'


def _leaves(tree) -> list:
    return [x for y in tree.values() for x in _leaves(y)] if isinstance(tree, dict) else [tree]


def _coloured(labels: np.ndarray) -> np.ndarray:
    """Return a map of labels as a picture; the first class, the background, is black."""
    table = [(0, 0, 0)] + [ImageColor.getrgb(colour_of(k)) for k in range(1, int(labels.max()) + 1)]
    return np.array(table, np.uint8)[labels]
