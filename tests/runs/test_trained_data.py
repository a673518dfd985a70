"""Other data for a network whose classes are numbers alone, such as one of digits."""

import numpy as np
import pytest
from PIL import Image

from capsjax.data import DataError, load_part
from capsjax.runs.predictor import Predictor
from capsjax.runs.trained_data import load_data
from capsjax.training.build import build
from tests.tiny import tiny_config


@pytest.fixture(scope="module")
def of_digits():
    config = tiny_config()
    built = build(config, (8, 8, 1), 10, 1000)
    return Predictor(config, 7, built.model, {}, built.objective)


def load_folder(predictor, folder, names):
    """Load a folder of two test digits of each class, by their numbers and names."""
    digits = load_part("digits", "test")
    for digit, name in names.items():
        (folder / "test" / name).mkdir(parents=True)
        for number, image in enumerate(digits.images[digits.labels == digit][:2]):
            Image.fromarray(image[..., 0]).save(folder / "test" / name / f"{number}.png")
    return load_data(predictor, folder, folder / "a", name="folder", file=str(folder))[0]


def test_folders_that_are_named_by_numbers_are_those_classes(of_digits, tmp_path, capsys):
    data = load_folder(of_digits, tmp_path, {3: "3", 7: "7"})
    digits = load_part("digits", "test")
    assert (data.labels.tolist(), data.num_classes) == ([3, 3, 7, 7], 10)
    np.testing.assert_array_equal(data.images[2:], digits.images[digits.labels == 7][:2])
    assert capsys.readouterr().out == ""


def test_other_names_are_numbered_in_their_order_with_a_line(of_digits, tmp_path, capsys):
    data = load_folder(of_digits, tmp_path, dict(enumerate("abcdefghij")))
    assert data.labels.tolist() == np.repeat(range(10), 2).tolist()
    line = "the network has no names of classes, and those of these data number them: a is 0, b is "
    assert capsys.readouterr().out.startswith(line)


def test_names_of_some_classes_are_refused(of_digits, tmp_path):
    with pytest.raises(DataError, match=r"the classes seven, three, .* by its number, 0 to 9"):
        load_folder(of_digits, tmp_path, {3: "three", 7: "seven"})
