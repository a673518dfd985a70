"""experiments/benchmark.py: what it counts, how it times, and what it reports."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.benchmarks import (
    compare,
    evaluation,
    jax_cases,
    memory,
    population,
    profiling,
    rows,
    scaling,
    startup,
)
from capsjax.benchmarks.machine import OtherWork, others_line
from capsjax.benchmarks.operations import forward_operations, step_operations
from capsjax.benchmarks.settings import Settings
from capsjax.benchmarks.timing import Case, Effort, Prepared, Skipped, measure, median
from capsjax.commands import benchmark
from capsjax.config import make_config
from capsjax.reports import tables
from capsjax.runs.environment import machine_memory
from capsjax.runs.interrupt import SIGNALS
from capsjax.training.build import build
from tests.tiny import ROOT

pytestmark = pytest.mark.ci

# A whole network for images of 14x12 pixels.
TINY = {
    "model.conv.features": 6,
    "model.conv.kernel_size": 5,
    "model.primary_caps.types": 2,
    "model.primary_caps.kernel_size": 3,
    "model.decoder.hidden": (7, 9),
    "train.batch_size": 4,
}
SHAPE = (14, 12, 1)


class Clock:
    """Seconds that pass when the cases say so."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def case(self, name, seconds, most=1000, **settings):
        """A case whose work takes those seconds, in turn and then the last ones again."""
        seconds = list(seconds)

        def run(count):
            self.calls.append((name, count))
            self.now += count * (seconds.pop(0) if len(seconds) > 1 else seconds[0])

        return Case(name, lambda: Prepared(run, 1.0, {"memory_bytes": 7}, most), **settings)

    def measure(self, cases, effort):
        records = []
        measure(cases, records, effort, "title", clock=lambda: self.now)
        return records


def test_nominal_operations_of_the_full_network():
    # 20x20 pixels x 256 kernels of 9x9; 6x6 pixels x 256 kernels of 9x9x256; 1152 x 10 matrices of
    # 16x8; 160 -> 512 -> 1024 -> 784. Two operations for each multiplication.
    products = {
        "conv": 8_294_400,
        "primary_caps": 191_102_976,
        "votes": 1_474_560,
        "decoder": 1_409_024,
    }
    model = make_config().model
    assert forward_operations(model, (28, 28, 1), 10) == {k: 2 * n for k, n in products.items()}
    assert step_operations(model, (28, 28, 1), 10, 1, training=False) == 404_561_920
    # Three times that, without the gradient with respect to the images.
    assert step_operations(model, (28, 28, 1), 10, 1, training=True) == 1_197_096_960
    assert step_operations(model, (28, 28, 1), 10, 128, training=True) == 128 * 1_197_096_960


def test_nominal_operations_count_channels_and_sides():
    model = make_config().model
    one, three = (forward_operations(model, (28, 28, c), 10) for c in (1, 3))
    assert three["conv"] == 3 * one["conv"]
    assert three["primary_caps"] == one["primary_caps"]
    # 29 - 8 = 21 rows of the first layer, and 7 of the second.
    taller = forward_operations(model, (29, 28, 1), 10)
    assert taller["conv"] * 20 == one["conv"] * 21
    assert taller["votes"] * 6 == one["votes"] * 7


def test_cases_are_timed_in_turn():
    clock = Clock()
    records = clock.measure(
        [clock.case("a", [1.0]), clock.case("b", [2.0])], Effort(repeats=3, seconds=0.1)
    )
    warm_up, rounds = clock.calls[:2], clock.calls[2:]
    assert warm_up == [("a", 1), ("b", 1)]
    assert rounds == [("a", 1), ("b", 1)] * 3
    assert [record["seconds"] for record in records] == [[1.0] * 3, [2.0] * 3]
    assert all(record["memory_bytes"] == 7 for record in records)


def test_short_work_is_done_several_times_in_a_timed_call():
    clock = Clock()
    fast, slow, capped = clock.measure(
        [clock.case("fast", [0.01]), clock.case("slow", [9.0]), clock.case("capped", [0.01], 5)],
        Effort(repeats=2, seconds=1.0, least=2),
    )
    assert fast["count"] == 100
    assert slow["count"] == 2
    assert capped["count"] == 5
    assert max(count for name, count in clock.calls if name == "capped") == 5
    assert fast["seconds"] == pytest.approx([0.01, 0.01])


def test_warm_ups_are_not_counted_and_the_median_is_not_the_mean():
    clock = Clock()
    # The warm-up, and five rounds of which one met with something else on the machine.
    (record,) = clock.measure([clock.case("a", [50.0, 3.0, 1.0, 90.0, 2.0, 4.0])], Effort(5, 1.0))
    assert record["seconds"] == [3.0, 1.0, 90.0, 2.0, 4.0]
    assert median(record) == 3.0
    assert median({"seconds": [1.0, 2.0]}) == 1.5
    assert median({"seconds": []}) is None
    assert median(None) is None


def test_what_cannot_be_measured_is_noted_and_the_rest_goes_on():
    def skip():
        raise Skipped("needs too much")

    def fail():
        raise RuntimeError("no compiler\nand much more")

    clock = Clock()
    cases = [Case("skipped", skip), Case("failed", fail, may_fail=True), clock.case("a", [1.0])]
    skipped, failed, measured = clock.measure(cases, Effort(2, 1.0))
    assert skipped["note"] == "needs too much"
    assert failed["note"] == "failed: RuntimeError: no compiler"
    assert skipped["seconds"] == failed["seconds"] == []
    assert len(measured["seconds"]) == 2
    with pytest.raises(RuntimeError, match="no compiler"):
        clock.measure([Case("must not fail", fail)], Effort(1, 1.0))


