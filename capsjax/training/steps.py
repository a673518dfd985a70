"""Training steps: any number in one compiled program, on data that is on the device.

The batch of step t, its augmentation and so the whole state after it are a pure function of
the seed and t. There is no iterator to save: a run that resumes at step t does bit for bit
what it would have done without the interruption, however the steps are cut into calls.

Several devices divide the batch that one would take alone; the result is the same up to rounding.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key, UInt8

from capsjax.data.augment import Augmentation
from capsjax.metrics import Sums, add_means, zero_sums
from capsjax.notation import CONSTANT, PRNGKey
from capsjax.training.division import check_divides, mean_over_devices, on_every_device, share
from capsjax.training.norm import tree_norm
from capsjax.training.objective import Objective


class TrainState(NamedTuple):
    """Everything that training changes and a checkpoint holds.

    Attributes:
      step: number of steps done.
      params: parameters of the model.
      opt_state: state of the optimizer.
      window: metrics summed since they were last written out.
      statistics: what the model learns without gradients, by Flax collection: "batch_stats" of
        batch norm. Empty for a capsule network.
    """

    step: Int[Array, ""]
    params: dict
    opt_state: optax.OptState
    window: Sums
    statistics: dict

    @property
    def variables(self) -> dict:
        """Everything that the model needs to be applied."""
        return {"params": self.params, **self.statistics}


class Health(NamedTuple):
    """Numbers of the last step, reported if one of them is not finite.

    Attributes:
      finite: whether loss and gradient were finite.
      loss: loss of the batch.
      parts: the losses that it is the weighted sum of, by name.
      gradient_norm: norm of all gradients.
      parameter_norm: norm of all parameters before the first step of the call.
    """

    finite: Array
    loss: Float[Array, ""]
    parts: dict[str, Float[Array, ""]]
    gradient_norm: Float[Array, ""]
    parameter_norm: Float[Array, ""]

    def shown(self) -> dict[str, str]:
        """Format the numbers as text, by name."""
        numbers = {
            "loss": self.loss,
            **self.parts,
            "gradient_norm": self.gradient_norm,
            "parameter_norm": self.parameter_norm,
        }
        return {name: f"{float(value):.6g}" for name, value in numbers.items()}


TrainSteps = Callable[[TrainState, UInt8[Array, "N h w c"], Int[Array, "N *label"], int], tuple]


def init_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    seed: int | Array,
) -> TrainState:
    """Return the state before the first step, a pure function of the seed."""
    key = _stream(seed, "parameters")
    images = jnp.zeros((1, *model.image_shape))
    label = objective.task.shape_of_labels(model.image_shape, model.num_classes)
    statistics = dict(model.init(key, images, jnp.zeros((1, *label), jnp.int32)))
    params = statistics.pop("params")
    metrics = ("loss", *objective.names, *objective.metric_names, "gradient_norm")
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        window=zero_sums(metrics),
        statistics=statistics,
    )


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Count the full batches of an epoch; the other examples wait for the next epoch's order.

    Raises:
      ValueError: if there is not even one.
    """
    if not 1 <= batch_size <= num_examples:
        raise ValueError(
            f"train.batch_size is between 1 and the {num_examples} training examples, "
            f"not {batch_size}; train.batch_size=0 chooses one"
        )
    return num_examples // batch_size


