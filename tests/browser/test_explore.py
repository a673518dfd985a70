"""`capsjax explore` as a person uses it: a real command, and a real browser that opens its page."""

import contextlib
import io
import os
import re
import signal
import statistics
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
from PIL import Image

from capsjax.pretrained import FOLDERS
from tests.tiny import ROOT

pytestmark = pytest.mark.browser

PROGRAM = "from capsjax.commands import main; main()"
BARS = "#bars-{} .value"
# Moves a slider, and returns the milliseconds until the picture is another one.
MOVE = """async ([slider, picture, value]) => {
  const moved = document.querySelector(slider), before = document.querySelector(picture).src;
  const start = performance.now();
  moved.value = value;
  moved.dispatchEvent(new Event("input", {bubbles: true}));
  while (document.querySelector(picture).src === before && performance.now() - start < 20000)
    await new Promise((resolve) => setTimeout(resolve, 1));
  return performance.now() - start;
}"""


@contextlib.contextmanager
def explorer(folder, *flags):
    """Run the command; yields its process, with the address of the page as `url`."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "explore", "--no_browser", "--port=0", *flags],
        cwd=ROOT,
        env={**environment, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stdout:
            if found := re.search(r"open (http://127.0.0.1:\d+)", line):
                process.url = found[1]
                break
        else:
            pytest.fail(process.stderr.read())
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def temporary(tmp_path_factory):
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def explored(temporary, browser):
    """The explorer with the network that comes with the package."""
    with explorer(temporary) as process:
        yield process


@pytest.fixture
def opened(explored, page):
    page.goto(explored.url)
    page.wait_for_selector("#decoded-0 img")
    return page


def lengths(page, number=0):
    return [float(text) for text in page.locator(BARS.format(number)).all_inner_texts()]


def source(page, selector):
    return page.locator(selector).first.get_attribute("src")


def wait_for_change(page, selector, before):
    page.wait_for_function(
        "([selector, before]) => document.querySelector(selector).src !== before",
        arg=[selector, before],
    )


def draw_a_one(page):
    box = page.locator("canvas").bounding_box()
    middle = box["x"] + box["width"] / 2
    page.mouse.move(middle, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(middle, box["y"] + 230, steps=15)
    page.mouse.up()


def picture_of_a_one(paper=255, ink=0):
    pixels = np.full((200, 120), paper, np.uint8)
    pixels[30:170, 50:70] = ink
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def give(page, name, content):
    file = {"name": name, "mimeType": "application/octet-stream", "buffer": content}
    page.set_input_files("#pad input[type=file]", files=[file])


def reads(page, label, number=0):
    page.wait_for_function(
        "([place, label]) => document.querySelector(place).innerText.trim() === label",
        arg=[f"#top-{number} .reads strong", label],
    )


def test_what_is_drawn_is_read(opened):
    opened.click("#pad .wipe")
    opened.wait_for_function("document.querySelector('#bars-0 .winner .value').innerText < 0.8")
    draw_a_one(opened)
    reads(opened, "1")
    found = lengths(opened)
    assert np.argmax(found) == 1
    assert found[1] > 0.8
    assert max(np.delete(found, 1)) < 0.4


def test_a_slider_of_the_pose_moves_the_picture_at_once(opened):
    times = []
    for value in np.linspace(-0.4, 0.4, 20):
        slider = "#sliders-0 .dimension:nth-child(4) input"
        times.append(opened.evaluate(MOVE, [slider, "#decoded-0 img", f"{value:.2f}"]))
    print(f"slider to picture: median {statistics.median(times):.0f} ms, all {np.round(times)}")
    # Not the median: other programs may be at work here.
    assert statistics.quantiles(times, n=4)[0] < 100
    before = source(opened, "#decoded-0 img")
    opened.click("#sliders-0 .back")
    wait_for_change(opened, "#decoded-0 img", before)
    assert source(opened, "#decoded-0 img") == source(opened, "#top-0 figure:nth-child(2) img")


def test_a_bar_chooses_its_capsule(opened):
    before = source(opened, "#decoded-0 img")
    other = 8 if lengths(opened)[8] < 0.5 else 3
    opened.click(f'#bars-0 [data-class="{other}"]')
    wait_for_change(opened, "#decoded-0 img", before)
    assert opened.inner_text("#sliders-0 h3") == f"Pose of {other}"


def test_rotation_moves_the_poses_and_the_votes(opened):
    # No CSS paths: the sliders are Gradio's.
    picture = "#top-0 figure:nth-child(1) img"
    pose = "[...document.querySelectorAll('#sliders-0 input')].map((x) => x.dataset.origin)"
    before, poses, votes = (
        source(opened, picture),
        opened.evaluate(pose),
        opened.inner_html("#top-0 svg"),
    )
    opened.get_by_label("number input for Rotate, degrees").fill("35")
    opened.keyboard.press("Enter")
    wait_for_change(opened, picture, before)
    assert opened.evaluate(pose) != poses
    assert opened.inner_html("#top-0 svg") != votes


def test_pictures_are_taken_and_nothing_else(opened, temporary):
    give(opened, "one.png", picture_of_a_one())
    reads(opened, "1")
    give(opened, "notes.txt", b"these are words")
    opened.wait_for_selector("#message p")
    assert "this is no picture" in opened.inner_text("#message")
    assert np.argmax(lengths(opened)) == 1  # as before
    # The page goes on, and the message goes.
    opened.click("#strip .sample >> nth=19")
    reads(opened, "9")
    assert opened.locator("#message p").count() == 0
    assert [path for path in temporary.rglob("*") if path.is_file()] == []


def test_other_samples_can_be_asked_for(opened):
    before = source(opened, "#strip img")
    opened.click("#strip .more")
    wait_for_change(opened, "#strip img", before)


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=README.md",
        "/file=/etc/passwd",
        "/assets/..%2f..%2f..%2froutes.py",
        "/static/%2e%2e/%2e%2e/routes.py",
        "/gradio_api/proxy=http://127.0.0.1:80/",
        "/gradio_api/runs",
    ],
)
def test_no_file_is_served(explored, page, path):
    answer = page.request.get(explored.url + path)
    assert answer.status == 404
    assert "refused" in answer.text()


def test_no_file_is_taken(explored, page):
    file = {"name": "a.png", "mimeType": "image/png", "buffer": picture_of_a_one()}
    answer = page.request.post(f"{explored.url}/gradio_api/upload", multipart={"files": file})
    assert answer.status == 404


def test_two_networks_are_side_by_side_and_ctrl_c_ends_the_command(page, tmp_path):
    with explorer(tmp_path, f"--workdir={FOLDERS['mnist']}", "--pretrained=mnist") as process:
        page.goto(process.url)
        page.wait_for_selector("#decoded-1 img")
        assert lengths(page, 0) == lengths(page, 1)  # they are one network
        # Each has sliders of its own.
        before = source(page, "#decoded-0 img")
        slider = "#sliders-1 .dimension:nth-child(1) input"
        page.evaluate(MOVE, [slider, "#decoded-1 img", "0.4"])
        assert source(page, "#decoded-0 img") == before
        assert source(page, "#decoded-1 img") != before
        page.click("#pad .wipe")
        draw_a_one(page)
        for number in (0, 1):
            reads(page, "1", number)
        boxes = [page.locator(f"#panel-{number}").bounding_box() for number in (0, 1)]
        assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
        assert boxes[1]["x"] + boxes[1]["width"] <= 1280
        page.goto("about:blank")
        # As a page that is still open has one, whose loss it would report.
        with urllib.request.urlopen(f"{process.url}/gradio_api/heartbeat/abc"):
            process.send_signal(signal.SIGINT)
            rest, errors = process.communicate(timeout=20)
    assert (process.returncode, rest, errors) == (0, "stopped\n", "")