def tiny_bench_config(compute):
    return jax_cases.bench_config("paper", compute, TINY)


@pytest.mark.ci
@pytest.mark.long
def test_the_cases_of_capsjax_do_their_work(monkeypatch):
    monkeypatch.setattr(jax_cases, "STEPS_OF_AN_EPOCH", 5)
    states = jax_cases.States()
    for row in rows.capsjax_rows("cpu"):
        config = tiny_bench_config(row.compute)
        assert config.model.compute.to_dict() == row.compute
        training = jax_cases.prepare_training(config, SHAPE, states)
        assert training.most == 5
        assert training.facts["memory_bytes"] > training.facts["temporary_bytes"] > 0
        training.run(3)
        training.run(5)  # a whole epoch, although three steps of it were just done
    assert len(states) == 1  # all forms of a network train the same one
    for prepared in (
        jax_cases.prepare_inference(config, SHAPE, 4),
        jax_cases.prepare_evaluation(config, SHAPE, 10),
    ):
        prepared.run(2)
        assert prepared.facts["compile_seconds"] > 0


def test_a_program_that_needs_too_much_memory_is_skipped(monkeypatch):
    monkeypatch.setattr(jax_cases, "STEPS_OF_AN_EPOCH", 5)
    config = tiny_bench_config({"dtype": "float32", **rows.PLAIN})  # is compiled already
    with pytest.raises(Skipped, match="GB of temporary memory"):
        jax_cases.prepare_training(config, SHAPE, jax_cases.States(), 1000)
    assert 10**8 < machine_memory() < 10**15


@pytest.mark.parametrize("with_labels", [True, False])
def test_the_network_in_pytorch_is_the_same_network(with_labels):
    torch = pytest.importorskip("torch")
    from capsjax.benchmarks.torch_capsnet import TorchCapsNet, loss_of

    config = tiny_bench_config(rows.PLAIN)
    built = build(config, SHAPE, 10, 4)
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(size=(4, *SHAPE)), jnp.float32)
    labels = rng.integers(0, 10, 4)
    given = jnp.asarray(labels) if with_labels else None
    shapes = jax.eval_shape(built.model.init, jax.random.key(0), images, given)["params"]
    params = jax.tree.map(lambda x: 0.3 * jnp.asarray(rng.standard_normal(x.shape)), shapes)
    output = built.model.apply({"params": params}, images, given)
    parts = built.objective.parts(output, images, jnp.asarray(labels))

    network = TorchCapsNet(config.model, SHAPE, 10)
    with torch.no_grad():
        copy_parameters(params, network)
        pixels = torch.tensor(np.asarray(images).transpose(0, 3, 1, 2))
        targets = torch.from_numpy(labels)
        lengths, reconstruction = network(pixels, targets if with_labels else None)
        loss = loss_of(network, pixels, targets)
    close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-6)
    close(lengths.numpy(), output.scores)
    close(reconstruction.numpy(), output.reconstruction.reshape(4, -1))
    if with_labels:
        close(loss.item(), built.objective.total(parts))


def copy_parameters(params, network):
    """Put capsjax's parameters into the network in PyTorch."""
    layers = [
        (network.conv, params["conv_layer"]),
        (network.primary, params["primary_layer"]["conv"]),
    ]
    decoder = params["decoder_layer"]
    names = [*sorted(name for name in decoder if name.startswith("hidden")), "pixels"]
    layers += [(layer, decoder[n]) for layer, n in zip(network.decoder, names, strict=True)]
    for layer, values in layers:
        # (kh, kw, in, out) -> (out, in, kh, kw), and (in, out) -> (out, in).
        kernel = values["kernel"]
        kernel = kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
        for parameter, value in ((layer.weight, kernel), (layer.bias, values["bias"])):
            parameter.copy_(parameter.new_tensor(np.asarray(value)))
    network.W.copy_(network.W.new_tensor(np.asarray(params["class_layer"]["W"])))


