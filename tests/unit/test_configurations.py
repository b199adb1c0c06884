"""Configuration objects: every property, its bounds, and what is not one."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rpma

UINT32_MAX = (1 << 32) - 1
INT_MAX = (1 << 31) - 1

CONNECTION = {"timeout_ms": 1000, "cq_size": 10, "rcq_size": 0, "sq_size": 10, "rq_size": 10}
SHARED_QUEUE = {"rq_size": 20, "rcq_size": 20}
NUMBERS = [(rpma.ConnectionConfig, name) for name in CONNECTION]
NUMBERS += [(rpma.SharedReceiveQueueConfig, name) for name in SHARED_QUEUE]

numbers = pytest.mark.parametrize(("kind", "name"), NUMBERS)


@pytest.mark.parametrize("config", [rpma.ConnectionConfig, rpma.SharedReceiveQueueConfig])
def test_the_defaults_are_librpmas(config: Any) -> None:
    defaults = CONNECTION if config is rpma.ConnectionConfig else SHARED_QUEUE
    with config() as made:
        assert {name: getattr(made, name) for name in defaults} == defaults


def test_further_defaults_are_librpmas() -> None:
    with rpma.ConnectionConfig() as config:
        assert config.shared_channel is False
        assert config.srq is None
    with rpma.PeerConfig() as config:
        assert config.direct_write_to_pmem is False


@numbers
@given(value=st.integers(0, INT_MAX))
def test_a_number_reads_as_it_was_set(kind: Any, name: str, value: int) -> None:
    with kind(**{name: value}) as config:
        assert getattr(config, name) == value
        setattr(config, name, 1)
        assert getattr(config, name) == 1
        setattr(config, name, value)
        assert getattr(config, name) == value


@numbers
def test_a_number_does_not_change_the_others(kind: Any, name: str) -> None:
    defaults = CONNECTION if kind is rpma.ConnectionConfig else SHARED_QUEUE
    with kind(**{name: 12345}) as config:
        assert {key: getattr(config, key) for key in defaults} == {**defaults, name: 12345}


@numbers
@given(value=st.one_of(st.integers(max_value=-1), st.integers(min_value=1 << 32)))
def test_a_number_out_of_bounds_is_refused_and_named(kind: Any, name: str, value: int) -> None:
    with kind() as config:
        before = getattr(config, name)
        with pytest.raises(rpma.InvalidArgumentError, match=f"{name}={value} must be from 0"):
            setattr(config, name, value)
        assert getattr(config, name) == before
    with pytest.raises(ValueError, match=f"{name}={value} must be from 0"):
        kind(**{name: value})


@numbers
def test_the_largest_number_is_taken_as_far_as_c_has_it(kind: Any, name: str) -> None:
    largest = INT_MAX if name == "timeout_ms" else UINT32_MAX
    with kind() as config:
        setattr(config, name, largest)
        assert getattr(config, name) in (largest, INT_MAX)
        with pytest.raises(rpma.InvalidArgumentError):
            setattr(config, name, largest + 1)


@numbers
@pytest.mark.parametrize("bad", ["10", 10.0, b"10", [], None, 1j, int])
def test_what_is_no_int_is_refused_and_named(kind: Any, name: str, bad: object) -> None:
    with kind() as config, pytest.raises(TypeError, match=f"{name} must be an integer"):
        setattr(config, name, bad)


class Three:
    def __index__(self) -> int:
        return 3


@numbers
def test_what_converts_to_int_is_taken(kind: Any, name: str) -> None:
    with kind(**{name: Three()}) as config:
        assert getattr(config, name) == 3


@pytest.mark.parametrize("value", [True, False])
def test_switches_read_as_they_were_set(value: bool) -> None:
    with rpma.ConnectionConfig(shared_channel=value) as config:
        assert config.shared_channel is value
        config.shared_channel = not value
        assert config.shared_channel is not value
    with rpma.PeerConfig(direct_write_to_pmem=value) as config:
        assert config.direct_write_to_pmem is value
        config.direct_write_to_pmem = not value
        assert config.direct_write_to_pmem is not value


@pytest.mark.parametrize("value", [True, False])
def test_a_peer_configuration_goes_through_its_descriptor(value: bool) -> None:
    with rpma.PeerConfig(direct_write_to_pmem=value) as config:
        descriptor = config.descriptor
    assert isinstance(descriptor, bytes)
    assert len(descriptor) == 1
    for given_as in (descriptor, bytearray(descriptor), memoryview(descriptor), descriptor * 56):
        with rpma.PeerConfig.from_descriptor(given_as) as copy:
            assert copy.direct_write_to_pmem is value
            assert copy.descriptor == descriptor


@pytest.mark.parametrize("bad", [1, "x", None, rpma.Usage.SEND])
def test_only_a_shared_receive_queue_is_one(bad: object) -> None:
    with (
        rpma.ConnectionConfig() as config,
        pytest.raises(TypeError, match=r"srq must be a rpma\.SharedReceiveQueue"),
    ):
        config.srq = bad  # type: ignore[assignment]


def test_a_name_that_is_no_setting_is_refused() -> None:
    with pytest.raises(TypeError, match="sq_sise"):
        rpma.ConnectionConfig(sq_sise=3)  # type: ignore[call-arg]
    with rpma.ConnectionConfig() as config, pytest.raises(AttributeError):
        config.sq_sise = 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "kind", [rpma.ConnectionConfig, rpma.SharedReceiveQueueConfig, rpma.PeerConfig]
)
def test_a_closed_configuration_says_so(kind: Any) -> None:
    config = kind()
    assert not config.closed
    config.close()
    config.close()
    assert config.closed
    assert "closed" in repr(config)
    names = {
        rpma.ConnectionConfig: [*CONNECTION, "shared_channel", "srq"],
        rpma.SharedReceiveQueueConfig: list(SHARED_QUEUE),
        rpma.PeerConfig: ["direct_write_to_pmem", "descriptor"],
    }[kind]
    for name in names:
        with pytest.raises(rpma.ClosedError, match="closed"):
            getattr(config, name)
        if name not in ("srq", "descriptor"):
            with pytest.raises(rpma.ClosedError, match="closed"):
                setattr(config, name, 1)
    with pytest.raises(rpma.ClosedError), config:
        pass


@pytest.mark.parametrize(
    "kind", [rpma.ConnectionConfig, rpma.SharedReceiveQueueConfig, rpma.PeerConfig]
)
def test_a_configuration_belongs_to_its_process(kind: Any) -> None:
    with kind() as config, pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(config)
