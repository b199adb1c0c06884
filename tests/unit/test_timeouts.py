"""What a timeout may be."""
# ruff: noqa: PT017

from __future__ import annotations

import time
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import rpma
from rpma._object import FOREVER, deadline_after


def test_none_is_forever() -> None:
    assert deadline_after(None) == FOREVER


@pytest.mark.parametrize("seconds", [0, 0.0, 1, 2.5, True, Fraction(1, 4), Decimal("0.5")])
def test_a_timeout_is_a_number_of_seconds(seconds: float) -> None:
    before = time.monotonic_ns()
    deadline = deadline_after(seconds)
    assert before <= deadline - int(float(seconds) * 1e9) <= time.monotonic_ns()


@given(st.one_of(st.floats(), st.integers()))
@example(float("inf"))
@example(float("nan"))
@example(10**400)
@example(-(10**400))
def test_any_number_is_a_timeout_or_an_invalid_argument(seconds: float) -> None:
    try:
        deadline = deadline_after(seconds)
    except rpma.InvalidArgumentError as error:
        assert not seconds >= 0
        assert "timeout" in str(error)
    else:
        assert seconds >= 0
        assert 0 < deadline < FOREVER


@pytest.mark.parametrize("bad", ["1", b"1", [], 1j, object()])
def test_what_is_no_number_is_a_type_error(bad: object) -> None:
    with pytest.raises(TypeError, match="timeout must be a number of seconds or None"):
        deadline_after(bad)  # type: ignore[arg-type]