def test_the_gradient_in_pytorch_flows_through_the_last_round_alone():
    torch = pytest.importorskip("torch")
    from capsjax.benchmarks.torch_capsnet import route
    from capsjax.routing import dynamic_routing

    votes = np.random.default_rng(0).standard_normal((2, 5, 3, 4)).astype(np.float32)
    gradient = jax.grad(lambda u_hat: jnp.sum(dynamic_routing(u_hat, 3).v[..., 0]))(
        jnp.asarray(votes)
    )
    leaf = torch.from_numpy(votes).requires_grad_()
    route(leaf, 3)[..., 0].sum().backward()
    np.testing.assert_allclose(leaf.grad.numpy(), gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("row", [r for r in rows.torch_rows("cpu", False) if not r.compiled])
def test_the_cases_of_pytorch_do_their_work(row):
    pytest.importorskip("torch")
    from capsjax.benchmarks import torch_cases

    config = tiny_bench_config({})
    torch_cases.prepare_training(config, SHAPE, row, "cpu").run(2)
    torch_cases.prepare_inference(config, SHAPE, 4, row, "cpu").run(2)


def names_of_rows(device, quick=False):
    torch_rows = rows.torch_rows(device, quick)
    names = [row.name for row in torch_rows]
    assert len(set(names)) == len(names)
    assert all(name.startswith("PyTorch ") for name in names)
    assert [bool(row.mode) for row in torch_rows] == [row.compiled for row in torch_rows]
    ours = [row.name for row in rows.capsjax_rows(device, quick)]
    return ours, [name.removeprefix("PyTorch ") for name in names]


LAYOUTS = ["default layout", "channels_last"]


@pytest.mark.parametrize("quick", [False, True])
def test_the_rows_of_a_cpu(quick):
    ours, theirs = names_of_rows("cpu", quick)
    assert ours == ["capsjax float32, plain", "capsjax float32", "capsjax bfloat16"]
    if quick:
        assert theirs == [
            "float32, default layout",
            "float32, channels_last",
            "bfloat16 autocast, channels_last",
        ]
    else:
        assert theirs == [
            *[f"float32, {layout}" for layout in LAYOUTS],
            *[f"bfloat16 autocast, {layout}" for layout in LAYOUTS],
            *[f"float32, {layout}, torch.compile" for layout in LAYOUTS],
        ]


def test_the_rows_of_a_gpu():
    ours, theirs = names_of_rows("cuda")
    quick = ["capsjax TF32", "capsjax bfloat16, lax", "capsjax bfloat16"]
    assert ours == ["capsjax float32, plain", "capsjax float32", *quick]
    precisions = ["TF32", "bfloat16 autocast"]
    both = [f"{p}, {layout}, torch.compile" for p in precisions for layout in LAYOUTS]
    last = [f"{p}, channels_last" for p in precisions]
    assert theirs == [
        *[f"{p}, {layout}" for p in ["float32", *precisions] for layout in LAYOUTS],
        *both,
        *[f"{name}, torch.compile reduce-overhead" for name in last],
        *[f"{name} max-autotune" for name in both],
    ]
    quickly = names_of_rows("cuda", quick=True)
    assert quickly[0] == quick
    assert quickly[1] == [
        *last,
        *[f"{name}, torch.compile" for name in last],
        *[f"{name}, torch.compile reduce-overhead" for name in last],
    ]
    assert set(quickly[1]) < set(theirs)


def test_which_rows_stand_for_a_device():
    assert rows.default_row("cpu").name == "capsjax float32"
    assert rows.default_row("cuda").name == "capsjax bfloat16"
    on_gpu = rows.automatic_rows("cuda")
    assert [row.name for row in on_gpu] == ["capsjax TF32", "capsjax bfloat16"]
    assert all(row.compute["conv"] == row.compute["votes"] == "auto" for row in on_gpu)


@pytest.mark.parametrize("mode", ["", "default", "reduce-overhead", "max-autotune"])
def test_every_step_of_a_cuda_graph_is_announced(mode, monkeypatch):
    torch = pytest.importorskip("torch")
    from capsjax.benchmarks import torch_cases

    modes, calls = [], []

    def compile(function, mode):
        modes.append(mode)

        def compiled(*arguments):
            calls.append("forward")
            return function(*arguments)

        return compiled

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: calls.append("begin"))
    row = rows.TorchRow("bfloat16", True, mode)
    config = tiny_bench_config({})
    for prepare in (
        torch_cases.prepare_training,
        functools.partial(torch_cases.prepare_inference, batch_size=4),
    ):
        prepare(config, SHAPE, row=row, device="cpu").run(2)
    # The first call, and two more, in both tasks; a CPU has no CUDA graphs.
    assert calls == ["forward"] * (6 if mode else 0)
    assert modes == ([mode] * 2 if mode else [])

    calls.clear()
    torch_cases._begin_step(row, "cuda")
    assert calls == (["begin"] if mode in ("reduce-overhead", "max-autotune") else [])


def test_no_gradient_is_kept_for_the_next_row():
    pytest.importorskip("torch")
    from capsjax.benchmarks import torch_cases

    row, config = rows.TorchRow("float32"), tiny_bench_config({})
    network = torch_cases.make_network(config, SHAPE, row, "cpu")
    before = network.W.detach().clone()
    torch_cases.prepare_training(config, SHAPE, row, "cpu", network).run(1)
    assert not before.equal(network.W)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_pytorch_keeps_a_program_for_every_row():
    torch = pytest.importorskip("torch")
    from capsjax.benchmarks import torch_cases

    ran = []

    def backend(number):
        def compiler(graph, _):
            def compiled(*arguments):
                ran.append(number)
                return graph(*arguments)

            return compiled

        return compiler

    def make(number):
        def double(x):
            return 2 * x

        return torch.compile(double, backend=backend(number))

    torch_cases.reset()
    functions = [make(number) for number in range(12)]
    for _ in range(2):
        for function in functions:
            function(torch.ones(2))
    assert ran == [*range(12)] * 2


def test_a_gpu_is_timed_over_many_short_steps():
    quick, whole = (compare.effort_for(Settings("cuda", q, 1)) for q in (True, False))
    assert quick.seconds < whole.seconds
    # The first call of a program is slow on a GPU: it must not be what the timing starts from.
    assert min(quick.warmups, whole.warmups) >= 1
    assert min(quick.least, whole.least) >= 10
    assert compare.effort_for(Settings("cpu", True, 1)) == Effort(2, 0.5, 2, warmups=0)
    assert compare.effort_for(Settings("cpu", False, 1)) == Effort(5, 3.0, 2)


def test_a_gpu_is_told_how_exactly_to_multiply():
    dtypes = {row.name: row.compute["dtype"] for row in rows.capsjax_rows("cuda")}
    assert dtypes == {
        "capsjax float32, plain": "float32",
        "capsjax float32": "float32",
        "capsjax TF32": "tf32",
        "capsjax bfloat16, lax": "bfloat16",
        "capsjax bfloat16": "bfloat16",
    }
    products = {case.name for case in compare.products("cuda", None)}
    assert products == {"JAX float32 product", "JAX TF32 product", "JAX bfloat16 product"}


