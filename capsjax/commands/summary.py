"""Show the layers of a config's network, its parameters, operations and memory.

    capsjax summary --config=digits
    capsjax summary --config=configs/mnist.py:paper,small --config.train.batch_size=512
    capsjax summary --config=em_capsules:small --timed
    capsjax summary --config=digits --config.augment.rotation=15 --augmented=augmented.png

--timed measures a training step with random images. --augmented=FILE writes a picture of training
images, each beside what augmentation makes of it. No run is begun, and the common sets of TFDS need
not be there. The memory is that of the compiled training step on this machine's device, known
before one runs out of it.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from capsjax.analysis.size import (
    ROUNDS,
    CompiledStep,
    compile_step,
    layers_of,
    size_of_step,
    time_step,
)
from capsjax.commands import command_line
from capsjax.config.limits import check_limits
from capsjax.data import load_training, training_sizes
from capsjax.data.augment import Augmentation
from capsjax.reports.wording import plural
from capsjax.runs.compilation import keep_compiled_programs
from capsjax.runs.progress import format_seconds
from capsjax.runs.workdir import flatten
from capsjax.training.build import Built, build
from capsjax.training.fitting import choose_batch_size, describe_misfits

FLAGS = flags.FLAGS
CONFIG_OF = "run"
# Rows of the picture of augmented images, and versions of each image.
EXAMPLES, VERSIONS = 8, 9
# Least height of an image in it, in pixels.
SHOWN = 64


def define_flags() -> None:
    command_line.define_config_flag("configs/mnist.py:authors, digits")
    flags.DEFINE_bool("timed", False, "Measure the time of a training step.")
    flags.DEFINE_string("augmented", "", "Picture of augmented training images to write, a .png.")


def main() -> None:
    config = command_line.config_of_flags("configs/digits.py")
    keep_compiled_programs()
    if FLAGS.augmented:  # before what takes time
        Path(FLAGS.augmented).parent.mkdir(parents=True, exist_ok=True)
    print(describe(config, timed=FLAGS.timed))
    if FLAGS.augmented:
        draw_augmented(config).save(FLAGS.augmented)
        print(f"wrote {FLAGS.augmented}")


def describe(config: ConfigDict, *, timed: bool = False) -> str:
    """Describe layers, parameters, operations and memory of a config as text, and its time."""
    check_limits(flatten(config.to_dict()))
    sizes = training_sizes(**config.data)
    config = _without_choices(config, sizes.num_examples)
    built = build(config, *sizes)
    rows = layers_of(built)
    lines = [f"{'layer':<20} {'output of one image':<44} {'parameters':>12}"]
    for row in rows:
        output = ", ".join("×".join(map(str, shape)) or "1" for shape in row.output)
        lines.append(f"{row.name:<20} {output:<44} {row.num_parameters:>12,}")
    lines.append(f"{'all':<20} {'':<44} {sum(row.num_parameters for row in rows):>12,}")
    batch_size = config.train.batch_size
    step = compile_step(config, built, sizes.num_examples)
    size = size_of_step(step)
    forms = built.model.chosen_forms(batch_size)
    return "\n".join(
        [
            *lines,
            *describe_misfits(config, built.model),
            "",
            f"a training step of {batch_size} images on {jax.devices()[0].device_kind}: "
            f"at least {size.operations / 1e9:.2f} GFLOP by the compiler's count, which has one "
            f"round of each loop; memory: parameters and "
            f"optimizer {size.state_bytes / 1e6:.1f} MB, data {size.data_bytes / 1e6:.1f} MB, "
            f"working memory {size.working_bytes / 1e6:.1f} MB",
            "computed as: " + ", ".join(f"{name} {form}" for name, form in forms.items()),
            *([_describe_time(step, built)] if timed else []),
        ]
    )


def _describe_time(step: CompiledStep, built: Built) -> str:
    (seconds, num_steps), an_epoch = time_step(step, built), built.steps_per_epoch
    return (
        f"time of a step: {1000 * seconds:.4g} ms, the best of {ROUNDS} measurements of "
        f"{plural(num_steps, 'step')}; an epoch has {plural(an_epoch, 'step')}, together "
        f"{format_seconds(an_epoch * seconds)}"
    )


def draw_augmented(config: ConfigDict) -> Any:
    """Draw training images of different classes, each followed by what augmentation makes of it.

    Returns:
      A picture of Pillow.
    """
    from PIL import Image

    training, _ = load_training(**config.data)
    augmentation = Augmentation(**config.augment)
    augmentation.check_channels(training.image_shape[-1])
    few = training.take(_of_different_classes(training.labels))
    arrays = jnp.asarray(few.images), jnp.asarray(few.labels)
    augment = jax.jit(augmentation)
    keys = jax.random.split(jax.random.key(config.seed), VERSIONS)
    columns = [few.images / 255.0, *(np.asarray(augment(key, *arrays)[0]) for key in keys)]
    grid = np.pad(np.stack(columns, axis=1), ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    rows, versions, h, w, c = grid.shape
    tiled = grid.transpose(0, 2, 1, 3, 4).reshape(rows * h, versions * w, c)
    shown = tiled if c == 3 else tiled[..., :1].repeat(3, axis=-1)
    times = max(1, SHOWN // h)
    picture = Image.fromarray(np.round(255 * shown).astype(np.uint8))
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)


def _of_different_classes(labels: np.ndarray) -> np.ndarray:
    """Choose positions of examples, of different classes where an image has one."""
    if labels.ndim != 1:
        return np.arange(min(EXAMPLES, len(labels)))
    _, first = np.unique(labels, return_index=True)
    others = np.setdiff1d(np.arange(len(labels)), first)
    return np.concatenate([first, others])[:EXAMPLES]


def _without_choices(config: ConfigDict, num_examples: int) -> ConfigDict:
    """Return a config with a batch size; class weights do not matter to the size."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.train.batch_size = config.train.batch_size or choose_batch_size(num_examples)
        config.class_weights = "none"
    return config.lock()
