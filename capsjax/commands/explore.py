"""Open a page with a trained network behind it: draw, rotate, move poses, watch the votes.

    capsjax explore                                  # the network that comes with the package
    capsjax explore --workdir=runs/a
    capsjax explore --workdir=runs/a --workdir=runs/b    # side by side
    capsjax explore --workdir=runs/a --pretrained=mnist

The page is served on this machine alone, works without a network, takes pictures and nothing else,
and serves no file of the disk. Ctrl-C ends it.
"""

import signal
import socket
import webbrowser
from collections.abc import Iterator, Sequence

from absl import flags

from capsjax.commands.messages import one_line
from capsjax.commands.table import split_folders
from capsjax.explore.network import Network
from capsjax.explore.server import Guard, bind, hosts_of, keep_to_this_machine, url_of
from capsjax.pretrained import FOLDERS, load_pretrained
from capsjax.runs.compilation import keep_compiled_programs
from capsjax.runs.exported import NETWORK, load_exported
from capsjax.runs.predictor import Predictor, load_predictor

FLAGS = flags.FLAGS
MOST_NETWORKS = 2


def define_flags() -> None:
    flags.DEFINE_multi_string(
        "workdir", [], "Folder of a run, or of capsjax export; two, or a comma, for side by side."
    )
    flags.DEFINE_string("pretrained", "", f"A network of the package: {' or '.join(FOLDERS)}.")
    flags.DEFINE_string("checkpoint", "selected", "selected, best, last or a step.")
    flags.DEFINE_string("host", "127.0.0.1", "Address to serve on; 0.0.0.0 for all.")
    flags.DEFINE_integer("port", 7860, "Port to serve on; 0 for any that is free.")
    flags.DEFINE_bool("no_browser", False, "Print the address, and open no browser.")


def main() -> None:
    keep_compiled_programs()
    keep_to_this_machine()
    import gradio  # noqa: F401 (where it is missing, that is the first thing to know)

    with bind(FLAGS.host, FLAGS.port) as bound:
        networks = []
        for name, predictor in _predictors():
            print(f"compiling {name}", flush=True)
            networks.append(Network(name, predictor))
        _serve(networks, bound)


def _predictors() -> Iterator[tuple[str, Predictor]]:
    """Yield name and predictor of each network that the flags name, or of the package's own."""
    folders = [folder for text in FLAGS.workdir if text for folder in split_folders(text)]
    pretrained = FLAGS.pretrained or ("" if folders else "mnist")
    if len(folders) + bool(pretrained) > MOST_NETWORKS:
        raise ValueError(f"there is room for {MOST_NETWORKS} networks side by side")
    runs = [folder for folder in folders if not (folder / NETWORK).exists()]
    if FLAGS["checkpoint"].present and not runs:
        raise ValueError("--checkpoint is a flag for a run: give its folder as --workdir")
    for folder in folders:
        if folder in runs:
            yield str(folder), load_predictor(folder, FLAGS.checkpoint)
        else:
            yield str(folder), load_exported(folder)
    if pretrained:
        yield f"{pretrained}, which comes with capsjax", load_pretrained(pretrained)


def _serve(networks: Sequence[Network], bound: socket.socket) -> None:
    """Serve the page until Ctrl-C."""
    import uvicorn

    from capsjax.explore.page import make_app

    app = Guard(make_app(networks, one_line), hosts_of(FLAGS.host))
    # Silent: at the end it would report the pages that are still open. The page shows errors.
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1, server_header=False)
    )
    url = url_of(bound)
    print(f"open {url} (Ctrl-C ends it)", flush=True)
    if not hosts_of(FLAGS.host):
        print("everybody who reaches this machine can use the page", flush=True)
    if not FLAGS.no_browser:
        webbrowser.open(url)
    # The server stops at the signal, and then passes it on to whom it was for before.
    signal.signal(signal.SIGINT, lambda *_: None)
    server.run(sockets=[bound])
    print("stopped")