def test_without_pytorch_the_report_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "capsjax.benchmarks.torch_cases", raising=False)
    monkeypatch.delattr("capsjax.benchmarks.torch_cases", raising=False)
    notes = []
    assert compare.torch_here(notes, "cpu") is None
    assert 'pip install -e ".[bench]"' in notes[0]


def row(name, library, precision, seconds, **facts):
    facts = {"kind": "row", "library": library, "precision": precision, **facts}
    return {"name": name, **facts, "seconds": seconds}


def stored_results(**sections):
    """What a JSON file holds."""
    return json.loads(
        json.dumps(
            {
                "hardware": {
                    "processor": "A processor",
                    "cpu_count": 2,
                    "memory_bytes": 16 * 10**9,
                    "device": "cpu",
                    "backend": "cpu",
                },
                "versions": {"python": "3.12", "jax": "0.10", "flax": "0.12"},
                "date": "2025-01-01",
                "command": "experiments/benchmark.py",
                "interrupted": False,
                "sections": sections,
            }
        )
    )


COMPARED = {
    "network": "full",
    "task": "training",
    "batch_size": 128,
    "operations": 170 * 10**9,
    "rows": [
        row(
            "JAX product", "JAX", "float32", [0.2, 0.1, 0.3], kind="product", operations=2 * 10**10
        ),
        row("JAX bf16", "JAX", "bfloat16", [0.1], kind="product", operations=2 * 10**10),
        row("capsjax plain", "capsjax", "float32", [2.0]),
        row("capsjax float32", "capsjax", "float32", [0.9, 1.0, 7.0], memory_bytes=2 * 10**9),
        row("capsjax bfloat16", "capsjax", "bfloat16", [0.5]),
        row("PyTorch a", "PyTorch", "float32", [6.0], layout="default layout"),
        row("PyTorch b", "PyTorch", "float32", [4.9], layout="channels_last"),
        row("PyTorch c", "PyTorch", "bfloat16", [3.0], layout="channels_last"),
        row("PyTorch d", "PyTorch", "float32", [], note="failed: no compiler"),
    ],
}


def test_the_report_says_what_the_table_comes_to():
    text = benchmark.markdown(stored_results(compare={"groups": [COMPARED], "notes": ["A note."]}))
    assert (
        "training, full network, float32: 4.90 x the best PyTorch float32 (channels_last); "
        "170 % of the float32 matrix-product rate (nominal operations)"
    ) in text
    assert (
        "training, full network, bfloat16: 9.80 x the best PyTorch float32 (channels_last), "
        "6.00 x the best PyTorch bfloat16 autocast (channels_last); 340 % of the float32 "
        "matrix-product rate, 170 % of the bfloat16 matrix-product rate (nominal operations)"
    ) in text
    line = "| capsjax float32 | 128 | 1.00 | 0.900 to 7.00 | 170 | 170 % | - | 4.90 | 2.00 | - |"
    assert line in text
    assert "PyTorch d: failed: no compiler." in text
    assert "A note." in text
    assert "A processor, 2 cores, 16 GB; Python 3.12, jax 0.10, flax 0.12; 2025-01-01" in text


def test_without_float32_the_most_exact_rows_of_pytorch_are_compared_with():
    measured = [
        row("capsjax TF32", "capsjax", "tf32", [1.0]),
        row("capsjax bfloat16", "capsjax", "bfloat16", [0.5]),
        row("PyTorch a", "PyTorch", "tf32", [2.0], layout="channels_last"),
        row("PyTorch b", "PyTorch", "bfloat16", [3.0], layout="channels_last, torch.compile"),
    ]
    text = compare.markdown({"groups": [{**COMPARED, "rows": measured}]})
    assert "| x best PyTorch TF32 |" in text
    assert "full network, TF32: 2.00 x the best PyTorch TF32 (channels_last) (nominal" in text
    assert (
        "full network, bfloat16: 4.00 x the best PyTorch TF32 (channels_last), 6.00 x the best "
        "PyTorch bfloat16 autocast (channels_last, torch.compile)"
    ) in text
    assert (
        "| capsjax bfloat16 | 256 | 0.500 | 0.500 to 0.500 | 340 | - | - | 4.00 | - | - |" in text
    )


def test_the_share_of_routing_needs_both_sections():
    layer = {"side": 28, "batch_size": 128, "rows": [{"seconds": [3.0]}, {"seconds": [0.25]}]}
    both = {"compare": {"groups": [COMPARED]}, "memory": {"layers": [layer]}}
    said = "Votes and routing alone take 25 % of a float32 training step."
    assert benchmark.routing_share(both) == [said]
    assert benchmark.routing_share({"compare": both["compare"]}) == []
    assert benchmark.routing_share({"memory": both["memory"]}) == []


def test_the_report_of_a_run_without_pytorch_compares_with_products_alone():
    alone = {**COMPARED, "rows": [r for r in COMPARED["rows"] if r["library"] != "PyTorch"]}
    text = benchmark.markdown(stored_results(compare={"groups": [alone], "notes": []}))
    assert "float32: 170 % of the float32 matrix-product rate (nominal operations)" in text
    assert "x the best PyTorch float32 (" not in text


@pytest.mark.parametrize("name", benchmark.SECTIONS)
def test_a_section_of_which_nothing_was_measured_can_be_reported(name):
    assert benchmark.markdown(stored_results(**{name: {}}))


