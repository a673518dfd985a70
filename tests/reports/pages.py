"""Networks that are not trained, on images that are noise, as the pages of reports show them."""

import jax
import numpy as np

from capsjax.config import make_config
from capsjax.data import Arrays
from capsjax.reports.page.run import RunRecord
from capsjax.reports.page.tested import Tested
from capsjax.runs.predictor import Predictor
from capsjax.training.build import build
from tests.tiny import tiny_config

# Names that would be a script, a formula and an entity if they were not escaped.
NAMES = ("<script>alert(1)</script>", "$x$", "a & b", *(f"class {k}" for k in range(3, 10)))


def record(workdir, config, summary=None, metrics=()):
    """What the files of a run would record."""
    start = {"backend": "cpu", "command": ["/usr/bin/capsjax", "--config=a b"], "cpu_count": 2}
    return RunRecord(workdir, config.to_dict(), [start], summary, list(metrics), {})


def summary_of(tested):
    """The results of a run whose network is that."""
    errors = int((tested.prediction.labels != tested.images.labels).sum())
    count = len(tested.images)
    test = {"accuracy": 1 - errors / count, "num_errors": errors, "num_examples": count}
    return {"test": test, "selected_step": tested.predictor.step, "selection": "last"}


def predicted(config, shape=(8, 8, 1), count=40, class_names=(), num_classes=10, seed=0):
    """A network of a config that is not trained, and what it makes of noise."""
    built = build(config, shape, num_classes, 1000)
    variables = scattered(jax.eval_shape(lambda: built.init_state(seed).variables))
    predictor = Predictor(config, 7, built.model, variables, built.objective, class_names)
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, *shape), np.uint8)
    labels = np.arange(count, dtype=np.int32) % num_classes
    arrays = Arrays(images, labels, num_classes, class_names=tuple(class_names))
    return Tested(predictor, arrays, predictor.predict(images))


def scattered(shapes):
    """Variables at which nothing is trivial, of numbers that pages hold without rounding."""
    random = np.random.default_rng(0)

    def draw(path, leaf):
        values = random.normal(0.1, 0.5, leaf.shape).astype(np.float16)
        return np.asarray(abs(values) + 0.5 if path[-1].key == "var" else values, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, dict(shapes))


def dense():
    """A CapsNet with the decoder of two hidden layers."""
    return predicted(tiny_config(model__decoder__hidden=(16, 24)), class_names=NAMES)


def named(predictor, images):
    """A trained network, with names for its classes, and what it makes of images."""
    config, step, objective = predictor.config, predictor.step, predictor.objective
    named = Predictor(config, step, predictor.model, predictor.variables, objective, NAMES)
    return Tested(named, images, named.predict(images.images))


def upsampling():
    """An Efficient-CapsNet with the decoder that doubles a map, for coloured images."""
    changes = {
        "model.conv.features": (3, 8),
        "model.conv.kernel_size": (3, 2),
        "model.conv.stride": (1, 2),
        "model.primary_caps.kernel_size": 3,
        "model.primary_caps.pose_size": 4,
        "model.class_caps.pose_size": 5,
        "model.decoder.name": "upsampling",
        "model.decoder.features": (3, 4),
    }
    return predicted(changed("efficient_capsnet", changes), (12, 8, 3), count=6, num_classes=3)


def pose():
    """A DeepCaps with the decoder of transposed convolutions, which does not know the class."""
    changes = {
        "model.stem.features": 3,
        "model.cells.types": (2, 2, 3),
        "model.cells.pose_size": (2, 4, 4),
        "model.cells.kernel_size": (3, 3, 3),
        "model.cells.stride": (2, 2, 2),
        "model.cells.routed": (False, False, True),
        "model.class_caps.pose_size": 5,
        "model.decoder.map_features": 2,
        "model.decoder.features": (3, 2),
        "model.decoder.stride": (1, 2),
    }
    return predicted(changed("deepcaps", changes), (6, 10, 1), count=6, num_classes=3)


def changed(preset, changes):
    """The config of a preset with other fields."""
    config = make_config(preset)
    config.update_from_flattened_dict(changes)
    return config
