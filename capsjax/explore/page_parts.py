"""The parts of the page and their places, in Gradio."""

from pathlib import Path
from typing import NamedTuple

import gradio as gr

from capsjax.explore.encoding import MOST_BYTES
from capsjax.explore.network import Network
from capsjax.explore.panel import Panel

FOLDER = Path(__file__).parent
CSS = (FOLDER / "page.css").read_text(encoding="utf-8")
# No font is fetched from anywhere.
THEME = gr.themes.Default(
    primary_hue="blue",
    spacing_size="sm",
    text_size="sm",
    font=("system-ui", "sans-serif"),
    font_mono=("ui-monospace", "monospace"),
)
# Pixels of the pad's longer side, ten times those of MNIST.
PAD = 280
TITLE = """<h1>capsjax explore</h1>
<p>Draw, choose or open a picture; rotate and shift it; click a bar to choose its class capsule;
move the sliders of its pose.</p>"""
PEN = '<input type="color" value="#ffffff" aria-label="colour of the pen">'
CENTRED = "Centre as MNIST does: box of {box} pixels, mass in the middle"


class Controls(NamedTuple):
    """What a person uses to give an image."""

    pad: gr.HTML
    strip: gr.HTML
    moves: tuple[gr.Slider, gr.Slider, gr.Slider]
    centre: gr.Checkbox
    invert: gr.Checkbox


class PanelParts(NamedTuple):
    """The parts of a panel; see `capsjax.explore.panel.Panel`."""

    top: gr.HTML
    bars: gr.HTML
    sliders: gr.HTML
    decoded: gr.HTML


def lay_out_top() -> gr.HTML:
    """Make the title and, below it, the place of messages, which is returned."""
    gr.HTML(TITLE, elem_id="title")
    return _part("", "message")


def lay_out_input(network: Network, samples: str, on_pad: str) -> Controls:
    """Make the column of the input: pad, samples, sliders."""
    with gr.Column(scale=0, min_width=300, elem_id="input"):
        pad = _part(on_pad, "pad", _pad(network), "pad.js")
        strip = _part(samples, "strip", _strip(network), "choices.js")
        with gr.Group():
            moves = (
                gr.Slider(-180, 180, 0, step=1, label="Rotate, degrees"),
                gr.Slider(-50, 50, 0, step=1, label="Shift right, %"),
                gr.Slider(-50, 50, 0, step=1, label="Shift down, %"),
            )
        box = round(network.box * max(network.image_shape[:2]))
        centre = gr.Checkbox(
            True, label=CENTRED.format(box=box), visible=network.is_of_ink, container=False
        )
        invert = gr.Checkbox(False, label="Invert dark and light", container=False)
    return Controls(pad, strip, moves, centre, invert)


def lay_out_panel(shown: Panel, number: int, is_narrow: bool) -> PanelParts:
    """Make the panel of a network."""
    with gr.Column(min_width=320, elem_id=f"panel-{number}"):
        top = _part(shown.top, f"top-{number}")
        with gr.Row(equal_height=False, elem_classes=["below", *["narrow"] * is_narrow]):
            bars = _part(shown.bars, f"bars-{number}", script="choices.js")
            sliders = _part(shown.sliders, f"sliders-{number}", script="sliders.js")
            decoded = _part(shown.decoded, f"decoded-{number}")
    return PanelParts(top, bars, sliders, decoded)


def _part(value: str, name: str, template: str = "${value}", script: str = "") -> gr.HTML:
    """Make a piece of HTML with what it does in the browser."""
    return gr.HTML(
        value,
        html_template=template,
        js_on_load=(FOLDER / script).read_text(encoding="utf-8") if script else None,
        elem_id=name,
        elem_classes="explore",
        apply_default_css=False,
    )


def _pad(network: Network) -> str:
    h, w, channels = network.image_shape
    scale = PAD / max(h, w)
    return (
        f'<div class="pad"><canvas width="{round(scale * w)}" height="{round(scale * h)}" '
        f'data-most-bytes="{MOST_BYTES}" aria-label="draw here"></canvas><div class="tools">'
        '<button class="wipe">Clear</button><button class="open">Open a picture</button>'
        f"{PEN if channels == 3 else ''}"
        '<input type="file" accept="image/*" hidden aria-label="picture"></div></div>'
    )


def _strip(network: Network) -> str:
    origin = network.samples.origin
    if not len(network.samples.images):
        return f'<p class="note">{origin}</p>'
    return (
        '<div class="samples">${value}</div>'
        f'<div class="tools"><button class="more">Others</button><p class="note">{origin}</p></div>'
    )