@pytest.mark.ci
@pytest.mark.long
@pytest.mark.parametrize("form", ["map", "vmap"])
def test_the_cases_of_a_population_take_all_steps_of_all_trials(form, monkeypatch):
    monkeypatch.setattr(jax_cases, "STEPS_OF_AN_EPOCH", 5)
    prepared = population.prepare_trials(tiny_bench_config({}), SHAPE, form)
    prepared.run(3)
    prepared.run(5)
    with pytest.raises(RuntimeError, match="instead of 6"):
        prepared.run(6)


def test_runs_of_their_own_count_as_often_as_there_are_trials():
    rows = [
        {"name": "runs of their own", "form": "single", "seconds": [0.1], "compile_seconds": 2.0},
        {"name": "one program", "form": "map", "seconds": [0.4], "compile_seconds": 3.0},
    ]
    text = population.markdown({"rows": rows})
    assert "| runs of their own | 0.800 | 1,280 | 1.00 | 16.0 | - |" in text
    assert "| one program | 0.400 | 2,560 | 2.00 | 3.00 | - |" in text


def test_work_of_others_is_told():
    others = OtherWork()
    time.sleep(0.2)  # the system counts in hundredths of a second
    share = others.share()
    assert share is None or 0 <= share < 2
    quiet = [{"others": [0.0, 0.5]}, {"others": [0.01, None]}, {"note": "skipped"}]
    assert others_line(quiet) == [
        "While this was measured others used 1 % of the processors (median of all calls; at most "
        "50 %)."
    ]
    assert "repeat it on an idle machine" in others_line([{"others": [0.2]}])[0]
    assert others_line([{"others": [None]}]) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (0.012345, "0.0123"),
        (0.9999, "1.00"),
        (1.0, "1.00"),
        (12.34, "12.3"),
        (99.96, "100"),
        (1234.5, "1,234"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert tables.number(value) == text


def flags(monkeypatch, **values):
    lists = {key: [] for key in ("sections", "tasks", "networks", "row")}
    values = {**lists, "quick": False, "json": "", "figures": "", **values}
    monkeypatch.setattr(benchmark, "FLAGS", types.SimpleNamespace(**values))


def test_an_existing_file_is_refused_before_anything_is_measured(tmp_path, monkeypatch):
    def measure_sections(*_):
        raise AssertionError("measured")

    monkeypatch.setattr(benchmark, "measure_sections", measure_sections)
    file = tmp_path / "results.json"
    file.write_text("mine")
    flags(monkeypatch, json=str(file))
    with pytest.raises(ValueError, match=r"results\.json exists already"):
        benchmark.main()
    assert file.read_text() == "mine"
    flags(monkeypatch, json=str(tmp_path / "folder"), figures=str(tmp_path), sections=["compare"])
    with pytest.raises(ValueError, match="--figures draws the section 'scaling'"):
        benchmark.main()


def test_a_wrong_section_is_one_line_with_the_nearest():
    command = [sys.executable, "experiments/benchmark.py", "--sections=compar"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "did you mean 'compare'?" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tasks": ["train"]}, "training"),
        ({"networks": ["ful"]}, "full"),
        ({"row": ["capsjax bfloat"]}, "capsjax bfloat16"),
    ],
)
def test_a_wrong_task_network_or_row_names_the_nearest(monkeypatch, wrong, message):
    flags(monkeypatch, **wrong)
    with pytest.raises(ValueError, match=f"did you mean '{message}'"):
        benchmark.main()


def test_which_sections_are_measured():
    on_cpu = [name for name in benchmark.SECTIONS if name != "epoch"]
    assert benchmark.chosen_sections([], False, "cpu") == on_cpu
    assert benchmark.chosen_sections([], False, "cuda") == list(benchmark.SECTIONS)
    assert benchmark.chosen_sections([], True, "cpu") == ["compare"]
    on_gpu = ["compare", "profile", "epoch", "evaluation"]
    assert benchmark.chosen_sections([], True, "cuda") == on_gpu
    assert benchmark.chosen_sections(["memory"], True, "cpu") == ["memory"]
    with pytest.raises(ValueError, match="is for a GPU"):
        benchmark.chosen_sections(["epoch"], False, "cpu")


def test_the_quick_settings():
    cpu, gpu = (benchmark.make_settings(device, True, 1) for device in ("cpu", "cuda"))
    assert cpu.tasks == gpu.tasks == ("training",)
    assert (cpu.networks, gpu.networks) == (("full", "small"), ("full",))
    whole = benchmark.make_settings("cuda", False, 1, rows=["capsjax TF32"])
    assert whole == Settings("cuda", False, 1, rows=("capsjax TF32",))
    chosen = benchmark.make_settings("cuda", True, 1, ["inference"], ["small"])
    assert (chosen.tasks, chosen.networks) == (("inference",), ("small",))


def use_section(monkeypatch, cases):
    """Measure those cases as the only section."""

    def run(section, settings):
        section["groups"] = [{**COMPARED, "rows": []}]
        measure(cases, section["groups"][0]["rows"], Effort(2, 0.0), "title")

    sections = {"compare": benchmark.Section(run, compare.markdown)}
    monkeypatch.setattr(benchmark, "SECTIONS", sections)


def case(name, run):
    facts = {"kind": "row", "library": "capsjax", "precision": "float32"}
    return Case(name, lambda: Prepared(run, 1.0, {}), facts)


