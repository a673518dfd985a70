"""Training as pure functions: no flags, no files, no clock."""

from capsjax.training.evaluation import Evaluation, make_evaluate
from capsjax.training.objective import Objective
from capsjax.training.optimizer import make_optimizer, make_schedule
from capsjax.training.steps import TrainState, init_state, make_train_steps, steps_per_epoch

__all__ = [
    "Evaluation",
    "Objective",
    "TrainState",
    "init_state",
    "make_evaluate",
    "make_optimizer",
    "make_schedule",
    "make_train_steps",
    "steps_per_epoch",
]
