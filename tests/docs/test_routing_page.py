"""docs/routing.md: complete, and its examples run."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from capsjax import routing
from tests.tiny import ROOT

PAGE = (ROOT / "docs" / "routing.md").read_text(encoding="utf-8")


def rows_of_table():
    """The first table, by the columns' names."""
    lines = [line.strip("| \n").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
    header, _, *rows = lines
    return [dict(zip(header, row, strict=False)) for row in rows]


def test_every_algorithm_has_a_section_and_a_row():
    headings = " ".join(re.findall(r"^## (.*)$", PAGE, re.MULTILINE))
    in_sections = re.findall(r"`(\w+)`", headings)
    in_table = {re.findall(r"`(\w+)`", row["name"])[0] for row in rows_of_table()}
    assert sorted(in_sections) == sorted(routing.ROUTING)
    assert in_table == set(routing.ROUTING)


def test_every_function_that_it_names_is_there():
    named = set(re.findall(r"\b\w+_routing\b", PAGE)) | set(re.findall(r"routing\.(\w+)\(", PAGE))
    assert len(named) > 11
    for name in named:
        assert hasattr(routing, name), name
    functions = {name for name in routing.__all__ if name.endswith("_routing")}
    assert functions - {"call_routing", "make_routing"} <= named


def test_rounds_of_the_table_are_the_defaults():
    for row in rows_of_table():
        if "version" in row["name"]:  # its section states that the default is another
            continue
        settings = routing.settings_of(row["name"].strip("`"))
        assert settings.get("num_iterations", 1) == int(row["rounds"]), row


@pytest.mark.ci
def test_its_examples_run():
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(block, names)
    np.testing.assert_allclose(names["first"].c, 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(jnp.sum(names["both"].c, axis=(1, 3)), 1.0, rtol=1e-5)
    whole = routing.inverted_attention_routing(names["votes"], 2)
    np.testing.assert_allclose(names["two"].v, whole.v, rtol=1e-5)
    assert names["posterior"].v.shape == names["vectors"].v.shape == (2, 3, 4)
