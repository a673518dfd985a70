"""A sample of the faults of inject.py; the script injects all of them."""

import itertools

import pytest

from capsjax.runs import manifest
from tests.faults.inject import KINDS, MOMENTS, Fault, Laboratory, flip, table

pytestmark = pytest.mark.ci


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory):
    return Laboratory(tmp_path_factory.mktemp("laboratory"))


def sample(faults):
    """One fault for each type of file, each of another kind and moment than the one before."""
    types = dict.fromkeys(fault.type for fault in faults)
    choices = zip(types, itertools.cycle(KINDS), itertools.cycle(MOMENTS), strict=False)
    for wanted, kind, moment in choices:
        of_type = [fault for fault in faults if (fault.type, fault.kind) == (wanted, kind)]
        yield next((fault for fault in of_type if fault.moment == moment), of_type[0])


def test_no_fault_changes_a_result_without_a_word(laboratory):
    faults = laboratory.faults()
    assert len({(fault.type, fault.kind) for fault in faults}) >= 20
    outcomes = {fault: laboratory.inject(fault) for fault in sample(faults)}
    lost = {fault: outcome for fault, outcome in outcomes.items() if outcome.is_lost}
    assert not lost, lost
    assert len(table(outcomes).splitlines()) == 2 + len(outcomes)


def test_a_fault_that_nothing_notices_is_found(laboratory, monkeypatch):
    monkeypatch.setattr(manifest, "difference", lambda folder, part="": None)
    # A file of arrays holds parameters or what nothing reads any more, such as the state of Adam.
    for place in (0.3, 0.5, 0.7):
        monkeypatch.setitem(KINDS, f"bit flipped at {place}", flip(place))
    arrays = [
        fault
        for fault in laboratory.faults()
        if (fault.moment, fault.type) == ("finished", "checkpoint: arrays")
        and fault.kind.startswith("bit flipped at 0.")
    ]
    assert any(laboratory.inject(fault).is_lost for fault in arrays)


def test_kinds_change_what_they_damage():
    content = bytes(range(1, 100))
    for damage in filter(None, KINDS.values()):
        assert damage(content) != content
    assert Fault("early", "checkpoints/4/state/d/12ab", "zeros").type == "checkpoint: arrays"
