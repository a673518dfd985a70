"""The fields of every config: data, learning rate, training, what is kept and written."""

from ml_collections import ConfigDict


def add_training_fields(config: ConfigDict) -> None:
    """Add all but the model and its losses, with the values that the CapsNet paper trains with."""
    # Name of the run in file names and titles.
    config.name = "capsnet"
    # Of parameters, order of the data and augmentation.
    config.seed = 0

    data = config.data = ConfigDict()
    # "digits", "npz", or an image-classification set of TFDS.
    data.name = "mnist"
    # TFDS's directory; empty for $TFDS_DATA_DIR, else TFDS's default.
    data.dir = ""
    # The .npz file, with name "npz".
    data.file = ""
    # Training examples to use, after the split; 0 for all.
    data.train_size = 0
    # Training examples held out for validation.
    data.validation_size = 5000
    # Of the shuffle that holds them out; independent of `seed`.
    data.split_seed = 0

    augment = config.augment = ConfigDict()
    # Largest shift in pixels, rows and columns alike, zero fill.
    augment.max_shift = 2

    schedule = config.schedule = ConfigDict()
    # "constant", "exponential", "cosine", "linear" or "staged".
    schedule.name = "exponential"
    # At the start.
    schedule.learning_rate = 1e-3
    # Exponential: the rate is multiplied by this ...
    schedule.decay_rate = 0.96
    # ... each so many ...
    schedule.decay_every = 2000
    # ... of these: "step" or "epoch",
    schedule.decay_unit = "step"
    # in a staircase (True) or smoothly (False),
    schedule.staircase = False
    # and never below this, at which cosine and linear end.
    schedule.floor = 0.0
    # Cosine and linear: epochs until the rate is at the floor, where it stays; 0 for the whole run.
    schedule.anneal_epochs = 0
    # Staged: the factor on learning_rate in each stage.
    schedule.stage_factors = (1.0, 0.1, 0.01)
    # Staged: the epochs at which all but the last stage end.
    schedule.stage_ends = (15, 30)

    optimizer = config.optimizer = ConfigDict()
    # Adam's decay of the mean of gradients.
    optimizer.b1 = 0.9
    # Adam's decay of the mean of their squares.
    optimizer.b2 = 0.999
    # Adam's small number.
    optimizer.eps = 1e-8
    # Epochs that begin with a new Adam, which knows nothing of earlier gradients.
    optimizer.fresh_epochs = ()

    train = config.train = ConfigDict()
    # Passes over the training examples. Not stated in the paper.
    train.epochs = 50
    # Images of a step.
    train.batch_size = 128

    evaluate = config.evaluate = ConfigDict()
    # Images at once, on each device; no effect on the result. 0 for as many as suit the device.
    evaluate.batch_size = 0

    # Which parameters the test set sees, once, at the end: those of the "last" step, or the
    # "best" by validation loss.
    config.selection = "last"

    checkpoint = config.checkpoint = ConfigDict()
    # How many to keep, besides the best one.
    checkpoint.keep = 2
    # Also in mid-epoch, each so many steps; 0 for never. (And always when interrupted.)
    checkpoint.every_steps = 0
    # Also in mid-epoch, each so many minutes; 0 for never.
    checkpoint.every_minutes = 5.0
    # At the end of each so many epochs, the last, and each that is the best so far.
    checkpoint.every_epochs = 1

    log = config.log = ConfigDict()
    # Steps between two lines of metrics of training.
    log.every_steps = 50
    # Whether to write for TensorBoard too.
    log.tensorboard = True
