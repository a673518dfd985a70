"""Construction of everything that a config describes."""

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import optax
from jax.sharding import Mesh
from jaxtyping import Array
from ml_collections import ConfigDict

from capsjax.data.augment import Augmentation
from capsjax.kernels.compute import Compute, with_forms
from capsjax.models import make_model
from capsjax.registry import settings_in
from capsjax.tasks import TASKS, make_task
from capsjax.training.evaluation import make_evaluate
from capsjax.training.fitting import parse_class_weights
from capsjax.training.objective import Objective
from capsjax.training.optimizer import make_optimizer, make_schedule
from capsjax.training.plateau import Plateau, make_plateau
from capsjax.training.steps import (
    TrainState,
    init_state,
    make_train_steps,
    steps_per_epoch,
)


class Built(NamedTuple):
    """Everything that a config describes, ready to be compiled.

    Attributes:
      model, optimizer: the network, and the transformation that updates its parameters.
      objective: the weighted losses, and the task.
      compute: how the network is computed.
      schedule: the learning rate as a function of the step.
      steps_per_epoch: number of steps in an epoch.
      plateau: what makes the factor on it that validation decides; None without one.
    """

    model: nn.Module
    optimizer: optax.GradientTransformation
    objective: Objective
    compute: Compute
    schedule: optax.Schedule
    steps_per_epoch: int
    plateau: Plateau | None

    def init_state(self, seed: int | Array) -> TrainState:
        """Return the state before the first step, a pure function of the seed."""
        return init_state(self.model, self.optimizer, self.objective, seed)


def build(
    config: ConfigDict,
    image_shape: tuple[int, int, int],
    num_classes: int,
    num_examples: int,
    forms: Mapping[str, str] | None = None,
) -> Built:
    """Build everything that a config describes, for data of the given sizes.

    Args:
      config: see `capsjax.config`.
      image_shape: (h, w, c).
      num_classes: number of classes.
      num_examples: number of training examples.
      forms: what "auto" in `config.model.compute` means, see `with_forms`; None for what suits the
        default device.

    Raises:
      ValueError: for a field whose value does not work; the message names it.
    """
    in_epoch = steps_per_epoch(num_examples, config.train.batch_size)
    model = dict(config.model.to_dict())
    if forms is not None:
        model["compute"] = with_forms(model["compute"], forms)
    Augmentation(**config.augment).check_channels(image_shape[-1])
    rates = dict(config.schedule)
    of_plateau = dict(rates.pop("plateau"))
    schedule = make_schedule(
        steps_per_epoch=in_epoch,
        epochs=config.train.epochs,
        plateau_decay=of_plateau.pop("decay"),
        **rates,
    )
    optimizer = make_optimizer(schedule, steps_per_epoch=in_epoch, **config.optimizer)
    plateau = make_plateau(rates["name"], rates["learning_rate"], rates["floor"], **of_plateau)
    if plateau is not None:
        optimizer = plateau.applied_to(optimizer)
    task = make_task(config.task.name, **settings_in(config.task.to_dict(), TASKS))
    objective = Objective(
        {name: config.get(f"{name}_loss", {}) for name in config.loss_weights},
        config.loss_weights.to_dict(),
        task,
        parse_class_weights(config.class_weights),
    )
    objective.check_class_weights()
    return Built(
        model=make_model(image_shape=image_shape, num_classes=num_classes, task=task, **model),
        optimizer=optimizer,
        objective=objective,
        compute=Compute(**model["compute"]),
        schedule=schedule,
        steps_per_epoch=in_epoch,
        plateau=plateau,
    )


def build_train_steps(config: ConfigDict, built: Built, mesh: Mesh | None = None):
    """Call `make_train_steps` with what a config describes."""
    train_steps = make_train_steps(
        built.model,
        built.optimizer,
        built.objective,
        seed=config.seed,
        batch_size=config.train.batch_size,
        augmentation=Augmentation(**config.augment),
        mesh=mesh,
    )
    return built.compute.in_precision(train_steps)


def build_evaluate(config: ConfigDict, built: Built, mesh: Mesh | None = None):
    """Call `make_evaluate` with what a config describes."""
    evaluate = make_evaluate(
        built.model,
        built.objective,
        batch_size=config.evaluate.batch_size,
        train_batch_size=config.train.batch_size,
        mesh=mesh,
    )
    return built.compute.in_precision(evaluate)
