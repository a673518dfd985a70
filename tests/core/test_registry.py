"""Looking names up, and what the error says."""

import pytest

from capsjax.registry import look_up, suggest

TABLE = {"uniform": 1, "dynamic": 2}


def test_look_up_returns_the_entry():
    assert look_up(TABLE, "dynamic", "routing") == 2


def test_an_entry_that_is_false_is_an_entry():
    assert look_up({"off": None}, "off", "switch") is None


def test_unknown_name_says_what_was_wrong_the_nearest_and_all():
    with pytest.raises(ValueError, match="unknown routing 'dynamics'") as error:
        look_up(TABLE, "dynamics", "routing")
    assert str(error.value).endswith("did you mean 'dynamic'? (known: dynamic, uniform)")


def test_nothing_is_suggested_that_is_not_near():
    with pytest.raises(ValueError, match=r"unknown routing 'em'; known: dynamic, uniform$"):
        look_up(TABLE, "em", "routing")


def test_names_are_sorted_and_may_be_any_iterable():
    assert suggest("zzz", iter(["c", "a", "b"])) == "known: a, b, c"


def test_names_are_told_apart_by_case():
    with pytest.raises(ValueError, match="did you mean 'dynamic'"):
        look_up(TABLE, "Dynamic", "routing")
