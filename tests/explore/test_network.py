"""What the page shows of a network, of its own capsules and of other kinds, and its samples."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageDraw

from capsjax.config import load_config
from capsjax.data import load_part
from capsjax.explore import network as networks
from capsjax.explore import panel, samples, views
from capsjax.explore.encoding import to_data_uri
from capsjax.explore.inputs import Move
from capsjax.explore.network import Network
from capsjax.explore.panel import Input, Treatment
from capsjax.explore.places import Grid
from capsjax.explore.samples import Samples
from capsjax.runs.predictor import Predictor
from capsjax.training.build import build
from tests.tiny import tiny_config, tiny_convnet_config

pytestmark = pytest.mark.slow

SHAPE = (8, 8, 1)
# A name that would be markup.
NAMES = ("<b>", *map(str, range(1, 10)))


def untrained(config, class_names=(), image_shape=SHAPE):
    built = build(config, image_shape, 10, 1000)
    variables = built.init_state(0).variables
    return Predictor(config, 7, built.model, variables, built.objective, class_names)


@pytest.fixture(scope="module")
def network():
    predictor = untrained(tiny_config(), NAMES)
    # Longer votes, so that untrained capsules differ from image to image.
    layer = predictor.variables["params"]["class_layer"]
    layer["W"] = 20 * layer["W"]
    return Network("<tiny>", predictor)


@pytest.fixture
def sample(network):
    return panel.take_sample(network, 3)


def pictures_in(html):
    return re.findall(r'(?:src|href)="(data:image/png;base64,[^"]+)"', html)


def test_it_knows_its_capsules_and_its_samples(network):
    np.testing.assert_array_equal(network.samples.images, load_part("digits", "test").images)
    assert network.samples.origin == "Test images of digits."
    assert network.notes == ()
    assert network.title_of_scores == "Lengths of the class capsules"
    assert network.is_of_ink
    assert network.box == 1.0  # digits of 8 pixels in images of 8
    rows, columns = network.grid
    np.testing.assert_array_equal(rows, columns)
    assert len(rows) > 1
    assert network.reach > 0


@pytest.fixture
def tiny_em():
    config = load_config("em_capsules").unlock()
    config.data.update(name="digits", train_size=16, validation_size=10)
    config.model.input.update(crop=6, standardize="image", standardize_first=True)
    config.model.conv.update(features=4, kernel_size=2, stride=1)
    config.model.capsules.pose_size = 4
    config.model.primary_caps.types = 2
    config.model.conv_caps.update(types=(2,), kernel_size=(2,), stride=(1,))
    config.model.class_caps.entries = (1, 3)
    config.model.routing.name = "uniform"
    return untrained(config.lock())


def test_places_are_those_of_the_crop_of_standardised_images(tiny_em):
    # 6x6 pixels from the second row and column on: windows of 3 pixels at 4 places.
    for centres in networks._find_grid(tiny_em):
        np.testing.assert_allclose(centres, [2, 3, 4, 5])


def test_a_network_that_never_has_a_decoder_is_not_told_of_a_field(tiny_em):
    network = Network("em", tiny_em)
    assert network.notes == (networks.NO_DECODER,)
    assert not network.can_decode


def test_places_of_images_that_are_no_squares():
    config = tiny_config(model__conv__kernel_size=3, model__primary_caps__kernel_size=3)
    config.unlock()
    config.model.primary_caps.stride = 1
    config.model.conv_caps.update(types=(2,), pose_size=(4,), kernel_size=(3,), stride=(1,))
    config.model.conv_caps.norm = "none"  # "rms" sees all pixels, as does routing
    config.model.routing.name = "uniform"
    rows, columns = networks._find_grid(untrained(config, image_shape=(10, 15, 1)))
    # Windows of 7 pixels.
    np.testing.assert_allclose(rows, np.arange(3, 7))
    np.testing.assert_allclose(columns, np.arange(3, 12))


def test_a_look_agrees_with_the_predictor(network):
    image = network.samples.images[0]
    look, expected = network.look(image), network.predictor.forward(image[None])
    np.testing.assert_allclose(look.scores, expected.scores[0], atol=1e-6)
    np.testing.assert_allclose(look.poses, expected.poses[0], atol=1e-6)
    assert look.label == int(jnp.argmax(expected.scores))
    np.testing.assert_array_equal(
        look.reconstruction, network.decode(look.poses[look.label], look.label)
    )
    # The votes add up to the class capsules before the squash, which keeps directions.
    lengths = np.linalg.norm(look.poses, axis=-1)
    sums = look.support.sum(axis=(0, 1))
    np.testing.assert_allclose(sums**2 / (1 + sums**2), lengths, rtol=1e-3, atol=1e-6)


def test_the_page_of_a_sample(network, sample):
    look = network.look(network.samples.images[3])
    shown = panel.show(network, sample, Treatment(), None)
    input_, reconstruction, *_ = pictures_in(shown.top)
    assert input_ == to_data_uri(network.samples.images[3])
    assert reconstruction == to_data_uri(look.reconstruction)
    assert pictures_in(shown.decoded) == [reconstruction]
    assert shown.top.count("<svg") == 2
    assert shown.bars.count("<button") == 10
    assert re.findall(r'class="value">([\d.]+)', shown.bars) == [f"{x:.2f}" for x in look.scores]
    winner = re.findall(r'class="bar winner chosen" data-class="(\d)"', shown.bars)
    assert winner == [str(look.label)]
    origins = [float(x) for x in re.findall(r'data-origin="([^"]+)"', shown.sliders)]
    np.testing.assert_allclose(origins, look.poses[look.label], rtol=1e-6)


def test_names_are_text_and_not_markup(network, sample):
    shown = panel.show(network, sample, Treatment(), 0)
    assert not any("<b>" in part or "<tiny>" in part for part in shown)
    assert "&lt;tiny&gt;" in shown.top
    assert "&lt;b&gt;" in shown.bars


def test_any_class_can_be_chosen(network, sample):
    shown = panel.show(network, sample, Treatment(), 5)
    look = network.look(network.samples.images[3])
    assert 'data-class="5"' in shown.sliders
    assert pictures_in(shown.decoded) == [to_data_uri(network.decode(look.poses[5], 5))]


def test_moved_poses_are_decoded(network):
    pose = [0.5, -0.5, 0.0, 1.0]
    expected = network.predictor.decode(np.eye(10)[None, :, 2:3] * np.array(pose), np.array([2]))
    (shown,) = pictures_in(panel.decode(network, 2, pose))
    assert shown == to_data_uri(np.round(255 * expected[0]).astype(np.uint8))


def test_rotation_moves_the_image_and_marks_keep_the_pose_before(network, sample):
    still = panel.show(network, sample, Treatment(), 4)
    turned = panel.show(network, sample, Treatment(move=Move(90.0)), 4)
    expected = np.rot90(network.samples.images[3], -1)
    assert pictures_in(turned.top)[0] == to_data_uri(expected)
    marks = [re.findall(r"--mark-share: ([\d.]+)", each.sliders) for each in (still, turned)]
    assert marks[0] == marks[1]
    origins = [re.findall(r'data-origin="([^"]+)"', each.sliders) for each in (still, turned)]
    assert origins[0] != origins[1]


def test_drawings_and_files_are_centred_and_files_turned_light_on_dark(network):
    paper = np.full((40, 40), 255, np.uint8)
    paper[5:25, 10:15] = 0
    dark, light = Image.fromarray(paper), Image.fromarray(255 - paper)
    drawn = panel.image_for(network, Input(light), Treatment())
    assert drawn.any(axis=(1, 2)).all()  # as high as the image
    file = panel.take_file(network, to_data_uri(paper[..., None]), 1)
    opened = panel.image_for(network, file, Treatment())
    np.testing.assert_array_equal(opened, drawn)
    again = panel.image_for(network, file, Treatment(invert=True))
    assert not np.array_equal(again, drawn)
    # Beside a network of colour, whose pad shows a file as it is.
    np.testing.assert_array_equal(panel.image_for(network, Input(dark), Treatment()), drawn)
    plain = panel.image_for(network, Input(light), Treatment(centre=False))
    np.testing.assert_array_equal(
        plain, np.asarray(light.resize((8, 8), Image.Resampling.BOX))[..., None]
    )


def test_the_white_pen_goes_on_with_dark_ink_that_was_opened(network):
    paper = np.full((40, 40, 1), 255, np.uint8)
    paper[5:25, 10:15] = 0
    on_pad = panel.take_file(network, to_data_uri(paper), 1).picture
    treatment = Treatment(centre=False)
    before = panel.image_for(network, Input(on_pad), treatment)
    ImageDraw.Draw(on_pad).rectangle((20, 25, 35, 30), fill="white")
    drawn = panel.take_drawing(to_data_uri(np.atleast_3d(np.asarray(on_pad))))
    image = panel.image_for(network, drawn, treatment)
    assert image.max() == before.max() == 255
    assert (image >= before).all()
    assert image[5, 5] == 255  # of the stroke
    assert before[5, 5] == 0


def test_what_cannot_be_taken_is_refused(network):
    with pytest.raises(ValueError, match="this file has more than 20 MB"):
        panel.take_file(network, "", 20_000_001)
    with pytest.raises(ValueError, match="this is no picture"):
        panel.take_file(network, "data:text/plain;base64,aGVsbG8=", 5)
    with pytest.raises(ValueError, match="there is no sample 360"):
        panel.take_sample(network, 360)


def test_another_input_shows_the_winner_and_a_second_click_too(sample):
    session = panel.Session(sample, [None, None])
    session.choose(1, 4)
    assert session.chosen == [None, 4]
    session.choose(1, 4)
    assert session.chosen == [None, None]
    session.choose(0, 2)
    session.give(Input(Image.new("L", (1, 1))))
    assert session.chosen == [None, None]
    assert session.given.image is None


def test_votes_are_dots_with_the_area_of_their_support(network):
    grid = Grid(np.array([1.0, 5.0]), np.array([1.0, 5.0]))
    support = np.zeros((2, 2, 10))
    support[0, 0, 3], support[1, 1, 4], support[0, 1, 3] = 1.0, 0.25, -0.5
    image = np.zeros(SHAPE, np.uint8)
    every = re.findall(
        r'circle class="(\w+)".*?r="([\d.]+)" style="--class: (\S+?)"',
        views.votes(image, support, grid),
    )
    assert every == [("for", "0.64", views.colour_of(3)), ("for", "0.32", views.colour_of(4))]
    of_three = re.findall(
        r'circle class="(\w+)" cx="([\d.]+)"', views.votes(image, support, grid, 3)
    )
    assert of_three == [("for", "1.50"), ("against", "5.50")]


@pytest.mark.ci
def test_a_network_without_capsules_shows_what_it_has(sample):
    network = Network("plain", untrained(tiny_convnet_config()))
    assert network.notes == (networks.NO_CAPSULES,)
    assert network.title_of_scores == "Probabilities of the classes"
    assert network.look(network.samples.images[0]).scores.sum() == pytest.approx(1, abs=1e-5)
    shown = panel.show(network, sample, Treatment(), None)
    assert networks.NO_CAPSULES in shown.top
    assert len(pictures_in(shown.top)) == 1
    assert (shown.sliders, shown.decoded) == ("", "")
    assert shown.bars.count("<button") == 10


def test_a_network_without_a_decoder_shows_poses_and_votes(sample):
    network = Network("blind", untrained(tiny_config(model__use_decoder=False)))
    assert network.notes == (networks.DECODER_OFF,)
    shown = panel.show(network, sample, Treatment(), None)
    assert shown.top.count("<svg") == 2
    assert "data-origin" in shown.sliders
    assert shown.decoded == ""


@pytest.mark.parametrize(("threshold", "found"), [(0.5, ""), (-1.0, "0123456789")])
def test_all_classes_of_a_multilabel_task_are_shown(sample, threshold, found):
    config = tiny_config(task__name="multilabel", task__multilabel__threshold=threshold)
    network = Network("many", untrained(config))
    shown = panel.show(network, sample, Treatment(), None)
    names = re.sub("<.*?>", "", re.search(r"<strong>(.*?)</strong>", shown.top)[1])
    assert names == (", ".join(found) or "none")
    assert f"Reconstruction of {names}<" in re.sub("<span.*?</span>", "", shown.top)
    winners = re.findall(r'class="bar winner(?: chosen)?" data-class="(\d)"', shown.bars)
    assert winners == list(found)


@pytest.mark.parametrize("channels", [2, 4])
def test_a_network_sees_all_channels_of_a_sample(channels):
    shape = (8, 8, channels)
    images = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
    predictor = untrained(tiny_config(), image_shape=shape)
    network = Network("views", predictor, Samples(images, np.arange(3, dtype=np.int32), ""))
    sample = panel.take_sample(network, 1)
    np.testing.assert_array_equal(panel.image_for(network, sample, Treatment()), images[1])
    shown = panel.show(network, sample, Treatment(), None)
    assert pictures_in(shown.top)[0] == to_data_uri(images[1])
    assert len(pictures_in(views.strip(network, [0, 1, 2]))) == 3
    drawn = panel.show(network, Input(Image.new("L", (20, 20))), Treatment(), None)
    assert len(pictures_in(drawn.top)) == len(pictures_in(shown.top))


def test_an_empty_image_may_have_poses_of_zeros():
    none = Samples(np.zeros((0, *SHAPE), np.uint8), np.zeros(0, np.int32), "")
    network = Network("empty", untrained(tiny_config()), none)
    shown = panel.show(network, Input(Image.new("L", (20, 20))), Treatment(), None)
    assert re.findall(r"--mark-share: ([\d.]+)", shown.sliders) == ["0.500"] * 4


@pytest.fixture
def of_another_set():
    def make(name):
        config = tiny_config()
        with config.unlocked():
            config.data.name = name
        return untrained(config)

    return make


def test_a_set_that_is_not_on_this_machine_is_not_downloaded(of_another_set):
    found = samples.find_samples(of_another_set("fashion_mnist"))
    assert len(found.images) == 0
    assert (
        found.origin
        == "No images to choose from: the data set 'fashion_mnist' is not on this machine."
    )
    assert samples.box_of(found) == pytest.approx(20 / 28)
    assert not samples.are_ink_on_black(found)
    found = samples.find_samples(of_another_set("mnist"))
    assert found.origin.startswith("Digits of scikit-learn")
    assert found.images.shape == (360, 8, 8, 1)


def test_enlarged_digits_are_like_those_of_mnist():
    found = samples.enlarged_digits((28, 28, 1))
    assert samples.box_of(found) == pytest.approx(20 / 28)
    assert samples.are_ink_on_black(found)


def test_samples_are_chosen_from_all_classes_in_turn():
    labels = np.array([0] * 50 + [1] * 3 + [2] * 3, np.int32)
    some = Samples(np.zeros((56, *SHAPE), np.uint8), labels, "")
    chosen = samples.choose(some, 6, seed=0)
    np.testing.assert_array_equal(np.bincount(labels[chosen]), [2, 2, 2])
    assert len(samples.choose(some, 100, seed=0)) == 56
    assert chosen.tolist() != samples.choose(some, 6, seed=1).tolist()
