"""Show the layers of a config's network, its parameters, operations and memory.

    capsjax summary --config=digits
    capsjax summary --config=configs/mnist.py:paper,small --config.train.batch_size=512

Nothing is trained, and the common sets of TFDS need not be there. The memory is that of the
compiled training step on this machine's device, known before one runs out of it.
"""

import jax
from ml_collections import ConfigDict

from capsjax.analysis.size import layers_of, size_of_step
from capsjax.commands import command_line
from capsjax.config.limits import check_limits
from capsjax.data import training_sizes
from capsjax.runs.compilation import keep_compiled_programs
from capsjax.runs.workdir import flatten
from capsjax.training.build import build

CONFIG_OF = "run"


def define_flags() -> None:
    command_line.define_config_flag("configs/mnist.py:authors, digits")


def main() -> None:
    config = command_line.config_of_flags("configs/digits.py")
    keep_compiled_programs()
    print(describe(config))


def describe(config: ConfigDict) -> str:
    """Describe layers, parameters, operations and memory of a config as text."""
    check_limits(flatten(config.to_dict()))
    sizes = training_sizes(**config.data)
    built = build(config, *sizes)
    rows = layers_of(built)
    lines = [f"{'layer':<20} {'output of one image':<44} {'parameters':>12}"]
    for row in rows:
        output = ", ".join("×".join(map(str, shape)) or "1" for shape in row.output)
        lines.append(f"{row.name:<20} {output:<44} {row.num_parameters:>12,}")
    lines.append(f"{'all':<20} {'':<44} {sum(row.num_parameters for row in rows):>12,}")
    batch_size = config.train.batch_size
    size = size_of_step(config, built, sizes.num_examples)
    forms = built.model.chosen_forms(batch_size)
    return "\n".join(
        [
            *lines,
            "",
            f"a training step of {batch_size} images on {jax.devices()[0].device_kind}: "
            f"{size.operations / 1e9:.2f} GFLOP by the compiler's count; memory: parameters and "
            f"optimizer {size.state_bytes / 1e6:.1f} MB, data {size.data_bytes / 1e6:.1f} MB, "
            f"working memory {size.working_bytes / 1e6:.1f} MB",
            "computed as: " + ", ".join(f"{name} {form}" for name, form in forms.items()),
        ]
    )
