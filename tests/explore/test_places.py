"""Where capsules look and for whom they vote, for layers made by hand."""

import numpy as np
import pytest

from capsjax.explore.places import find_grid, size_of_grid, support
from capsjax.layers import ConvCaps
from capsjax.routing import make_routing


def layers_of(poses=None, couplings=(1, 8, 3)):
    layers = {} if poses is None else {"primary_layer": {"poses": np.zeros(poses)}}
    return {**layers, "class_layer": {"couplings": np.zeros(couplings)}}


def test_the_grid_is_that_of_the_layer_below_the_classes():
    assert size_of_grid(layers_of((1, 1, 4, 2, 5))) == (1, 4)


@pytest.mark.parametrize(
    ("below", "convolution", "grid"),
    [
        ((6, 6, 2), {"types": 2, "kernel_size": 3, "stride": 3}, (2, 2)),
        ((6, 11, 2), {"types": 2, "kernel_size": 3}, (4, 9)),  # as many as 6x6
        ((4, 5, 3), {"types": 1, "stride": 2, "padding": "SAME"}, (2, 3)),
        ((4, 5, 3), {"types": 10, "stride": 2, "padding": "SAME"}, (2, 3)),  # as many as below
    ],
)
def test_the_grid_of_a_convolution_of_capsules_has_its_rows_and_columns(below, convolution, grid):
    layer = ConvCaps(routing=make_routing("uniform"), pose_size=4, **convolution)
    layers = layers_of((1, *below, 5), couplings=(1, grid[0] * grid[1] * layer.types, 3))
    layers["conv_caps_0"] = {"couplings": np.zeros((1, grid[0] * grid[1], 18, layer.types))}
    assert size_of_grid(layers, [layer]) == grid


def test_there_is_no_grid_without_capsules_or_for_capsules_without_a_place():
    assert size_of_grid({}) is None
    assert size_of_grid(layers_of()) is None
    assert size_of_grid(layers_of((1, 8, 5))) is None  # "pixels": (n, i, p)
    assert size_of_grid(layers_of((1, 3, 3, 2, 5))) is None
    assert size_of_grid(layers_of((1, 1, 4, 2, 5), couplings=(1, 4, 8, 3))) is None


def windowed(size, stride, padding=0):
    """Inside of a network whose capsules see windows of an image, clipped at its edges."""

    def inside(image):
        image = np.pad(image[..., 0], ((0, 0), (padding, padding), (padding, padding)))
        seen = np.lib.stride_tricks.sliding_window_view(image, (size, size), axis=(1, 2))
        votes = seen[:, ::stride, ::stride].sum(axis=(-1, -2))[..., None]
        _, y, x, _ = votes.shape
        return {
            "primary_layer": {"poses": votes[..., None]},
            "class_layer": {
                "votes": votes.reshape(1, y * x, 1, 1),
                "couplings": np.ones((1, y * x, 1)),
            },
        }

    return inside


def test_a_place_is_the_middle_of_what_it_sees():
    rows, columns = find_grid(windowed(5, 2), (11, 13, 1), (4, 5))
    np.testing.assert_allclose(rows, [2, 4, 6, 8])
    np.testing.assert_allclose(columns, [2, 4, 6, 8, 10])


def test_windows_that_reach_beyond_the_edge_do_not_move_the_places():
    rows, _ = find_grid(windowed(5, 2, padding=2), (12, 12, 1), (6, 6))
    np.testing.assert_allclose(rows, [0, 2, 4, 6, 8, 10])


def test_places_that_all_see_everything_share_the_image():
    everything = windowed(8, 4, padding=6)
    rows, _ = find_grid(lambda image: everything(image * 0 + image.sum()), (8, 8, 1), (4, 4))
    np.testing.assert_allclose(rows, [0.5, 2.5, 4.5, 6.5])


def test_places_that_all_see_a_crop_share_the_crop():
    everything = windowed(8, 4, padding=6)

    def inside(image):
        return everything(image * 0 + image[:, 2:6, :5].sum())

    rows, columns = find_grid(inside, (8, 8, 1), (4, 4))
    np.testing.assert_allclose(rows, [2, 3, 4, 5])
    np.testing.assert_allclose(columns, [0.125, 1.375, 2.625, 3.875])


def test_places_that_see_nothing_share_the_image():
    seen = windowed(8, 4, padding=6)
    rows, columns = find_grid(lambda image: seen(image * 0), (8, 8, 1), (4, 4))
    np.testing.assert_allclose(rows, [0.5, 2.5, 4.5, 6.5])
    np.testing.assert_allclose(columns, rows)


def test_support_is_the_coupled_vote_along_the_class_capsule():
    votes = np.zeros((4, 2, 2))  # two places of two types; two classes
    votes[0, 0], votes[1, 0] = (3, 1), (1, 1)
    votes[2, 1] = (0, -4)
    couplings = np.full((4, 2), 0.5)
    poses = np.array([[0.2, 0.0], [0.0, 0.7]])
    found = support(votes, couplings, poses, (1, 2))
    np.testing.assert_allclose(found, [[[2.0, 0.0], [0.0, -2.0]]])


def test_without_poses_couplings_are_the_support():
    couplings = np.array([[0.9, 0.1], [0.5, 0.5]])
    np.testing.assert_allclose(support(None, couplings, None, (1, 1)), [[[1.4, 0.6]]])
    empty = np.zeros((2, 2, 0))
    np.testing.assert_allclose(support(empty, couplings, empty[0], (1, 1)), [[[1.4, 0.6]]])
