"""Which trials a sweep has, and that every sweep in configs/ can be trained."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.config import load_config, make_config
from capsjax.config.tagged import resolved
from capsjax.losses import reconstruction_loss
from capsjax.runs.workdir import WorkdirError, flatten
from capsjax.sweeps import is_small, levels_of, make_sweep, trials_of
from capsjax.sweeps.run import run_sweep
from capsjax.training.build import build, build_train_steps
from capsjax.training.population import structure_of
from tests.tiny import ROOT

SWEEPS = sorted((ROOT / "configs" / "sweeps").glob("[a-z]*.py"))
# What may stand behind the colon: mostly a size.
ARGUMENTS = {"digits": (None,), "routing": ("native", "common")}
ALL = [(path, each) for path in SWEEPS for each in ARGUMENTS.get(path.stem, ("full", "small"))]
each_sweep = pytest.mark.parametrize(
    ("path", "size"), ALL, ids=[f"{path.stem}-{size}" for path, size in ALL]
)

ROUNDS = "model.routing.dynamic.num_iterations"


def load(path, size):
    return load_config(path, size) if size else load_config(path)


def small_sweep(factors, **settings):
    return make_sweep("test", make_config("paper,small"), factors, **{"num_seeds": 1, **settings})


def test_the_grid_is_the_product_with_seeds_side_by_side():
    sweep = small_sweep(
        {
            "rounds": levels_of(ROUNDS, (1, 2)),
            "loss": {
                "sum": {},
                "mean": {"margin_loss.reduction": "mean", "loss_weights.margin": 2},
            },
        },
        num_seeds=2,
    )
    trials = trials_of(sweep)
    assert [trial.id for trial in trials[:3]] == [
        "rounds=1,loss=sum,seed=0",
        "rounds=1,loss=sum,seed=1",
        "rounds=1,loss=mean,seed=0",
    ]
    assert len(trials) == 8
    last = trials[-1]
    assert last.levels == {"rounds": "2", "loss": "mean"}
    assert last.overrides == {
        ROUNDS: 2,
        "margin_loss.reduction": "mean",
        "loss_weights.margin": 2,
    }
    assert (last.config.seed, last.config.margin_loss.reduction) == (1, "mean")
    changed = {"seed", "name", *last.overrides}
    before, after = flatten(resolved(sweep.base)), flatten(resolved(last.config))
    assert {name for name in before if before[name] != after[name]} == changed


def test_seeds_start_at_the_seed_of_the_base():
    sweep = small_sweep({"rounds": levels_of(ROUNDS, (1,))}, num_seeds=3)
    with sweep.unlocked():
        sweep.base.seed = 10
    assert [trial.config.seed for trial in trials_of(sweep)] == [10, 11, 12]


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        (
            {"rounds": levels_of("model.routing.num_iteration", (1,))},
            r"rounds=1: no config field .*did you mean 'model.routing.dynamic.num_iterations'",
        ),
        ({"rounds": levels_of("model.routing", (1,))}, "no config field 'model.routing'"),
        (
            {"rounds": levels_of(ROUNDS, (1.5,))},
            "of type int, like 3",
        ),
        ({"rounds": levels_of(ROUNDS, ("2",))}, "'2' is not"),
        ({"seed": levels_of("seed", (1, 2))}, "set by the sweep itself"),
        ({}, "no factor"),
        ({"rounds": {}}, "without levels"),
        (
            {
                "one": levels_of("margin_loss.m_plus", (0.9,)),
                "two": levels_of("margin_loss.m_plus", (0.8,)),
            },
            "two=0.8: margin_loss.m_plus is set by 'one' too",
        ),
    ],
)
def test_mistakes_are_named(factors, message):
    with pytest.raises(ValueError, match=message):
        trials_of(small_sweep(factors))


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ({"weight": "0", "rounds": "1"}, "weight=0,rounds=1 is no .*known: weight=0.0,rounds=1, "),
        ({"weight": "0.0"}, "its reference weight=0.0 is no trial of its own; did you mean"),
        ({"weights": "0.0", "rounds": "1"}, "did you mean 'weight=0.0,rounds=1'"),
    ],
)
def test_a_reference_that_is_no_trial_is_refused_before_anything_is_trained(reference, message):
    factors = {
        "weight": levels_of("loss_weights.reconstruction", (0.0, 0.5)),
        "rounds": levels_of(ROUNDS, (1, 2)),
    }
    with pytest.raises(ValueError, match=message):
        trials_of(small_sweep(factors, reference=reference))
    assert len(trials_of(small_sweep(factors, reference={"rounds": "1", "weight": "0.0"}))) == 4


def test_a_reference_that_is_the_same_trials_as_another_is_refused():
    factors = {
        "algorithm": {"dynamic": {}, "uniform": {"model.routing.name": "uniform"}},
        "rounds": levels_of(ROUNDS, (1, 3)),
    }
    reference = {"algorithm": "uniform", "rounds": "3"}
    with pytest.raises(ValueError, match="did you mean 'algorithm=uniform,rounds=1'"):
        trials_of(small_sweep(factors, reference=reference))


def test_published_values_may_be_outside_the_grid_but_not_of_unknown_factors():
    factors = {"rounds": levels_of(ROUNDS, (1, 2))}
    trials_of(small_sweep(factors, published=[({"rounds": "9"}, 0.3, 0.1, "a paper")]))
    with pytest.raises(ValueError, match=r"unknown factor of published .* did you mean 'rounds'"):
        trials_of(small_sweep(factors, published=[({"round": "1"}, 0.3, 0.1, "a paper")]))


def test_what_is_for_the_report_alone_may_differ_when_a_sweep_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr("capsjax.sweeps.run.Sweep.run", lambda self: self._write_index())
    factors = {"rounds": levels_of(ROUNDS, (1, 2))}
    points = [{"rounds": "1"}, {"rounds": "2"}]
    for title, point in zip(("one", "two"), points, strict=True):
        published = [(point, 0.3, 0.1, "a paper")]
        given = {"title": title, "reference": point, "published": published}
        run_sweep(small_sweep(factors, **given), tmp_path)
        index = json.loads((tmp_path / "index.json").read_text())
        assert (index["title"], index["reference"]) == (title, point)
        assert index["published"][0]["levels"] == point
    other = small_sweep(factors, **given)
    with other.unlocked():
        other.base.train.epochs += 1
    with pytest.raises(WorkdirError, match=r"another config \(base.train.epochs"):
        run_sweep(other, tmp_path)


def test_more_mistakes():
    factors = {"rounds": levels_of(ROUNDS, (1,))}
    with pytest.raises(ValueError, match="num_seeds is at least 1, not 0"):
        trials_of(small_sweep(factors, num_seeds=0))
    with pytest.raises(ValueError, match="did you mean 'small'"):
        is_small("smal")
    alike = {"a b": {}, "a_b": {}}
    with pytest.raises(ValueError, match="the same name"):
        trials_of(small_sweep({"factor": alike}))


@pytest.mark.ci
@pytest.mark.parametrize(
    ("path", "size"),
    [
        pytest.param(*each, marks=[] if each[1] in (None, "small") else [pytest.mark.long])
        for each in ALL
    ],
)
def test_one_step_of_every_structure(path, size):
    image_shape = (8, 8, 1) if path.stem == "digits" else (28, 28, 1)
    firsts = {}
    for trial in trials_of(load(path, size)):
        firsts.setdefault(structure_of(flatten(resolved(trial.config))), trial.config)
    for config in firsts.values():
        count = config.train.batch_size
        built = build(config, image_shape, 10, count)
        state = jax.eval_shape(lambda: built.init_state(0))  # noqa: B023
        images = jax.ShapeDtypeStruct((count, *image_shape), jnp.uint8)
        labels = jax.ShapeDtypeStruct((count,), jnp.int32)
        steps = build_train_steps(config, built)
        after, _ = jax.eval_shape(steps, state, images, labels, np.int32(1))
        chex.assert_trees_all_equal_shapes_and_dtypes(after, state)


@each_sweep
def test_references_and_published_values_are_points_of_the_grid(path, size):
    sweep = load(path, size)
    levels = {factor: {level for level, _ in levels} for factor, levels in sweep.factors}
    for point in (sweep.reference, *(point for point, *_ in sweep.published)):
        assert {name: level in levels[name] for name, level in point} == dict.fromkeys(levels, True)


def test_the_paper_s_table_is_one_program():
    for size in ("full", "small"):
        trials = trials_of(load(ROOT / "configs" / "sweeps" / "routing_x_reconstruction.py", size))
        assert len(trials) == 8 * {"full": 5, "small": 3}[size]
        assert len({structure_of(flatten(resolved(trial.config))) for trial in trials}) == 1


def test_the_authors_corner_of_the_gap_is_their_preset_where_it_matters():
    sweep = load(ROOT / "configs" / "sweeps" / "authors_gap.py", "full")
    last = flatten(resolved(trials_of(sweep)[-1].config))
    authors = flatten(resolved(make_config("authors")))
    assert {name for name in last if last[name] != authors[name]} == {
        # Names, seeds, length and validation differ by nature; the rest is initial values that are
        # no part of the three things that are compared, a floor that 50 epochs do not reach, and
        # logging.
        "name",
        "seed",
        "train.epochs",
        "data.validation_size",
        "log.tensorboard",
        "schedule.floor",
        "model.conv.kernel_init",
        "model.decoder.kernel_init",
        "model.decoder.bias_init",
    }


@pytest.mark.slow
def test_learning_rates_of_the_annealing_sweep_at_half_and_at_the_end():
    # 55,000 examples are 429 full batches of 128 an epoch.
    expected = {
        "small": {
            "paper": (0.96**2.145, 0.96**4.29),
            "exponential": (0.9**10, 0.9**20),
            "cosine": (0.5, 0.0),
            "linear": (0.5, 0.0),
            "constant": (1.0, 1.0),
        },
        "full": {
            "paper": (0.96**5.3625, 0.96**10.725),
            "exponential": (0.9**25, 0.9**50),
            "cosine": (0.5, 0.0),
            "linear": (0.5, 0.0),
            "constant": (1.0, 1.0),
        },
    }
    for size, of_levels in expected.items():
        trials = trials_of(load(ROOT / "configs" / "sweeps" / "annealing.py", size))
        assert len(trials) == 8 * len(of_levels)
        for trial in trials[::8]:
            built = build(trial.config, (28, 28, 1), 10, 55_000)
            total = built.steps_per_epoch * trial.config.train.epochs
            got = [float(built.schedule(step)) for step in (total // 2, total)]
            levels = np.multiply(of_levels[trial.levels["schedule"]], 1e-3)
            np.testing.assert_allclose(got, levels, rtol=1e-4, atol=1e-9)


def test_each_choice_of_a_document_is_what_its_preset_does():
    sweep = load(ROOT / "configs" / "sweeps" / "documents.py", "full")
    configs = {trial.levels["choice"]: trial.config for trial in trials_of(sweep)}
    assert list(configs) == ["paper", "keras", "notebook", "pytorch"]
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(50, 28, 28, 1)), jnp.float32)

    def weighted(config):
        """The reconstruction's part of the loss of a batch."""
        reduction = config.reconstruction_loss.reduction
        loss = reconstruction_loss(jnp.zeros_like(images), images, reduction)
        return float(config.loss_weights.reconstruction * loss)

    for preset, config in configs.items():
        np.testing.assert_allclose(weighted(config), weighted(make_config(preset)), rtol=1e-5)
        grouping = make_config(preset).model.primary_caps.grouping
        assert config.model.primary_caps.grouping == grouping
    assert weighted(configs["keras"]) < 0.01 * weighted(configs["paper"])
    assert weighted(configs["notebook"]) > 10 * weighted(configs["paper"])