def test_ctrl_c_keeps_what_was_measured(tmp_path, monkeypatch, capsys):
    calls = []

    def interrupted(count):
        calls.append(count)
        if len(calls) == 3:  # after the warm-up and the first round
            raise KeyboardInterrupt

    use_section(monkeypatch, [case("whole", lambda count: None), case("half", interrupted)])
    flags(monkeypatch, json=str(tmp_path / "new" / "results.json"))
    with pytest.raises(KeyboardInterrupt):
        benchmark.main()
    results = json.loads((tmp_path / "new" / "results.json").read_text())
    assert results["interrupted"]
    whole, half = results["sections"]["compare"]["groups"][0]["rows"]
    assert (len(whole["seconds"]), len(half["seconds"])) == (2, 1)
    printed = capsys.readouterr().out
    assert "| whole |" in printed
    assert "Interrupted" in printed
    assert {"hardware", "versions", "date", "command", "sections"} <= results.keys()


def unnoticed(*_):
    raise AssertionError("the signal would have ended the program")


@pytest.mark.parametrize(
    ("number", "handler"),
    # A shell starts what is in the background with Ctrl-C ignored.
    [*((number, unnoticed) for number in SIGNALS), (signal.SIGINT, signal.SIG_IGN)],
)
def test_a_signal_to_end_keeps_what_was_measured(tmp_path, monkeypatch, number, handler):
    calls = []

    def ended(count):
        calls.append(count)
        if len(calls) == 3:
            os.kill(os.getpid(), number)

    use_section(monkeypatch, [case("whole", lambda count: None), case("half", ended)])
    flags(monkeypatch, json=str(tmp_path / "results.json"))
    # pytest lives on where the benchmark does not take the signal.
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        with pytest.raises(KeyboardInterrupt):
            benchmark.main()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["interrupted"]
    assert len(results["sections"]["compare"]["groups"][0]["rows"]) == 2


def test_a_benchmark_that_is_killed_leaves_the_sections_before(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    seen = []

    def first(section, settings):
        section["groups"] = []

    def second(section, settings):
        seen.append(json.loads(path.read_text()))  # what a kill leaves

    sections = {
        "compare": benchmark.Section(first, compare.markdown),
        "memory": benchmark.Section(second, lambda section: ""),
    }
    monkeypatch.setattr(benchmark, "SECTIONS", sections)
    flags(monkeypatch, json=str(path), sections=["compare", "memory"])
    benchmark.main()
    assert seen[0]["interrupted"]
    assert seen[0]["sections"] == {"compare": {"groups": []}}
    whole = json.loads(path.read_text())
    assert not whole["interrupted"]
    assert list(whole["sections"]) == ["compare", "memory"]


def test_a_section_that_fails_does_not_take_the_others_with_it(tmp_path, monkeypatch, capsys):
    def fail(count):
        raise RuntimeError("out of memory")

    use_section(monkeypatch, [case("whole", lambda count: None), case("fails", fail)])
    flags(monkeypatch, json=str(tmp_path / "results.json"))
    with pytest.raises(ValueError, match="not all was measured: compare"):
        benchmark.main()
    section = json.loads((tmp_path / "results.json").read_text())["sections"]["compare"]
    assert section["error"] == "RuntimeError: out of memory"
    assert "Not all was measured: RuntimeError" in capsys.readouterr().out


def line(name, *events):
    """A line of a trace, of events (name, start, duration in ns) with the HLO operation or not."""
    made = []
    for event, start, duration, *hlo in events:
        stats = [("hlo_op", each) for each in hlo]
        made.append(
            types.SimpleNamespace(name=event, start_ns=start, duration_ns=duration, stats=stats)
        )
    return types.SimpleNamespace(name=name, events=made)


def plane(name, *lines):
    return types.SimpleNamespace(name=name, lines=lines)


PROGRAM = """
HloModule jit_train_steps
%fused_computation (p: f32[4]) -> f32[4] {
  ROOT %add.1 = f32[4]{0} add(%p, %p), metadata={op_name="jit(f)/while/body/add"}
}
%body (t: (s32[], f32[4])) -> (s32[], f32[4]) {
  %loop_add_fusion.2 = f32[4]{0} fusion(%p), kind=kLoop, metadata={op_name="jit(f)/while/body/Adam/add" stack_frame_id=1}
  %cudnn-conv.1 = (f32[4]{0}, u8[0]{0}) custom-call(%p), custom_call_target="c", metadata={op_name="jit(f)/while/body/conv"}
  copy.3 = f32[4]{0} copy(%loop_add_fusion.2)
}
ENTRY %main (a: f32[4]) -> f32[4] {
  ROOT %while.5 = (s32[], /*index=1*/f32[4]{0:T(128)}) while(%t), condition=%c, body=%body
}
"""  # noqa: E501 - as XLA writes it


def test_the_instructions_of_a_program_are_read():
    assert profiling.instructions(PROGRAM) == {
        "add.1": ("add", "jit(f)/while/body/add"),
        "loop_add_fusion.2": ("fusion", "jit(f)/while/body/Adam/add"),
        "cudnn-conv.1": ("custom-call", "jit(f)/while/body/conv"),
        "copy.3": ("copy", ""),
        "while.5": ("while", ""),
    }


def test_every_kernel_of_a_gpu_counts_once():
    kernels = [
        ("sm90_conv", 1000, 300, "cudnn-conv.1"),
        ("loop_add_fusion_2", 1300, 100, "command_buffer_7"),
        ("sm90_conv", 2000, 500, "cudnn-conv.1"),
        ("MemcpyD2H", 2600, 100, "while.5"),
    ]
    planes = [
        plane("/host:CPU", line("python", ("call", 0, 9000), ("copy.3", 0, 9000, "copy.3"))),
        plane(
            "/device:GPU:0",
            line("Steps", ("1", 1000, 2000)),
            line("XLA Modules", ("jit_train_steps", 1000, 2000)),
            line("XLA Ops", *[(hlo, start, length, hlo) for _, start, length, hlo in kernels]),
            line("Stream #13(Compute)", *kernels),
            # Runs beside the second convolution, within its time.
            line("Stream #14(MemcpyD2D)", ("MemcpyD2D", 2200, 200)),
            line("Launch Stats", ("x", 1000, 2000)),
        ),
        plane("/host:metadata"),
    ]
    program = profiling.instructions(PROGRAM)
    profile = profiling.summarize(profiling.device_events(planes), program, 2)
    assert profile["count"] == 2.5
    assert profile["total_microseconds"] == pytest.approx(1.2 / 2)
    assert profile["busy_microseconds"] == pytest.approx(1.0 / 2)
    assert profile["span_microseconds"] == pytest.approx(1.7 / 2)
    by_name = {operation["name"]: operation for operation in profile["operations"]}
    assert list(by_name) == ["sm90_conv", "MemcpyD2D", "loop_add_fusion_2", "MemcpyD2H"]
    assert by_name["sm90_conv"] == {
        "name": "sm90_conv",
        "hlo": "cudnn-conv.1",
        "source": "jit(f)/while/body/conv",
        "times": 1.0,
        "microseconds": pytest.approx(0.4),
        "share": pytest.approx(2 / 3),
    }
    assert (by_name["MemcpyD2D"]["hlo"], by_name["MemcpyD2D"]["source"]) == ("", "")
    # In a CUDA graph the trace names the graph; the kernel's own name tells the operation.
    assert by_name["loop_add_fusion_2"]["hlo"] == "loop_add_fusion.2"
    assert by_name["loop_add_fusion_2"]["source"] == "jit(f)/while/body/Adam/add"


def test_kernels_that_have_one_name_are_told_apart_by_their_operation():
    kernels = [("gemm", 0, 100, "dot.1"), ("gemm", 100, 300, "dot.2"), ("gemm", 400, 50, "dot.1")]
    planes = [plane("/device:GPU:0", line("Stream #1", *kernels))]
    operations = profiling.summarize(profiling.device_events(planes), {}, 1)["operations"]
    found = [(each["hlo"], each["times"], each["microseconds"]) for each in operations]
    assert found == [("dot.2", 1, pytest.approx(0.3)), ("dot.1", 2, pytest.approx(0.15))]


def test_operations_on_a_cpu_count_without_those_inside_them():
    planes = [
        plane(
            "/host:CPU",
            line("python", ("train", 0, 5000)),
            line(
                "worker 1",
                ("while.5", 0, 1000, "while.5"),
                ("call.9", 100, 500, "call.9"),
                ("loop_add_fusion.2", 200, 300, "loop_add_fusion.2"),
                ("Wait", 700, 100),
            ),
            # The body of the loop goes on in another thread.
            line("worker 2", ("copy.3", 600, 200, "copy.3")),
        )
    ]
    program = profiling.instructions(PROGRAM)
    profile = profiling.summarize(profiling.device_events(planes), program, 1)
    found = {each["name"]: each["microseconds"] for each in profile["operations"]}
    assert found == pytest.approx({"loop_add_fusion.2": 0.3, "call.9": 0.2, "copy.3": 0.2})
    assert profile["total_microseconds"] == pytest.approx(0.7)
    assert profile["busy_microseconds"] == pytest.approx(0.7)


def test_a_trace_without_operations_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="no operations"):
        profiling.device_events([plane("/host:CPU", line("python", ("call", 0, 1)))])
    with pytest.raises(OSError, match="left no trace"):
        profiling.read_trace(tmp_path)


