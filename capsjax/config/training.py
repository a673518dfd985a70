"""The fields of every config: data, learning rate, training, checkpoints and logs."""

from ml_collections import ConfigDict

from capsjax.config.tagged import add_components


def add_training_fields(config: ConfigDict) -> None:
    """Add all fields but those of model and losses, at the CapsNet paper's values."""
    # Name of the run in file names and titles.
    config.name = "capsnet"
    # Seed of the parameters, the order of the data, augmentation and dropout: 32 bits.
    config.seed = 0
    # Folder of a run whose parameters this one starts from, where names and shapes fit; empty for
    # none. They are those of its tested checkpoint.
    config.init_from = ""

    data = config.data = ConfigDict()
    # Data set: "digits", "npz", "folder", "csv", "shapes", "hf:" and a set of the Hugging Face Hub,
    # or an image-classification set of TFDS; and the settings of each that has any, the fields of
    # its dataclass in `capsjax.data`.
    add_components(data, "data", "mnist")
    # Directory of TFDS; if empty, $TFDS_DATA_DIR, else TFDS's default.
    data.dir = ""
    # The .npz file of "npz", the folder of "folder", the table of "csv".
    data.file = ""
    # Number of training examples to use, after the split, by a shuffle of all classes; 0 for all.
    data.train_size = 0
    # Number of training examples held out for validation, or their share if it is below 1.
    data.validation_size = 5000.0
    # Seed of the shuffle that holds them out; independent of `seed`.
    data.split_seed = 0
    # How a validation part, and a test part of own data without one, are held out: "shuffled",
    # "stratified" (every class in all parts), or "auto": stratified for "npz", "folder", "csv" and
    # "hf:".
    data.split = "auto"

    # What labels mean: a name of `capsjax.tasks.TASKS`, and the settings of each task with any.
    config.task = ConfigDict()
    add_components(config.task, "task", "classification")

    augment = config.augment = ConfigDict()
    # Largest shift of rows and columns, in pixels, filled with zeros: a random crop of the padded
    # image.
    augment.max_shift = 2
    # Probability that an image is mirrored left to right.
    augment.flip_horizontal = 0.0
    # Probability that it is mirrored top to bottom.
    augment.flip_vertical = 0.0
    # Largest rotation in both directions, in degrees.
    augment.rotation = 0.0
    # Largest change of the size: by a factor between 1 - scale and 1 + scale.
    augment.scale = 0.0
    # Largest number that is added to all pixels, in [0, 1], or taken from them.
    augment.brightness = 0.0
    # Largest change of the contrast: deviations from the mean by a factor between 1 - and 1 +.
    augment.contrast = 0.0
    # Largest change of the saturation, of images of three channels: likewise, from grey.
    augment.saturation = 0.0
    # Largest turn of the hue in both directions, in degrees, of images of three channels.
    augment.hue = 0.0
    # Standard deviation of the noise of each pixel, of the whole range 1.
    augment.noise = 0.0
    # Elastic deformation: standard deviation of the displacement of each pixel, in pixels.
    augment.elastic = 0.0
    # Elastic: how far neighbours are displaced alike, in pixels. (Simard et al. 2003: 4 for digits
    # of 28.)
    augment.elastic_sigma = 4.0

    schedule = config.schedule = ConfigDict()
    # Learning-rate schedule: "constant", "exponential", "cosine", "linear", "staged" or "plateau".
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
    # Exponential and plateau: the lower bound of the rate. Cosine and linear: the final rate.
    schedule.floor = 0.0
    # Cosine and linear: epochs until the rate is at the floor, where it stays; 0 for the whole run.
    schedule.anneal_epochs = 0
    # Staged: the factor on learning_rate in each stage.
    schedule.stage_factors = (1.0, 0.1, 0.01)
    # Staged: the epochs at which all stages but the last end.
    schedule.stage_ends = (15, 30)

    # Only the schedule "plateau" has these. It depends on the validation part: on its Dice
    # coefficient for maps of labels, on its loss for others.
    plateau = schedule.plateau = ConfigDict()
    # The factor by which the rate is multiplied.
    plateau.factor = 0.05
    # Epochs in a row without an improvement after which it is.
    plateau.patience = 5
    # What the metric must be better by than the best so far to be an improvement.
    plateau.min_improvement = 1e-4
    # The rate is also divided by 1 + this times the number of steps; the floor is one without it.
    plateau.decay = 0.0

    optimizer = config.optimizer = ConfigDict()
    # Optimizer: "adam" or "sgd", with the settings below, or another one of optax.
    optimizer.name = "adam"
    # Arguments of one of optax, such as "weight_decay=0.01,b2=0.95"; optax's defaults for others.
    optimizer.arguments = ""
    # Largest norm of all gradients, to which larger ones are scaled down; 0 for no limit.
    optimizer.clip_norm = 0.0
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
    # Images per step; 0 for a number that suits that of the training examples.
    train.batch_size = 128
    # Training ends after so many epochs without a better Dice coefficient of the validation part,
    # for maps of labels, or a lower loss of it, for others; 0 for never.
    train.patience = 0

    # Weight of the loss of an image, or a pixel of a map, by its class: "none", "balanced" (the
    # inverse of the number of the class), or a number for each class, "1,2,0.5". The losses margin,
    # spread, cross_entropy and binary_cross_entropy have them; their mean over the training
    # examples is made 1.
    config.class_weights = "none"

    evaluate = config.evaluate = ConfigDict()
    # Images per batch on each device, without effect on the result; 0 for what suits the device.
    evaluate.batch_size = 0

    # Parameters evaluated on the test set, once, at the end: those of the "last" step, or the
    # "best" on the validation part.
    config.selection = "last"
    # What the best parameters are best by: "loss", "accuracy", or "dice" for maps of labels. The
    # first of equal ones counts.
    config.selection_metric = "loss"

    checkpoint = config.checkpoint = ConfigDict()
    # Number of checkpoints to keep besides the best one, of a single run: a population of a sweep
    # keeps two.
    checkpoint.keep = 2
    # Save every N steps; 0 disables. (The last step and an interrupted run are always saved.)
    checkpoint.every_steps = 0
    # Save N minutes after the last save, so that no kill costs more; 0 disables.
    checkpoint.every_minutes = 5.0
    # Save at the end of every N epochs, and each that is the best so far, but not more often than
    # takes 1 % of the time. The best is kept in memory until the next save. (In a sweep: every N
    # epochs alone, with the best so far of each member.)
    checkpoint.every_epochs = 1

    log = config.log = ConfigDict()
    # Steps between two lines of training metrics.
    log.every_steps = 50
    # Whether to write TensorBoard files too.
    log.tensorboard = True
