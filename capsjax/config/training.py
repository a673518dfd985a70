"""The fields of every config: data, learning rate, training, checkpoints and logs."""

from ml_collections import ConfigDict

from capsjax.config.tagged import add_components


def add_training_fields(config: ConfigDict) -> None:
    """Add all fields but those of model and losses, at the CapsNet paper's values."""
    # Name of the run in file names and titles.
    config.name = "capsnet"
    # Seed of the parameters, the order of the data, augmentation and dropout.
    config.seed = 0

    data = config.data = ConfigDict()
    # Data set: "digits", "npz", "folder", "csv", "shapes", or an image-classification set of TFDS;
    # and the settings of each that has any, the fields of its dataclass in `capsjax.data`.
    add_components(data, "data", "mnist")
    # Directory of TFDS; if empty, $TFDS_DATA_DIR, else TFDS's default.
    data.dir = ""
    # The .npz file of "npz", the folder of "folder", the table of "csv".
    data.file = ""
    # Number of training examples to use, after the split; 0 for all.
    data.train_size = 0
    # Number of training examples held out for validation.
    data.validation_size = 5000
    # Seed of the shuffle that holds them out; independent of `seed`.
    data.split_seed = 0

    # What labels mean: a name of `capsjax.tasks.TASKS`, and the settings of each task with any.
    config.task = ConfigDict()
    add_components(config.task, "task", "classification")

    augment = config.augment = ConfigDict()
    # Largest shift of rows and columns, in pixels, filled with zeros.
    augment.max_shift = 2

    schedule = config.schedule = ConfigDict()
    # Learning-rate schedule: "constant", "exponential", "cosine", "linear" or "staged".
    schedule.name = "exponential"
    # Initial learning rate.
    schedule.learning_rate = 1e-3
    # Exponential: the factor by which the rate is multiplied.
    schedule.decay_rate = 0.96
    # Exponential: the number of units from one multiplication to the next.
    schedule.decay_every = 2000
    # Exponential: the unit, "step" or "epoch".
    schedule.decay_unit = "step"
    # Exponential: whether the rate falls in a staircase, not smoothly.
    schedule.staircase = False
    # Exponential: the lower bound of the rate. Cosine and linear: the final rate.
    schedule.floor = 0.0
    # Cosine and linear: epochs until the rate is at the floor, where it stays; 0 for the whole run.
    schedule.anneal_epochs = 0
    # Staged: the factor on learning_rate in each stage.
    schedule.stage_factors = (1.0, 0.1, 0.01)
    # Staged: the epochs at which all stages but the last end.
    schedule.stage_ends = (15, 30)

    optimizer = config.optimizer = ConfigDict()
    # Optimizer: "adam" or "sgd".
    optimizer.name = "adam"
    # Adam's decay of the mean of gradients.
    optimizer.b1 = 0.9
    # Adam's decay of the mean of their squares.
    optimizer.b2 = 0.999
    # Adam's small number in the denominator.
    optimizer.eps = 1e-8
    # Momentum of SGD.
    optimizer.momentum = 0.9
    # This multiple of all parameters is added to their gradients.
    optimizer.weight_decay = 0.0
    # Epochs that start with a new state of the optimizer, without earlier gradients.
    optimizer.fresh_epochs = ()

    train = config.train = ConfigDict()
    # Passes over the training examples. Not stated in the paper.
    train.epochs = 50
    # Images per step.
    train.batch_size = 128

    evaluate = config.evaluate = ConfigDict()
    # Images per batch on each device, without effect on the result; 0 for what suits the device.
    evaluate.batch_size = 0

    # Parameters evaluated on the test set, once, at the end: those of the "last" step, or the
    # "best" by validation loss.
    config.selection = "last"

    checkpoint = config.checkpoint = ConfigDict()
    # Number of checkpoints to keep besides the best one.
    checkpoint.keep = 2
    # Save every N steps; 0 disables. (The last step and an interrupted run are always saved.)
    checkpoint.every_steps = 0
    # Save N minutes after the last save, so that no kill costs more; 0 disables.
    checkpoint.every_minutes = 5.0
    # Save at the end of every N epochs, and each that is the best so far, but not more often than
    # takes 1 % of the time. The best is kept in memory until the next save.
    checkpoint.every_epochs = 1

    log = config.log = ConfigDict()
    # Steps between two lines of training metrics.
    log.every_steps = 50
    # Whether to write TensorBoard files too.
    log.tensorboard = True