def test_a_real_profile_adds_up(monkeypatch):
    monkeypatch.setattr(jax_cases, "STEPS_OF_AN_EPOCH", 5)
    monkeypatch.setattr(profiling, "MOST_OPERATIONS", 10_000)
    config = tiny_bench_config({"dtype": "float32", **rows.PLAIN})
    profile = profiling.profile_training(config, SHAPE)
    operations = profile["operations"]
    assert profile["steps"] == 5
    assert sum(each["share"] for each in operations) == pytest.approx(1)
    assert sum(each["times"] for each in operations) == pytest.approx(profile["count"])
    total = sum(each["microseconds"] for each in operations)
    assert total == pytest.approx(profile["total_microseconds"])
    assert 0 < profile["busy_microseconds"] <= profile["span_microseconds"]
    assert profile["busy_microseconds"] <= 1.001 * total
    times = [each["microseconds"] for each in operations]
    assert times == sorted(times, reverse=True)
    assert not any(each["name"].startswith("while") for each in operations)
    # Every step multiplies the primary capsules with W once, and once again for the gradient.
    votes = [each for each in operations if "class_layer" in each["source"]]
    assert any(each["times"] == 1 for each in votes)
    assert json.loads(json.dumps(profile)) == profile

    text = profiling.markdown({"profiles": [{"name": "a row", "batch_size": 4, **profile}]})
    assert "a row, batch 4: a step takes" in text
    assert f"| `{operations[0]['name']}` |" in text
    assert "operations are 100 % of all." in text


def test_the_section_profile_takes_the_row_that_is_named(monkeypatch):
    seen = []

    def profile_training(config, image_shape):
        seen.append((config.model.compute.to_dict(), config.train.batch_size))
        return {"steps": 20}

    monkeypatch.setattr(profiling, "profile_training", profile_training)
    section = {}
    profiling.run(section, Settings("cuda", True, 1, rows=("capsjax bfloat16, lax",)))
    profiling.run({}, Settings("cuda", True, 1))
    profiling.run({}, Settings("cpu", False, 1))
    profiling.run({}, Settings("cuda", False, 1, rows=("capsjax TF32",)))
    assert [profile["name"] for profile in section["profiles"]] == ["capsjax bfloat16, lax"]
    assert seen == [
        ({"dtype": "bfloat16", **rows.LAX}, 128),
        ({"dtype": "bfloat16", **rows.FAST}, 128),
        ({"dtype": "float32", **rows.FAST}, 128),
        ({"dtype": "tf32", **rows.FAST}, 128),
    ]