class Batches:
    """The batches of a run: that of a step is a pure function of the seed and the step.

    Args:
      seed, batch_size, augmentation: as in `make_train_steps`.
    """

    def __init__(self, seed: int | Array, batch_size: int, augmentation: Augmentation):
        self._batch_size, self._augmentation = batch_size, augmentation
        self._order_key, self._augmentation_key = (
            _stream(seed, purpose) for purpose in ("order", "augmentation")
        )
        self._dropout_key = _stream(seed, "dropout")

    def order(self, epoch: int | Int[Array, ""], num_examples: int) -> Int[Array, "N"]:
        """Return the order in which an epoch takes the examples."""
        return jax.random.permutation(jax.random.fold_in(self._order_key, epoch), num_examples)

    def take(
        self,
        order: Int[Array, "N"],
        step: int | Int[Array, ""],
        images: UInt8[Array, "N h w c"],
        labels: Int[Array, "N *label"],
    ) -> tuple[Float[Array, "n h w c"], Int[Array, "n *label"], Key[Array, "n"]]:
        """Return the augmented images of a step, their labels, and a dropout key for each.

        Args:
          order: the order of the step's epoch.
          step: number of steps before it.
          images, labels: the training examples.
        """
        first = (step % (len(labels) // self._batch_size)) * self._batch_size
        batch = lax.dynamic_slice(order, (first,), (self._batch_size,))
        key = jax.random.fold_in(self._augmentation_key, step)
        # One key for each image: a mask does not depend on the device that holds the image.
        keys = jax.random.split(jax.random.fold_in(self._dropout_key, step), self._batch_size)
        return (*self._augmentation(key, images[batch], labels[batch]), keys)


def make_train_steps(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    *,
    seed: int | Array,
    batch_size: int,
    augmentation: Augmentation,
    mesh: Mesh | None = None,
) -> TrainSteps:
    """Make a function that takes training steps.

    Args:
      model, optimizer, objective: the network, what updates it, and its losses.
      seed: seed of order, augmentation and dropout.
      batch_size: images per step.
      augmentation: random changes of the images.
      mesh: devices, along one axis, that divide each batch; None for one device. State and data
        are on all of them.

    Returns:
      A pure function (state, images, labels, num_steps) -> (state, health), to be compiled. It
      takes up to num_steps steps (a traced value: one program for any number), and fewer where
      the epoch ends or a step's loss or gradient is not finite.

    Raises:
      ValueError: for a batch that does not divide by the number of devices.
    """
    several = mesh is not None and mesh.size > 1
    if several:
        check_divides(batch_size, mesh)
        model = _over_devices(model, mesh)
    batches = Batches(seed, batch_size, augmentation)

    def loss_of(params, statistics, step, images, labels, keys):
        output, statistics = model.apply(
            {"params": params, **statistics}, images, labels, keys, mutable=list(statistics)
        )
        parts = objective.parts(output, images, labels, step)
        if several:
            scales = objective.scales(mesh.size)
            parts = {name: scales[name] * part for name, part in parts.items()}
        metrics = jax.tree.map(jnp.mean, objective.metrics(output.scores, labels))
        return objective.total(parts), (parts, metrics, statistics)

    def gradient_of(state, *batch):
        if several:
            batch = [share(array, mesh) for array in batch]
        gradient = jax.value_and_grad(loss_of, has_aux=True)
        of_share = gradient(state.params, state.statistics, state.step, *batch)
        return mean_over_devices(of_share, mesh) if several else of_share

    def one_step(state: TrainState, *batch: Array) -> tuple[TrainState, Health, Sums]:
        (loss, (parts, metrics, statistics)), gradient = gradient_of(state, *batch)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        updates = jax.tree_util.tree_map_with_path(_without_constants, updates)
        norm = tree_norm(gradient)
        means = {"loss": loss, **parts, **metrics, "gradient_norm": norm}
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        health = Health(
            finite=finite,
            loss=loss,
            parts=parts,
            gradient_norm=norm,
            parameter_norm=jnp.zeros(()),
        )
        params = optax.apply_updates(state.params, updates)
        state = TrainState(
            step=state.step + 1,
            # Those that failed stay, for `find_non_finite`.
            params=jax.tree.map(lambda x, y: jnp.where(finite, x, y), params, state.params),
            opt_state=opt_state,
            window=state.window,
            statistics=statistics,
        )
        return state, health, add_means(zero_sums(tuple(state.window.totals)), means, batch_size)

    def train_steps(state, images, labels, num_steps):
        in_epoch = steps_per_epoch(len(labels), batch_size)
        epoch = state.step // in_epoch
        order = batches.order(epoch, len(labels))
        end = jnp.minimum(state.step + num_steps, (epoch + 1) * in_epoch)

        # The metrics' sums as one array: each of its own is an operation in every step.
        sums, unravel = ravel_pytree(state.window)

        def go_on(carry):
            state, health, _ = carry
            return (state.step < end) & health.finite

        def next_step(carry):
            state, _, sums = carry
            batch = batches.take(order, state.step, images, labels)
            state, health, of_step = one_step(state, *batch)
            return state, health, sums + ravel_pytree(of_step)[0]

        zero = jnp.zeros(())
        parts = dict.fromkeys(objective.names, zero)
        unharmed = Health(jnp.array(True), zero, parts, zero, zero)
        # Once per call: in every step it would keep a copy of the parameters for a number that only
        # a broken run reports.
        norm = optax.tree.norm(state.params)
        state, health, sums = lax.while_loop(go_on, next_step, (state, unharmed, sums))
        return state._replace(window=unravel(sums)), health._replace(parameter_norm=norm)

    return on_every_device(train_steps, mesh) if several else train_steps


def _without_constants(path: tuple, update: Array) -> Array:
    """Return no update of an array that keeps its initial values: a decay of weights makes one."""
    return jnp.zeros_like(update) if getattr(path[-1], "key", "") in CONSTANT else update


def _over_devices(model: nn.Module, mesh: Mesh) -> nn.Module:
    """Return the model with its batch norm, if it has any, over the whole batch."""
    (axis,) = mesh.axis_names
    return model.clone(batch_axis=axis)


def _stream(seed: int | Array, purpose: str) -> PRNGKey:
    """Derive an independent random key for each purpose from one seed."""
    purposes = ("parameters", "order", "augmentation", "dropout")
    return jax.random.fold_in(jax.random.key(seed), purposes.index(purpose))
