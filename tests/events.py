"""TensorBoard's files as TensorBoard reads them: record by record, without what was purged."""

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData


def read_values(folder: Path) -> list[tuple[int, object]]:
    """All steps and summary values that a folder's files still count, in the order of writing."""
    found = []
    for event in _events(folder):
        if event.session_log.status == SessionLog.START:
            found = [(step, value) for step, value in found if step < event.step]
        found += [(event.step, value) for value in event.summary.value]
    return found


def read_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and numbers by name."""
    found = {}
    for step, value in read_values(folder):
        if value.HasField("simple_value"):
            found.setdefault(value.tag, []).append((step, value.simple_value))
    return found


def read_pictures(folder: Path) -> dict[str, list[tuple[int, np.ndarray]]]:
    """Steps and pictures by name."""
    found = {}
    for step, value in read_values(folder):
        if value.HasField("image"):
            picture = np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string)))
            found.setdefault(value.tag, []).append((step, picture))
    return found


def read_texts(folder: Path) -> dict[str, list[str]]:
    """Texts by name."""
    found = {}
    for _, value in read_values(folder):
        if value.metadata.plugin_data.plugin_name == "text":
            (text,) = value.tensor.string_val
            found.setdefault(value.tag, []).append(text.decode())
    return found


def read_hparams(folder: Path) -> dict[str, list]:
    """What the HParams page gets, by name: experiment, session_start_info, session_end_info."""
    found = {}
    for _, value in read_values(folder):
        if value.metadata.plugin_data.plugin_name == "hparams":
            content = HParamsPluginData.FromString(value.metadata.plugin_data.content)
            name = content.WhichOneof("data")
            found.setdefault(name, []).append(getattr(content, name))
    return found


def _events(folder: Path):
    for path in sorted(folder.glob("events.out.tfevents.*")):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            # The length and the record have a checksum of four bytes each.
            yield Event.FromString(content[place + 12 : place + 12 + length])
            place += length + 16
