"""Learning rates over the steps against numbers worked out by hand, and Adam's settings."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from capsjax.training import make_optimizer, make_schedule
from capsjax.training.optax_optimizers import optimizers

SETTINGS = {
    "epochs": 4,
    "learning_rate": 0.1,
    "decay_rate": 0.5,
    "decay_every": 4,
    "decay_unit": "step",
    "staircase": False,
    "floor": 0.0,
    "anneal_epochs": 0,
    "stage_factors": (1.0, 0.1, 0.01),
    "stage_ends": (2, 3),
}


def rates(name, steps, steps_per_epoch=10, **changes):
    schedule = make_schedule(name, steps_per_epoch, **SETTINGS | changes)
    return [float(schedule(step)) for step in steps]


def test_constant():
    np.testing.assert_allclose(rates("constant", [0, 1, 10**6]), 0.1)


def test_exponential_is_smooth_between_decays():
    # 0.1 · 0.5^(step/4)
    expected = [0.1, 0.0840896, 0.0707107, 0.05, 0.025, 0.1 * 2.0**-10]
    np.testing.assert_allclose(rates("exponential", [0, 1, 2, 4, 8, 40]), expected, rtol=1e-5)


def test_exponential_in_a_staircase():
    expected = [0.1, 0.1, 0.05, 0.05, 0.025]
    got = rates("exponential", [0, 3, 4, 7, 8], staircase=True)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_exponential_by_epochs():
    # Each two epochs of ten steps.
    got = rates("exponential", [0, 10, 20, 40], decay_unit="epoch", decay_every=2)
    np.testing.assert_allclose(got, [0.1, 0.0707107, 0.05, 0.025], rtol=1e-5)


def test_exponential_by_epochs_in_a_staircase():
    got = rates(
        "exponential",
        [0, 9, 10, 19, 20],
        decay_unit="epoch",
        decay_every=1,
        decay_rate=0.9,
        staircase=True,
    )
    np.testing.assert_allclose(got, [0.1, 0.1, 0.09, 0.09, 0.081], rtol=1e-6)


@pytest.mark.parametrize("num_steps", [41, 55, 83, 97, 107, 128])
def test_a_compiled_staircase_falls_at_its_very_steps(num_steps):
    # In a compiled program step / 41 is step · (1 / 41), which is below 1 at step 41.
    schedule = make_schedule(
        "exponential", num_steps, **SETTINGS | {"decay_every": num_steps, "staircase": True}
    )
    stairs = jnp.arange(1, 60) * num_steps
    compiled = jax.jit(jax.vmap(schedule))
    np.testing.assert_allclose(compiled(stairs), 0.1 * 0.5 ** np.arange(1.0, 60), rtol=1e-5)
    np.testing.assert_allclose(compiled(stairs - 1), 0.1 * 0.5 ** np.arange(59.0), rtol=1e-5)


@pytest.mark.parametrize("staircase", [False, True])
def test_exponential_stops_at_the_floor(staircase):
    # 0.1 · 0.5^n: 0.0125 at step 12, 0.00625 at step 16.
    got = rates("exponential", [12, 16, 10**4], floor=0.01, staircase=staircase)
    np.testing.assert_allclose(got, [0.0125, 0.01, 0.01], rtol=1e-5)


def test_exponential_may_stay_or_rise():
    assert rates("exponential", [0, 4, 40], decay_rate=1.0) == pytest.approx([0.1, 0.1, 0.1])
    assert rates("exponential", [0, 4], decay_rate=2.0, floor=0.15) == pytest.approx([0.15, 0.2])


def test_exponential_without_a_floor_goes_on_falling():
    assert 0 < rates("exponential", [400])[0] < 1e-30


# Four epochs of ten steps: 40 steps in all.
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # 0.05 · (1 + cos(pi/4)), 0.05 · (1 + cos(3 pi/4))
        ("cosine", [0.1, 0.0853553, 0.05, 0.0146447, 0.0]),
        ("linear", [0.1, 0.075, 0.05, 0.025, 0.0]),
    ],
)
def test_annealing_over_the_whole_run(name, expected):
    got = rates(name, [0, 10, 20, 30, 40])
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-9)
    assert rates(name, [39])[0] > 0
    assert rates(name, [41, 10**6]) == [0.0, 0.0]


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_annealing_ends_at_the_floor(name):
    got = rates(name, [0, 20, 40, 41, 10**6], floor=0.02)
    np.testing.assert_allclose(got, [0.1, 0.06, 0.02, 0.02, 0.02], rtol=1e-6)


@pytest.mark.parametrize("name", ["cosine", "linear"])
@pytest.mark.parametrize("epochs", [1, 4])
def test_annealing_ends_with_its_own_epochs_whatever_the_run_has(name, epochs):
    got = rates(name, [0, 10, 19, 20, 40], floor=0.02, anneal_epochs=2, epochs=epochs)
    np.testing.assert_allclose(got[:2] + got[3:], [0.1, 0.06, 0.02, 0.02], rtol=1e-6)
    assert 0.02 < got[2] < 0.03


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_annealing_takes_traced_values(name):
    starts, floors = jnp.array([0.1, 0.0, 0.2]), jnp.array([0.02, 0.0, 0.0])

    def rate(learning_rate, floor, step):
        changes = {"learning_rate": learning_rate, "floor": floor}
        return make_schedule(name, 10, **SETTINGS | changes)(step)

    # The second one starts at 0, which no floor can be divided by.
    for step in (0, 13, 60):
        got = jax.jit(jax.vmap(rate, in_axes=(0, 0, None)))(starts, floors, jnp.array(step))
        expected = [
            rates(name, [step], learning_rate=float(start), floor=float(floor))[0]
            for start, floor in zip(starts, floors, strict=True)
        ]
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-9)
        assert got[1] == 0


def test_stages_end_with_their_epochs():
    # Stages end at steps 20 and 30.
    got = rates("staged", [0, 19, 20, 29, 30, 1000])
    np.testing.assert_allclose(got, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-6)


def test_one_stage_is_a_constant():
    got = rates("staged", [0, 1000], stage_factors=(0.5,), stage_ends=())
    np.testing.assert_allclose(got, 0.05)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("exponental", {}, "did you mean 'exponential'"),
        ("exponential", {"decay_unit": "epochs"}, "did you mean 'epoch'"),
        ("cosin", {}, "did you mean 'cosine'"),
        ("cosine", {"anneal_epochs": -1}, "schedule.anneal_epochs is at least 0 .* not -1"),
        ("staged", {"stage_ends": (2,)}, "3 stages need 2 rising stage_ends"),
        ("staged", {"stage_ends": (3, 2)}, r"rising stage_ends, not \(3, 2\)"),
        ("staged", {"stage_ends": (2, 2)}, "rising"),
    ],
)
def test_settings_that_do_not_work(name, changes, message):
    with pytest.raises(ValueError, match=message):
        make_schedule(name, 10, **SETTINGS | changes)


def first_updates(schedule, gradients, **settings):
    optimizer = make_optimizer(schedule, 10, **{"b1": 0.9, "b2": 0.999, "eps": 1e-8} | settings)
    state, updates = optimizer.init(jnp.zeros(())), []
    for gradient in gradients:
        update, state = optimizer.update(jnp.array(gradient), state)
        updates.append(float(update))
    return updates


def test_adam_moves_by_the_learning_rate_of_the_step():
    # A constant gradient of any size moves by the learning rate, which halves each step here.
    schedule = make_schedule("exponential", 10, **SETTINGS | {"decay_every": 1})
    got = first_updates(schedule, [3.0, 3.0, 3.0])
    np.testing.assert_allclose(got, [-0.1, -0.05, -0.025], rtol=1e-4)


def test_a_fresh_epoch_begins_with_a_new_adam():
    # Two steps an epoch: a new one at steps 2 and 6, in epochs 1 and 3.
    gradients = [1.0, -2.0, 0.5, 4.0, 1.0, -1.0, 3.0]
    schedule = make_schedule("exponential", 2, **SETTINGS | {"decay_every": 1})
    optimizer = make_optimizer(schedule, 2, b1=0.9, b2=0.999, eps=1e-8, fresh_epochs=(1, 3))
    state, got = optimizer.init(jnp.zeros(())), []
    for gradient in gradients:
        update, state = optimizer.update(jnp.array(gradient), state)
        got.append(float(update))

    expected = []
    for first, last in ((0, 2), (2, 6), (6, 7)):
        # Its own averages begin anew, the learning rate goes on.
        rates = [0.1 * 0.5**step for step in range(first, last)]
        ones = first_updates(lambda step: 1.0, gradients[first:last])
        expected += [rate * one for rate, one in zip(rates, ones, strict=True)]
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    assert not np.allclose(got, first_updates(schedule, gradients), rtol=1e-2)


@pytest.mark.parametrize("epochs", [(0, 2), (3, 2), (2, 2), (-1,)])
def test_fresh_epochs_that_do_not_work(epochs):
    with pytest.raises(ValueError, match="rising numbers from 1 on"):
        make_optimizer(lambda step: 0.1, 2, b1=0.9, b2=0.999, eps=1e-8, fresh_epochs=epochs)


def test_adam_against_its_equations():
    gradients, b1, b2, eps, rate = [1.0, -2.0, 0.5], 0.8, 0.95, 0.1, 0.1
    m, v, expected = 0.0, 0.0, []
    for step, g in enumerate(gradients, start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        expected.append(-rate * (m / (1 - b1**step)) / (np.sqrt(v / (1 - b2**step)) + eps))
    schedule = make_schedule("constant", 10, **SETTINGS)
    got = first_updates(schedule, gradients, b1=b1, b2=b2, eps=eps)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_sgd_against_its_equations():
    gradients, momentum, decay, rate = [1.0, -2.0, 0.5], 0.8, 0.05, 0.1
    constants = {"b1": 0.9, "b2": 0.999, "eps": 1e-8}
    optimizer = make_optimizer(
        lambda step: rate, 10, name="sgd", momentum=momentum, weight_decay=decay, **constants
    )
    theta = jnp.array(3.0)
    state, expected, m = optimizer.init(theta), 3.0, 0.0
    for gradient in gradients:
        update, state = optimizer.update(jnp.array(gradient), state, theta)
        theta = theta + update
        m = momentum * m + gradient + decay * expected
        expected -= rate * m
        np.testing.assert_allclose(theta, expected, rtol=1e-6)


def test_without_weight_decay_the_state_is_that_of_adam_alone():
    schedule = make_schedule("constant", 10, **SETTINGS)
    state = make_optimizer(schedule, 10, b1=0.9, b2=0.999, eps=1e-8).init(jnp.zeros(2))
    of_adam = optax.adam(schedule, b1=0.9, b2=0.999, eps=1e-8).init(jnp.zeros(2))
    assert jax.tree.structure(state) == jax.tree.structure(of_adam)


def test_an_unknown_optimizer_names_the_nearest():
    with pytest.raises(ValueError, match=r"\(optimizer.name\) 'sdg'; did you mean 'sgd'"):
        make_optimizer(lambda step: 0.1, 2, b1=0.9, b2=0.999, eps=1e-8, name="sdg")


ADAM = {"b1": 0.9, "b2": 0.999, "eps": 1e-8}
THETA = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([[0.5]])}
GRADIENTS = [jax.tree.map(lambda x, k=k: jnp.cos(k + x), THETA) for k in range(4)]


def trained(optimizer):
    theta, state = THETA, optimizer.init(THETA)
    for gradient in GRADIENTS:
        updates, state = optimizer.update(gradient, state, theta)
        theta = optax.apply_updates(theta, updates)
    return theta


@pytest.mark.parametrize(
    ("name", "arguments", "of_optax"),
    [
        (
            "adamw",
            "weight_decay=0.1, b1=0.8",
            lambda rate: optax.adamw(rate, 0.8, weight_decay=0.1),
        ),
        ("nadam", "", optax.nadam),
        ("lion", "b2=0.95", lambda rate: optax.lion(rate, b2=0.95)),
        (
            "rmsprop",
            "momentum=0.9,nesterov=True",
            lambda r: optax.rmsprop(r, momentum=0.9, nesterov=True),
        ),
    ],
)
def test_optimizers_of_optax_by_name(name, arguments, of_optax):
    schedule = make_schedule("exponential", 10, **SETTINGS | {"decay_every": 1})
    ours = make_optimizer(schedule, 10, name=name, arguments=arguments, **ADAM)
    chex.assert_trees_all_close(trained(ours), trained(of_optax(schedule)), rtol=1e-6)
    constant = trained(of_optax(0.1))
    assert not jnp.allclose(trained(ours)["a"], constant["a"], rtol=1e-3)


@pytest.mark.ci
def test_every_optimizer_of_optax_that_is_named_takes_a_step():
    for name in sorted(optimizers().keys() - {"adam", "sgd", "sm3", "rprop", "optimistic_adam"}):
        optimizer = make_optimizer(lambda step: 0.01, 10, name=name, **ADAM)
        chex.assert_tree_all_finite(trained(optimizer))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("adamww", {}, r"\(optimizer.name\) 'adamww'; did you mean 'adamw'"),
        ("adamw", {"arguments": "wd=0.1"}, r"optax.adamw has no argument 'wd' .*weight_decay"),
        ("adamw", {"arguments": "0.1"}, r"are written like 'weight_decay=0.01,nesterov=True'"),
        ("adamw", {"arguments": "b1=open('x')"}, "are written like"),
        ("adamw", {"arguments": "learning_rate=1"}, "no argument 'learning_rate'"),
        ("adamw", {"arguments": "b1='x'"}, "optax.adamw does not work with optimizer.arguments="),
        ("rprop", {}, "optax.rprop does not work .*a learning rate that is a function"),
        ("adamw", {"weight_decay": 0.1}, "of adam and sgd, not of 'adamw'.*arguments=weight_decay"),
        ("lion", {"b2": 0.95}, "optimizer.b2 is a setting of adam and sgd, not of 'lion'"),
        ("lion", {"fresh_epochs": (1,)}, "fresh_epochs are for adam and sgd, not for 'lion'"),
        ("adam", {"arguments": "b1=0.8"}, "are for other optimizers than 'adam', whose settings"),
    ],
)
def test_optimizers_that_do_not_work(name, settings, message):
    with pytest.raises(ValueError, match=message) as raised:
        make_optimizer(lambda step: 0.1, 10, name=name, **ADAM | settings)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["adam", "sgd", "optimistic_gradient_descent"])
def test_gradients_are_scaled_down_to_the_limit_of_their_norm(name):
    norms = [float(optax.tree.norm(gradient)) for gradient in GRADIENTS]
    plain, clipped, far = (
        trained(make_optimizer(lambda step: 0.1, 10, name=name, clip_norm=limit, **ADAM))
        for limit in (0.0, min(norms) / 2, 2 * max(norms))
    )
    chex.assert_trees_all_equal(far, plain)
    assert not jnp.allclose(clipped["a"], plain["a"], rtol=1e-4)


def test_a_limit_by_hand():
    optimizer = make_optimizer(
        lambda step: 1.0, 10, name="sgd", momentum=0.0, clip_norm=1.0, **ADAM
    )
    gradient = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}
    updates, _ = optimizer.update(gradient, optimizer.init(THETA), THETA)
    np.testing.assert_allclose(updates["a"], [-0.6, 0.0], rtol=1e-6)
    np.testing.assert_allclose(updates["b"], [[-0.8]], rtol=1e-6)


def test_without_a_limit_the_state_is_that_of_earlier_versions():
    for name, inner in (("adam", optax.scale_by_adam()), ("sgd", optax.trace(0.9))):
        ours = make_optimizer(lambda step: 0.1, 10, name=name, **ADAM).init(THETA)
        before = optax.chain(inner, optax.scale_by_learning_rate(lambda step: 0.1)).init(THETA)
        assert jax.tree.structure(ours) == jax.tree.structure(before)
