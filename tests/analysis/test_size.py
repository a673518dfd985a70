"""The size of a network and of its training step."""

from capsjax.analysis.size import layers_of, size_of_step
from capsjax.training.build import build
from tests.tiny import tiny_config


def test_a_step_holds_parameters_moments_and_data():
    config = tiny_config()
    built = build(config, (8, 8, 1), 10, 128)
    parameters = sum(layer.num_parameters for layer in layers_of(built))
    size = size_of_step(config, built, 128)
    # Parameters and Adam's two moments in float32; counters and sums besides.
    assert 0 < size.state_bytes - 3 * 4 * parameters < 100
    assert size.data_bytes == 128 * (8 * 8 + 4)
    assert size.working_bytes > 32 * 8 * 8 * 4, "at least a batch of images"
    assert size.operations > 2 * 3 * 32 * parameters / 100


def test_labels_of_several_classes_are_counted_too():
    config = tiny_config(task__name="multilabel")
    built = build(config, (8, 8, 1), 10, 128)
    assert len(layers_of(built)) == 5
    assert size_of_step(config, built, 128).data_bytes == 128 * (8 * 8 + 4 * 10)
