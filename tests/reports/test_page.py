"""The page of a run or a sweep as a file: what is on it, and that it needs nothing else."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from capsjax.commands import report
from capsjax.data import DataError, load_part
from capsjax.reports.page import classes, curves, decoder, records
from capsjax.reports.page.html import element, page, table
from capsjax.reports.page.pictures import picture
from capsjax.reports.page.run import read_record, run_page
from capsjax.reports.page.tested import mistakes
from capsjax.runs import train, trained_data
from capsjax.runs.predictor import load_predictor
from tests.reports import pages
from tests.reports.test_report import lose, make_index
from tests.tiny import ROOT, tiny_config, tiny_convnet_config

pytestmark = pytest.mark.ci


class Parser(HTMLParser):
    """The elements of a page, the text of it, and what it refers to."""

    def __init__(self, text):
        super().__init__()
        self.names, self.ids, self.references, self.text, self.alternatives = [""], [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.names.append(tag)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        self.references += [attributes[each] for each in ("src", "href") if each in attributes]
        if tag == "img":
            self.alternatives.append(attributes.get("alt"))

    def handle_data(self, data):
        if self.names[-1] not in ("script", "style"):
            self.text += data


def data_of(text):
    return json.loads(re.search(r'id="page-data">(.*?)</script>', text, re.DOTALL)[1])


def rows_of(text):
    """The rows of plain cells."""
    rows = re.findall(r"<tr><td>([^<]*(?:</td><td>[^<]*)+)</td></tr>", text)
    return [row.split("</td><td>") for row in rows]


def headings(text):
    return re.findall(r"<h2>(.*?)</h2>", text)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "run"
    train.train_and_evaluate(tiny_config(train__epochs=1), workdir)
    return workdir


@pytest.fixture(scope="module")
def dense(finished):
    """A network whose classes have names, and what it makes of the test images."""
    return pages.named(load_predictor(finished), load_part("digits", "test"))


@pytest.fixture(scope="module")
def of_dense(dense, finished):
    found = pages.record(finished, dense.predictor.config, pages.summary_of(dense))
    return run_page(found, dense)


def test_the_page_of_a_run_has_its_sections_and_needs_nothing_else(of_dense):
    assert headings(of_dense) == [
        "The run",
        "Confusion matrix",
        "Each class",
        "Mistakes",
        "Reconstructions",
        "Pose study",
        "Data",
        "Machine and software",
        "Commands",
        "Settings",
    ]
    found = Parser(of_dense)
    assert len(found.ids) == len(set(found.ids))
    assert all(each.startswith(("data:", "#")) for each in found.references)
    assert {each[1:] for each in found.references if each[0] == "#"} <= set(found.ids)
    assert all(found.alternatives)
    assert "http" not in found.text


def test_the_page_names_what_the_best_parameters_are_best_by(dense, finished):
    summary = {**pages.summary_of(dense), "selection": "best", "selection_metric": "accuracy"}
    found = pages.record(finished, dense.predictor.config, summary)
    assert "(best accuracy)" in run_page(found, dense)


def test_the_policy_allows_only_the_scripts_and_the_style_of_the_file(of_dense):
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', of_dense)[1]
    assert policy.startswith("default-src &#x27;none&#x27;") or policy.startswith("default-src '")
    for name, inside in (
        ("style", re.search(r"<style>(.*?)</style>", of_dense, re.DOTALL)[1]),
        ("script", re.search(r"<script>(.*?)</script>", of_dense, re.DOTALL)[1]),
    ):
        stored = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{stored}'" in policy
    assert "unsafe" not in policy
    assert " style=" not in of_dense, "which the policy forbids"


def test_names_of_classes_are_text_whatever_is_in_them(of_dense):
    assert "<script>alert" not in of_dense
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in of_dense
    assert data_of(of_dense)["poses"]["classes"] == list(pages.NAMES)
    assert of_dense.count("<script") == 2, "the data and the program"


def test_elements_escape_all_but_what_is_html_already():
    assert (
        element("p", "<", element("b", "&"), title='"') == '<p title="&quot;">&lt;<b>&amp;</b></p>'
    )
    assert element("p", hidden=True, id=None) == "<p hidden></p>"
    assert "&lt;i&gt;" in table(["<i>"], [["1"]])
    assert "&lt;/title&gt;" in page("</title>", "", [], {})
    assert data_of(page("", "", [], {"a": "</script><!--"})) == {"a": "</script><!--"}


def test_the_confusions_on_the_page_are_counted_right():
    matrix = np.array([[8, 2, 0], [0, 0, 0], [1, 3, 6]])
    text = classes.confusion(matrix, ("cat", "dog", "cow")).body
    assert 'title="cow taken for dog: 3">3<' in text
    assert 'class="heat-5" title="cow taken for dog' in text
    assert "no images of this class" in text
    assert rows_of(text)[0] == ["cow", "dog", "3", "30.00"]
    assert rows_of(classes.per_class(matrix, ()).body)[:2] == [
        ["0", "10", "8", "80.00", "88.89", "84.21", "1"],
        ["1", "0", "0", "-", "0.00", "0.00", "-"],
    ]


def test_many_classes_have_a_figure_and_their_commonest_confusions():
    matrix = np.eye(30, dtype=int) * 5
    matrix[3, 4] = 2
    text = classes.confusion(matrix, ()).body
    assert 'src="data:image/png;base64,' in text
    assert "<td>3</td><td>4</td><td>2</td><td>28.57</td>" in text


def test_the_most_confident_mistakes_come_first(dense, of_dense):
    _, images, prediction = dense
    wrong = prediction.labels != images.labels
    worst = int(np.argmax(np.where(wrong, prediction.scores.max(axis=1), -1)))
    first = re.search(r'id="mistakes">.*?<figcaption>(.*?)</figcaption>', of_dense, re.DOTALL)[1]
    assert f"image {worst}" in first
    assert f"{prediction.scores[worst].max():.2f}" in first
    assert "the most confident first, with the lengths of both classes" in of_dense


def test_mistakes_of_a_network_of_logits_are_shown_with_logits():
    logits = pages.predicted(tiny_config(model__readout="linear", model__use_decoder=False))
    assert "with the logits of both classes" in mistakes(logits).body


def test_curves_have_a_line_for_each_part_and_no_number_that_is_not_finite():
    metrics = [
        {"step": 1, "epoch": 1.0, "split": "train", "loss": 0.5, "accuracy": 0.25},
        {"step": 2, "epoch": 2.0, "split": "train", "loss": float("nan"), "learning_rate": 0.1},
        {"step": 2, "epoch": 2.0, "split": "validation", "loss": 0.123456789},
    ]
    found = {each["label"]: each["lines"] for each in curves.panels(metrics)}
    assert found == {
        "loss": [
            {"name": "train", "points": [(1.0, 0.5)]},
            {"name": "validation", "points": [(2.0, 0.123457)]},
        ],
        "accuracy, %": [{"name": "train", "points": [(1.0, 25.0)]}],
        "learning rate": [{"name": "train", "points": [(2.0, 0.1)]}],
    }
    assert curves.curves([]) is None


def test_a_command_is_shown_as_one_types_it():
    start = {"backend": "cpu", "command": ["experiments/train.py", "--config.name=a b"]}
    text = records.commands([start], "train", []).body
    assert "python experiments/train.py &#x27;--config.name=a b&#x27;" in text


def test_images_are_ink_on_paper_but_for_colours_and_large_ones_are_made_smaller():
    def pixels(image):
        content = picture(image).removeprefix("data:image/png;base64,")
        return np.array(Image.open(BytesIO(base64.b64decode(content))))

    np.testing.assert_array_equal(pixels(np.array([[[0.0], [1.0]]])), [[255, 0]])
    np.testing.assert_array_equal(pixels(np.full((1, 1, 3), 0.2)), [[[51, 51, 51]]])
    assert pixels(np.zeros((300, 200, 1))).shape == (128, 85)


def test_a_decoder_that_a_page_cannot_run_is_drawn(dense, monkeypatch):
    monkeypatch.setattr(decoder, "MOST_WEIGHTS", 10)
    found = pages.record(Path("runs/a"), dense.predictor.config, pages.summary_of(dense))
    text = run_page(found, dense)
    assert "There are no sliders" in text
    assert data_of(text)["poses"] is None


@pytest.mark.ci
def test_a_network_without_capsules_has_the_sections_that_it_has():
    network = pages.predicted(tiny_convnet_config())
    text = run_page(pages.record(Path("runs/a"), network.predictor.config), network)
    assert headings(text)[:5] == ["The run", "Confusion matrix", "Each class", "Mistakes", "Data"]
    assert "with the logits of both classes." in text
    assert "Not finished: at epoch 0 of 3." in text


def test_the_command_writes_the_page_of_a_finished_run(finished):
    path = report.write_run_page(finished)
    assert path == finished / "report.html"
    text = path.read_text()
    found = read_record(finished).summary["test"]
    counted = f"{100 * found['accuracy']:.2f} %</strong> of 360 test images right"
    assert counted in text
    assert "Computed here" not in text, "the page counts the errors of the summary"
    assert [each["label"] for each in data_of(text)["curves"]][:2] == ["loss", "margin loss"]
    for part in ("training", "validation", "test"):
        assert f"<td>{part}</td>" in text


def test_the_page_of_a_run_whose_data_are_gone_is_made_of_its_files(finished, monkeypatch):
    def gone(**_):
        raise DataError("the file is gone")

    monkeypatch.setattr(trained_data, "load_part", gone)
    text = report.write_run_page(finished).read_text()
    assert "There are no test images on this page: the file is gone." in text
    assert headings(text) == [
        "The run",
        "Learning curves",
        "Data",
        "Machine and software",
        "Commands",
        "Settings",
    ]
    with pytest.raises(DataError, match="the file is gone"):
        report.write_run_page(finished, data_file="other.npz")


def test_what_was_evaluated_and_drawn_before_is_shown_where_the_data_are_gone(dense, tmp_path):
    found = pages.record(tmp_path, dense.predictor.config, pages.summary_of(dense))
    folder = tmp_path / "evaluation" / f"digits-test-{dense.predictor.step}"
    folder.mkdir(parents=True)
    stored = {"confusion_matrix": [[3, 1], [0, 4]], "class_names": ["cat", "dog"]}
    (folder / "evaluation.json").write_text(json.dumps(stored))
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "poses.png").write_bytes(b"png")
    text = run_page(found, None)
    assert "cat taken for dog: 1" in text
    assert base64.b64encode(b"png").decode() in text
    assert "As it was drawn before: figures/poses.png." in text


@pytest.mark.slow
def test_other_data_than_those_of_the_run_are_refused(finished, monkeypatch):
    load, few = trained_data.load_part, np.arange(50)
    monkeypatch.setattr(trained_data, "load_part", lambda **which: load(**which).take(few))
    with pytest.raises(ValueError, match=r"not the data of .*: 360 test examples there, 50 here"):
        report.write_run_page(finished)
    path = report.write_run_page(finished, other_data=True)
    assert re.fullmatch(r"report-[0-9a-f]{8}\.html", path.name)


def test_the_test_set_of_an_unfinished_run_is_not_read(finished, tmp_path, monkeypatch):
    for name in ("config.json", "env.json", "metrics.jsonl"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    monkeypatch.setattr(trained_data, "load_part", lambda **_: pytest.fail("reads test images"))
    text = report.write_run_page(tmp_path).read_text()
    assert "Not finished: at epoch 1 of 1." in text
    assert "a run reads its test set once it is finished" in text
    with pytest.raises(ValueError, match=r"is not finished.*leave out --checkpoint"):
        report.write_run_page(tmp_path, checkpoint="last")


def test_a_folder_with_neither_a_run_nor_a_sweep_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no run or sweep in .*config\.json and no index\.json"):
        report.is_run(tmp_path)


@pytest.mark.ci
def test_the_command_prints_the_path_and_refuses_flags_of_sweeps(finished):
    command = [sys.executable, str(ROOT / "experiments" / "report.py"), f"--workdir={finished}"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.startswith(f"wrote {finished / 'report.html'} (")
    wrong = subprocess.run([*command, "--confidence=0.9"], capture_output=True, text=True)
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: --confidence is a flag for a sweep, and ")


@pytest.fixture(scope="module")
def of_sweep(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("sweep")
    index = make_index(title="Rounds <1>")
    lose(index, 1, "failed", "a <b> went wrong")
    (workdir / "trials" / index["trials"][0]["id"]).mkdir(parents=True)
    (workdir / "trials" / index["trials"][0]["id"] / "report.html").write_text("")
    (workdir / "index.json").write_text(json.dumps(index))
    text = report.write_report(workdir)
    return text, (workdir / "report.html").read_text()


def test_the_page_of_a_sweep_has_what_its_report_has_and_every_trial(of_sweep):
    text, found = of_sweep
    assert headings(found) == [
        "The sweep",
        "Points",
        "Figure",
        "Compared with rounds=1,reconstruction=0",
        "Main effects",
        "Trials",
    ]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| 1 |")]
    for row in rows:
        assert "".join(f"<td>{cell}</td>" for cell in row) in found
    assert found.count("<td>finished</td>") == 17
    assert "<td>failed</td><td>-</td><td>-</td>" in found
    assert "The lowest mean test error is <strong>0.703 ± 0.100 %</strong> (3 seeds)" in found


def test_the_page_of_a_sweep_escapes_and_links_to_the_pages_of_trials(of_sweep):
    _, found = of_sweep
    assert "<td>a &lt;b&gt; went wrong</td>" in found
    assert "Rounds &lt;1&gt;</h1>" in found
    links = [each for each in Parser(found).references if not each.startswith(("#", "data:"))]
    assert links == ["trials/rounds%3D1%2Creconstruction%3D0%2Cseed%3D0/report.html"]
