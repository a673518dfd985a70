"""Training steps: as many as asked for, in one compiled program, on data that is on the device.

The batch of step t, its augmentation and so the whole state after it are a pure function of
the seed and t. There is no iterator to save: a run that resumes at step t does bit for bit
what it would have done without the interruption, however the steps are cut into calls.

On several devices each takes its share of the batch that one would take alone, and the result is
the same but for rounding.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt8

from capsjax.data.augment import shift_images, to_float
from capsjax.metrics import Sums, add_means, is_correct, zero_sums
from capsjax.notation import PRNGKey
from capsjax.training.division import check_divides, mean_over_devices, on_every_device, share
from capsjax.training.objective import Objective

METRICS = ("loss", "margin", "reconstruction", "correct", "gradient_norm")


class TrainState(NamedTuple):
    """All that training changes, and all that a checkpoint holds.

    Attributes:
      step: number of steps done.
      params: of the model.
      opt_state: of the optimizer.
      window: metrics summed since they were last written out.
    """

    step: Int[Array, ""]
    params: dict
    opt_state: optax.OptState
    window: Sums


class Health(NamedTuple):
    """The last step's numbers, to report if one of them is not finite.

    Attributes:
      finite: whether loss and gradient were finite.
      loss, margin, reconstruction: of the batch.
      gradient_norm, parameter_norm: of all gradients, and of all parameters before the step.
    """

    finite: Array
    loss: Float[Array, ""]
    margin: Float[Array, ""]
    reconstruction: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    parameter_norm: Float[Array, ""]

    def shown(self) -> dict[str, str]:
        """The numbers as text, by name."""
        fields = self._asdict()
        del fields["finite"]
        return {name: f"{float(value):.6g}" for name, value in fields.items()}


TrainSteps = Callable[[TrainState, UInt8[Array, "N h w c"], Int[Array, "N"], int], tuple]


def init_state(
    model: nn.Module, optimizer: optax.GradientTransformation, seed: int | Array
) -> TrainState:
    """The state before the first step, a pure function of the seed."""
    key = _stream(seed, "parameters")
    images = jnp.zeros((1, *model.image_shape))
    params = model.init(key, images, jnp.zeros((1,), jnp.int32))["params"]
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), zero_sums(METRICS))


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Full batches of an epoch; the rest waits for the next epoch's order.

    Raises:
      ValueError: if there is not even one.
    """
    if not 1 <= batch_size <= num_examples:
        raise ValueError(
            f"train.batch_size is between 1 and the {num_examples} training examples, "
            f"not {batch_size}"
        )
    return num_examples // batch_size


def make_train_steps(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    *,
    seed: int | Array,
    batch_size: int,
    max_shift: int,
    mesh: Mesh | None = None,
) -> TrainSteps:
    """A function that takes training steps.

    Args:
      model, optimizer, objective: what is trained, and how.
      seed: of order and augmentation.
      batch_size: images of a step.
      max_shift: of `shift_images`.
      mesh: devices, in one axis, that divide each batch among them; None for one device. State
        and data are on all of them.

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
    order_key, shift_key = _stream(seed, "order"), _stream(seed, "augmentation")

    def loss_of(params, images, labels):
        output = model.apply({"params": params}, images, labels)
        parts = objective.parts(output, images, labels)
        if several:
            scales = objective.scales(mesh.size)
            parts = {name: scales[name] * part for name, part in parts.items()}
        return objective.total(parts), (parts, jnp.mean(is_correct(output.lengths, labels)))

    def gradient_of(params, images, labels):
        if several:
            images, labels = share(images, mesh), share(labels, mesh)
        of_share = jax.value_and_grad(loss_of, has_aux=True)(params, images, labels)
        return mean_over_devices(of_share, mesh) if several else of_share

    def one_step(state: TrainState, images: Array, labels: Array) -> tuple[TrainState, Health]:
        images = to_float(
            shift_images(jax.random.fold_in(shift_key, state.step), images, max_shift)
        )
        (loss, (parts, accuracy)), gradient = gradient_of(state.params, images, labels)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        norm = optax.tree.norm(gradient)
        means = {"loss": loss, **parts, "correct": accuracy, "gradient_norm": norm}
        health = Health(
            finite=jnp.isfinite(loss) & jnp.isfinite(norm),
            loss=loss,
            gradient_norm=norm,
            parameter_norm=optax.tree.norm(state.params),
            **parts,
        )
        state = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
            window=add_means(state.window, means, batch_size),
        )
        return state, health

    def train_steps(state, images, labels, num_steps):
        in_epoch = steps_per_epoch(len(labels), batch_size)
        epoch = state.step // in_epoch
        order = jax.random.permutation(jax.random.fold_in(order_key, epoch), len(labels))
        end = jnp.minimum(state.step + num_steps, (epoch + 1) * in_epoch)

        def go_on(carry):
            state, health = carry
            return (state.step < end) & health.finite

        def next_step(carry):
            state, _ = carry
            first = (state.step % in_epoch) * batch_size
            batch = lax.dynamic_slice(order, (first,), (batch_size,))
            return one_step(state, images[batch], labels[batch])

        zero = jnp.zeros(())
        return lax.while_loop(go_on, next_step, (state, Health(jnp.array(True), *[zero] * 5)))

    return on_every_device(train_steps, mesh) if several else train_steps


def _stream(seed: int | Array, purpose: str) -> PRNGKey:
    """Independent random numbers for each purpose, from one seed."""
    purposes = ("parameters", "order", "augmentation")
    return jax.random.fold_in(jax.random.key(seed), purposes.index(purpose))
