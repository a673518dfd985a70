"""What happens on the page: its events, in Gradio, with the networks behind them."""

import functools
import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
import matplotlib
import numpy as np
from fastapi import FastAPI
from PIL import Image

from capsjax.explore import page_parts, panel, views
from capsjax.explore.encoding import to_data_uri
from capsjax.explore.inputs import Move
from capsjax.explore.network import Network
from capsjax.explore.panel import Input, Session, Treatment
from capsjax.explore.samples import choose

# Gradio asks for the backend at its first event, and the default one takes seconds to find.
matplotlib.use("agg")
# Images to choose from at once.
SAMPLES_SHOWN = 20
# Events are answered directly: a queue takes longer than the answer. While one is under way the
# last of those that follow waits for it, and the others are dropped.
AT_ONCE = {"queue": False, "show_progress": "hidden", "trigger_mode": "always_last"}

# What Gradio offers besides the page is left out; the server refuses it too.
PLAIN = {"footer_links": [], "run_history": False, "ssr_mode": False, "show_error": False}

# Changes a session by the data of an event.
Change = Callable[[Session, dict], None]


def make_app(networks: Sequence[Network], describe: Callable[[Exception], str]) -> FastAPI:
    """Make the application that serves `make_page`, for a server with `Guard` in front."""
    app = FastAPI(openapi_url=None)
    page = make_page(networks, describe)
    return gr.mount_gradio_app(
        app, page, path="/", theme=page_parts.THEME, css=page_parts.CSS, **PLAIN
    )


def make_page(networks: Sequence[Network], describe: Callable[[Exception], str]) -> gr.Blocks:
    """Make the page of one network, or of two side by side.

    Args:
      networks: the networks; the first one gives the samples and the shape of the pad.
      describe: makes a line of an error, for the page.
    """
    first = networks[0]
    start = _first_input(first)
    with gr.Blocks(title="capsjax explore", analytics_enabled=False) as blocks:
        message = page_parts.lay_out_top(), describe
        with gr.Row(equal_height=False):
            controls = page_parts.lay_out_input(first, strip_of(first, 0), _on_pad(start))
            shown = [panel.show(each, start, Treatment(), None) for each in networks]
            panels = [
                page_parts.lay_out_panel(each, number, is_narrow=len(networks) > 1)
                for number, each in enumerate(shown)
            ]
        session, order = gr.State(Session(start, [None] * len(networks))), gr.State(0)
        inputs = [session, controls.centre, controls.invert, *controls.moves]
        outputs = [part for parts in panels for part in parts]
        # One event after the other: the next one begins with what the last one has left.
        lock = threading.Lock()

        def on(event: Callable, change: Change, *, shows_on_pad: bool = False) -> None:
            """Let an event change the session, and show what the networks make of it."""

            def answer(data: gr.EventData, now: Session, *treatment: Any) -> list:
                with lock:
                    change(now, data._data)
                    shown = show_all(networks, now, treatment_of(*treatment))
                return [*shown, *[_on_pad(now.given)] * shows_on_pad]

            _answer(event, answer, inputs, outputs + [controls.pad] * shows_on_pad, message)

        on(controls.pad.draw, _draw)
        on(controls.pad.wipe, lambda now, _: now.give(_blank()))
        on(controls.pad.take, functools.partial(_take, first), shows_on_pad=True)
        on(controls.strip.choose, functools.partial(_choose_sample, first), shows_on_pad=True)
        for control in inputs[1:]:
            on(control.change, lambda *_: None)
        for number, (network, parts) in enumerate(zip(networks, panels, strict=True)):
            on(parts.bars.choose, functools.partial(_choose_class, number))
            move = functools.partial(_move, network)
            _answer(parts.sliders.move, move, [], [parts.decoded], message)
        more = functools.partial(_more, first)
        _answer(controls.strip.more, more, [order], [controls.strip, order], message)
    return blocks


def _answer(
    event: Callable,
    function: Callable[..., list],
    inputs: list,
    outputs: list,
    message: tuple[gr.HTML, Callable[[Exception], str]],
) -> None:
    """Let a function of (event data, inputs) answer an event.

    Its errors are shown where messages are, by the function beside that place.
    """
    place, describe = message

    def answer(data: gr.EventData, *values: Any) -> list:
        try:
            return [*function(data, *values), ""]
        except Exception as error:  # a page must not end where a program would
            return [*[gr.skip()] * len(outputs), views.message(describe(error))]

    event(answer, inputs, [*outputs, place], api_visibility="private", **AT_ONCE)


def show_all(networks: Sequence[Network], now: Session, treatment: Treatment) -> list[str]:
    """Return the parts of all panels, in order."""
    pairs = zip(networks, now.chosen, strict=True)
    return [part for each, label in pairs for part in panel.show(each, now.given, treatment, label)]


def treatment_of(
    centre: bool, invert: bool, degrees: float, right: float, down: float
) -> Treatment:
    """Return the treatment that the controls show; shifts are in percent."""
    return Treatment(centre, invert, Move(float(degrees), right / 100, down / 100))


def strip_of(network: Network, order: int) -> str:
    """Return the strip of samples, in one of their orders."""
    samples = network.samples
    places = choose(samples, SAMPLES_SHOWN, seed=order)
    if len(samples.labels):
        places = places[np.argsort(samples.labels[places], kind="stable")]
    return views.strip(network, places.tolist())


def _first_input(network: Network) -> Input:
    """Return what the page begins with: a sample, or an empty pad."""
    places = choose(network.samples, 1, seed=0)
    return panel.take_sample(network, int(places[0])) if len(places) else _blank()


def _blank() -> Input:
    return Input(Image.new("L", (page_parts.PAD, page_parts.PAD)))


def _on_pad(given: Input) -> str:
    """Return the value of the pad that shows a picture; another one at each call."""
    shown = to_data_uri(np.asarray(given.picture.convert("RGB")))
    return json.dumps({"picture": shown, "version": next(panel.VERSIONS)})


def _draw(now: Session, data: dict) -> None:
    now.given = panel.take_drawing(data["picture"])


def _take(network: Network, now: Session, data: dict) -> None:
    now.give(panel.take_file(network, data["picture"], data["size"]))


def _choose_sample(network: Network, now: Session, data: dict) -> None:
    now.give(panel.take_sample(network, int(data["sample"])))


def _choose_class(number: int, now: Session, data: dict) -> None:
    now.choose(number, int(data["class"]))


def _move(network: Network, data: gr.EventData) -> list[str]:
    return [panel.decode(network, int(data._data["class"]), data._data["pose"])]


def _more(network: Network, data: gr.EventData, order: int) -> list:
    return [strip_of(network, order + 1), order + 1]