def test_long_names_of_kernels_fit_a_table():
    name = "void cutlass::Kernel2<a|b>" + 80 * "x" + "end"
    shown = profiling._code(name)
    assert len(shown) <= 72
    assert shown.startswith("`void cutlass::Kernel2<a/b>xxx")
    assert shown.endswith("xend`")
    assert profiling._code("") == "-"


def test_the_memory_of_votes_is_measured(monkeypatch):
    small = {"SIDES": (28,), "TYPES": 1, "BATCH_SIZES": {28: 8}, "EFFORT": Effort(3, 0.0)}
    for name, value in small.items():
        monkeypatch.setattr(memory, name, value)
    monkeypatch.setattr(memory, "_compile_steps", lambda steps: None)
    section = {}
    memory.run(section, Settings("cpu", True, 10**9))
    (group,) = section["layers"]
    assert (group["lower"], group["batch_size"]) == (36, 8)
    assert [row["votes"] for row in group["rows"]] == ["held", "recomputed"]
    assert all(len(row["seconds"]) == 3 and row["temporary_bytes"] for row in group["rows"])
    assert "| 28x28 | 36.0 | 8.00 |" in memory.markdown(section)
    # A batch that would not fit becomes one that does.
    most = memory._layer("held", 28, 2)[1]["temporary_bytes"] / memory.PART
    memory.run(section, Settings("cpu", True, int(most) + 1))
    assert section["layers"][0]["batch_size"] == 2


def test_scaling_is_drawn_and_tabulated(tmp_path):
    points = [
        {"name": f"{form} {value}", "form": form, "value": value, "batch_size": value}
        | {"seconds": [0.1 * value**0.5]}
        for form in scaling.COLORS
        for value in (1, 4, 16)
    ]
    points[-1] |= {"seconds": [], "note": "needs 9 GB"}
    section = {"sweeps": dict.fromkeys(scaling.SWEEPS, points), "notes": []}
    drawn = scaling.figures(section, "A processor")
    assert set(drawn) == {"scaling-batch", "scaling-rounds", "scaling-size"}
    for name, figure in drawn.items():
        figure.savefig(tmp_path / f"{name}.png")
        assert "A processor" in figure.get_suptitle().splitlines()[1]
    text = scaling.markdown(section)
    assert "| 4 | 20.0 | 20.0 | 20.0 |" in text
    assert "needs 9 GB" in text
    assert scaling.figures({}, "A processor") == {}


def test_startup_reads_the_summary(tmp_path, monkeypatch):
    seen = []

    def run(command, env, **_):
        workdir = next(each for each in command if each.startswith("--workdir=")).split("=")[1]
        (tmp_path / "cold").mkdir(exist_ok=True)
        summary = {"seconds_to_first_step": 4.0}
        (tmp_path / "cold" / "summary.json").write_text(json.dumps(summary))
        seen.append((workdir, env["CAPSJAX_CACHE_DIR"], "JAX_COMPILATION_CACHE_DIR" in env))
        return subprocess.CompletedProcess(command, len(seen) - 1, "", "first\nlast words")

    monkeypatch.setattr(startup.subprocess, "run", run)
    times = startup.train_once(tmp_path, "cold")
    assert seen == [(str(tmp_path / "cold"), str(tmp_path / "cache"), False)]
    assert times["seconds_to_first_step"] == 4.0
    assert times["compile_seconds"] is None
    text = startup.markdown({"runs": [{"start": "cold", **times}]})
    assert "| empty compilation cache | 4.00 (4.00 to 4.00) | - |" in text
    with pytest.raises(OSError, match="last words"):
        startup.train_once(tmp_path, "cold")


def test_an_epoch_is_one_call(monkeypatch):
    counts = []

    def prepare_training(config, *_):
        assert config.model.compute.dtype == "bfloat16"
        assert config.augment.max_shift == 2
        return Prepared(counts.append, 0.001, {}, most=468)

    monkeypatch.setattr(jax_cases, "prepare_training", prepare_training)
    section = {}
    evaluation.run_epoch(section, Settings("cuda", False, 10**9))
    assert set(counts) == {468}
    assert section["rows"][0]["count"] == 1
    assert section["images"] == 59_904
    quick = {}
    evaluation.run_epoch(quick, Settings("cuda", True, 10**9))
    assert len(quick["rows"][0]["seconds"]) < len(section["rows"][0]["seconds"])
    with pytest.raises(ValueError, match="for a GPU"):
        evaluation.run_epoch({}, Settings("cpu", False, 10**9))


def test_which_rows_are_evaluated(monkeypatch):
    def prepare(*_):
        return Prepared(lambda count: None, 0.001, {})

    def names(device, quick):
        section = {}
        evaluation.run(section, Settings(device, quick, 1))
        return [row["name"] for row in section["rows"]]

    monkeypatch.setattr(jax_cases, "prepare_evaluation", prepare)
    assert names("cuda", True) == ["capsjax TF32", "capsjax bfloat16"]
    for device, quick in (("cuda", False), ("cpu", True), ("cpu", False)):
        assert names(device, quick) == [row.name for row in rows.capsjax_rows(device)]
