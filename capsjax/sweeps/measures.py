"""Measures of trained networks beyond their error: calibration, couplings, affine images."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from capsjax.analysis.calibration import expected_calibration_error, find_confidences
from capsjax.analysis.inspection import Inspection, kind_of_scores, make_inspect
from capsjax.config.tagged import resolved
from capsjax.data import Arrays, load_part, source_of
from capsjax.data.affine import warp_randomly
from capsjax.kernels.compute import Compute
from capsjax.runs.data_record import check_data, fingerprints
from capsjax.runs.predictor import Predictor, load_predictor
from capsjax.runs.workdir import flatten

# Seed of the affine images, the same for all networks.
AFFINE_SEED = 0


def measure_runs(folders: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Measure trained networks on the test part of their data, and on affine versions of it.

    Networks that differ in their parameters alone share a compiled program.

    Args:
      folders: folders of runs, or of trials of a sweep.

    Yields:
      For each: "test" and "affine" with `error` and `calibration_error`, as shares, and "entropies"
      of the couplings on the test images by layer, see `relative_entropy`.

    Raises:
      ValueError: for a run that cannot be read, or other data than its own.
    """
    programs: dict[tuple, Callable] = {}
    parts: dict[str, dict[str, Arrays]] = {}
    for folder in folders:
        predictor = load_predictor(folder)
        fields = flatten(resolved(predictor.config))
        data = predictor.config.data
        source = repr(sorted(source_of(data).items()))
        if source not in parts:
            parts[source] = _test_and_affine(data)
        check_data(folder, fingerprints(test=parts[source]["test"]))
        network = _network_of(fields)
        if network not in programs:
            compute = Compute(**predictor.config.model.compute)
            programs[network] = make_inspect(predictor.model, compute)
        yield _measure(predictor, programs[network], parts[source])


def _network_of(fields: dict[str, Any]) -> tuple:
    """Return what the forward pass of a resolved config depends on."""
    return tuple(
        sorted(
            (name, repr(value))
            for name, value in fields.items()
            if name.startswith(("model.", "task.", "data.")) and not name.endswith("_init")
        )
    )


def _test_and_affine(data: ConfigDict) -> dict[str, Arrays]:
    test = load_part(part="test", **source_of(data))
    if test.labels.ndim != 1:
        raise ValueError(
            "networks are measured on data with one class for each image; other results are in "
            "the summary.json of each run"
        )
    affine = Arrays(warp_randomly(test.images, AFFINE_SEED), test.labels, test.num_classes)
    return {"test": test, "affine": affine}


def _measure(predictor: Predictor, inspect: Callable, parts: dict[str, Arrays]) -> dict[str, Any]:
    found = {name: inspect(predictor.variables, part.images) for name, part in parts.items()}
    kind = kind_of_scores(predictor.model)
    return {
        **{name: _score(found[name], part.labels, kind) for name, part in parts.items()},
        "entropies": {
            layer: float(np.mean(values)) for layer, values in found["test"].entropies.items()
        },
    }


def _score(found: Inspection, labels: np.ndarray, kind: str) -> dict[str, float]:
    scores = np.asarray(found.scores)
    correct = scores.argmax(axis=-1) == labels
    return {
        "error": float(1 - correct.mean()),
        "calibration_error": expected_calibration_error(find_confidences(scores, kind), correct),
    }
