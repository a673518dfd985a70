"""The size of a network and of its training step."""

import flax.linen as nn
import pytest

from capsjax.analysis.size import compile_step, layers_of, size_of_step, time_step
from capsjax.training.build import build
from tests.tiny import tiny_config


@pytest.mark.ci
def test_a_step_holds_parameters_moments_and_data():
    config = tiny_config()
    built = build(config, (8, 8, 1), 10, 128)
    parameters = sum(layer.num_parameters for layer in layers_of(built))
    size = size_of_step(compile_step(config, built, 128))
    # Parameters and Adam's two moments in float32; counters and sums besides.
    assert 0 < size.state_bytes - 3 * 4 * parameters < 100
    assert size.data_bytes == 128 * (8 * 8 + 4)
    assert size.working_bytes > 32 * 8 * 8 * 4, "at least a batch of images"
    assert size.operations > 2 * 3 * 32 * parameters / 100


def test_arrays_of_the_network_itself_are_counted():
    class Network(nn.Module):
        image_shape = (4, 4, 1)

        @nn.compact
        def __call__(self, images):
            embedding = self.param("embedding", nn.initializers.zeros, (5, 8))
            return nn.Dense(8)(images.reshape(len(images), 16)) @ embedding.T

    built = build(tiny_config(), (8, 8, 1), 10, 128)._replace(model=Network())
    layers = layers_of(built)
    assert [(layer.name, layer.num_parameters) for layer in layers] == [
        ("Dense_0", 16 * 8 + 8),
        ("others", 5 * 8),
    ]


@pytest.mark.slow
def test_labels_of_several_classes_are_counted_too():
    config = tiny_config(task__name="multilabel")
    built = build(config, (8, 8, 1), 10, 128)
    assert len(layers_of(built)) == 5
    assert size_of_step(compile_step(config, built, 128)).data_bytes == 128 * (8 * 8 + 4 * 10)


@pytest.mark.parametrize(("seconds_allowed", "num_steps"), [(31.0, 3), (1e3, 4)])
def test_the_time_of_a_step_is_that_of_its_program(monkeypatch, seconds_allowed, num_steps):
    config = tiny_config()
    built = build(config, (8, 8, 1), 10, 128)
    step = compile_step(config, built, 128)
    taken = []

    def program(state, images, labels, num_steps):
        before = int(state.step)
        state, health = step.program(state, images, labels, num_steps)
        taken.append(int(state.step) - before)
        seconds[0] += 0.25 * taken[-1] + (10 if len(taken) < 3 else 0.5 / len(taken))
        assert images.shape == (128, 8, 8, 1)
        assert set(labels.tolist()) == {0, 1}
        return state, health

    seconds = [0.0]
    monkeypatch.setattr("capsjax.analysis.size.time.perf_counter", lambda: seconds[0])
    monkeypatch.setattr("capsjax.analysis.size.SECONDS", seconds_allowed)
    time = time_step(step._replace(program=program), built)
    # As many as take that long by the second call, as compilation may be in the first; but an
    # epoch has four steps, and no call goes beyond its end.
    assert taken == [1, 1, num_steps, num_steps, num_steps]
    assert time.num_steps == num_steps
    assert time.seconds == pytest.approx(0.25 + 0.5 / 5 / num_steps)
