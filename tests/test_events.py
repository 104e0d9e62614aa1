"""What observers are told."""

import numpy as np
import pytest

import fp16sim as fs
from fp16sim import events
from fp16sim.rounding import store


def test_scopes_nest_and_are_left_after_errors():
    with events.scope("a"), events.scope(""), events.scope("b"):
        assert events.current_scope() == "a.b"
    with pytest.raises(KeyError), events.scope("c"):
        raise KeyError
    assert events.current_scope() == ""


def test_round_to_announces_before_and_after():
    seen = []
    with events.observe(seen.append), events.scope("mine"):
        fs.round_to([1e-9, 1.0], "fp16")
    fs.round_to([1e-9, 1.0], "fp16")
    exceptions, event = seen
    assert exceptions._replace(origin=None) == (1, 1, 1, 0, 0, 0, None)
    assert exceptions.origin == event.origin
    assert event.before.tolist() == [1e-9, 1.0]
    assert event.after.tolist() == [0.0, 1.0]
    assert event.origin == ("mine", "round_to", "value", "")


def test_store_without_origin_is_silent():
    seen = []
    with events.observe(seen.append):
        store(np.float32([0.1]), fs.FP16, None)
    assert not seen
