"""The page of a run or a sweep in a browser: decoder, curves, tables, on paper, on a phone."""

import json

import numpy as np
import pytest

from capsjax.commands import report
from capsjax.reports.page import tested as page_of_tested
from capsjax.reports.page.run import run_page
from tests.reports import pages
from tests.reports.test_report import lose, make_index

pytestmark = pytest.mark.browser

NETWORKS = {"dense": pages.dense, "pose": pages.pose, "upsampling": pages.upsampling}
METRICS = [
    {"step": step, "epoch": float(step), "split": split, "loss": loss / step, "accuracy": 0.5}
    for step in (1, 2, 3, 4)
    for split, loss in (("train", 0.4), ("validation", 0.8))
]
# Pixels of the canvas, as numbers from 0 to 255.
PIXELS = """canvas => [...canvas.getContext("2d")
    .getImageData(0, 0, canvas.width, canvas.height).data]"""
# What the screen has not drawn yet is waited for.
DRAWN = "count => Number(document.querySelector('canvas').dataset.drawn) > count"


@pytest.fixture(scope="module")
def networks():
    made = {}
    return lambda name: made.setdefault(name, NETWORKS[name]())


@pytest.fixture
def open_run(page, networks, tmp_path):
    """Open the page of a run whose network is not trained."""

    def open_page(name):
        tested = networks(name)
        found = pages.record(tmp_path, tested.predictor.config, pages.summary_of(tested), METRICS)
        path = tmp_path / "report.html"
        path.write_text(run_page(found, tested), encoding="utf-8")
        page.goto(path.as_uri())
        return tested

    return open_page


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """The page of a sweep."""
    workdir = tmp_path_factory.mktemp("sweep")
    index = make_index()
    lose(index, 4, "failed", "why")
    (workdir / "index.json").write_text(json.dumps(index))
    report.write_report(workdir)
    return (workdir / "report.html").as_uri()


def picture_of(page):
    """The decoded picture of the page, (h, w, 3) from 0 to 255."""
    canvas = page.locator("canvas")
    width, height = canvas.evaluate("canvas => [canvas.width, canvas.height]")
    pixels = np.array(canvas.evaluate(PIXELS)).reshape(height, width, 4)
    assert (pixels[..., 3] == 255).all()
    return pixels[..., :3]


def drawn_by(network, poses, capsule):
    """The same by the network itself."""
    decoded = network.predictor.decode(poses[None].astype(np.float32), np.array([capsule]))[0]
    decoded = np.clip(decoded, 0, 1)
    ink = decoded.shape[-1] != 3
    shown = 1 - decoded.mean(axis=-1, keepdims=True).repeat(3, axis=-1) if ink else decoded
    return 255 * shown


@pytest.mark.parametrize("name", NETWORKS)
def test_a_slider_changes_the_picture_to_what_the_network_decodes(page, open_run, name):
    network = open_run(name)
    note = page.locator("[data-difference]")
    assert float(note.get_attribute("data-difference")) < 1e-4
    assert "Decoded in this page" in note.text_content()

    images, capsules = (page.locator("#pose-study select").nth(k) for k in (0, 1))
    images.select_option(index=2)
    chosen = images.locator("option:checked").text_content()
    index = int(chosen.rpartition("image ")[2].rstrip(")"))
    poses = network.prediction.poses[index].astype(float)
    for capsule in (int(network.prediction.labels[index]), 1):
        capsules.select_option(index=capsule)
        before = int(page.locator("canvas").get_attribute("data-drawn"))
        page.locator("input[type=range]").nth(1).fill("0.4")
        page.wait_for_function(DRAWN, arg=before)
        moved = poses.copy()
        moved[capsule, 1] += 0.4
        expected = drawn_by(network, moved, capsule)
        np.testing.assert_allclose(picture_of(page), expected, atol=1.01)
        # The slider matters by more than the tolerance, and so does the capsule.
        assert np.abs(expected - drawn_by(network, poses, capsule)).max() > 1.5
    page.get_by_role("button", name="Reset").click()
    assert page.locator("input[type=range]").nth(1).input_value() == "0"


def test_a_decoder_that_is_not_the_networks_is_told(page, networks, tmp_path, monkeypatch):
    network = networks("dense")
    wrong = page_of_tested.numbers(np.zeros((8, 8, 1)))
    monkeypatch.setattr(page_of_tested, "numbers", lambda _: wrong)
    found = pages.record(tmp_path, network.predictor.config, pages.summary_of(network))
    (tmp_path / "report.html").write_text(run_page(found, network), encoding="utf-8")
    page.goto((tmp_path / "report.html").as_uri())
    note = page.locator("[data-difference]")
    assert "The pictures of this page are not the network's" in note.text_content()
    assert "warning" in note.get_attribute("class")


def test_names_of_classes_stay_text_in_the_browser(page, open_run):
    page.on("dialog", lambda _: pytest.fail("a name was run as a script"))
    open_run("dense")
    options = page.locator("#pose-study select").nth(1).locator("option").all_text_contents()
    assert options == list(pages.NAMES)
    assert page.locator("#classes td").first.text_content() == pages.NAMES[0]


def test_curves_follow_the_pointer_and_the_keys(page, open_run):
    open_run("dense")
    panel = page.locator("#panels figure").first
    caption = panel.locator("figcaption")
    assert caption.text_content() == "loss, epoch 4: train 0.1, validation 0.2"
    panel.locator("svg").hover(position={"x": 70, "y": 60})
    assert caption.text_content() == "loss, epoch 1: train 0.4, validation 0.8"
    page.mouse.move(0, 0)
    panel.locator("svg").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert caption.text_content() == "loss, epoch 2: train 0.2, validation 0.4"
    assert page.locator("#panels polyline").count() == 4
    assert page.locator("#panels figure").count() == 2


def column(page, section, name):
    """The cells of a column, from top to bottom."""
    table = page.locator(f"#{section} table").first
    heads = [each.strip() for each in table.locator("th").all_text_contents()]
    place = heads.index(name) + 1
    return table.locator(f"tbody td:nth-child({place})").all_text_contents()


def test_tables_are_sorted_by_click_and_by_key(page, sweep):
    page.goto(sweep)
    header = page.locator("#trials th", has_text="errors")
    before = column(page, "trials", "trial")
    header.get_by_role("button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    shown = column(page, "trials", "errors")
    assert [int(each) for each in shown[:-1]] == sorted(int(each) for each in shown[:-1])
    assert shown[-1] == "-", "what is missing comes last"
    header.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    shown = column(page, "trials", "errors")
    assert shown[0] == "152"
    assert shown[-1] == "-"
    page.locator("#trials th", has_text="trial").get_by_role("button").click()
    assert header.get_attribute("aria-sort") is None
    assert sorted(before) == column(page, "trials", "trial")
    # Times of two forms, and numbers with a sign.
    page.locator("#comparisons th", has_text="difference").get_by_role("button").click()
    shown = [float(each) for each in column(page, "comparisons", "difference")]
    assert shown == sorted(shown)


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_window(page, open_run, sweep, width):
    page.set_viewport_size({"width": width, "height": 800})
    for goto in (lambda: open_run("dense"), lambda: page.goto(sweep)):
        goto()
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_on_paper_it_is_dark_on_light_and_whole(page, open_run):
    page.emulate_media(color_scheme="dark")
    open_run("dense")
    background = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(background) == "rgb(22, 23, 26)"
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate(background) == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible()
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
