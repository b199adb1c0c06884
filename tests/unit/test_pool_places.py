"""Who gives way when more strangers come than there are places."""

from __future__ import annotations

import pytest

from rpma.pool.target import strangers
from rpma.pool.target.strangers import MOST, PLACES, PLACES_OF_ONE, Strangers


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        self.now += 1e-6
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(strangers, "time", clock)
    return clock


def test_as_many_as_there_are_places_stay(clock: Clock) -> None:
    found: Strangers[int] = Strangers()
    for number in range(PLACES):
        clock.now += 9
        assert found.come(number, f"10.0.0.{number % 8}") is None
    assert len(found) == PLACES


def test_the_oldest_of_an_address_that_has_too_many_gives_way(clock: Clock) -> None:
    found: Strangers[str] = Strangers()
    found.come("other", "10.0.0.2")
    for number in range(PLACES_OF_ONE):
        found.come(f"{number}", "10.0.0.1")
    clock.now += 2
    assert found.come("newcomer", "10.0.0.1") == "0"
    assert found.come("newest", "10.0.0.1") == "1"
    assert len(found) == PLACES_OF_ONE + 1


def test_the_oldest_of_the_address_that_has_most_gives_way(clock: Clock) -> None:
    found: Strangers[str] = Strangers()
    for number in range(PLACES // 2):
        found.come(f"one of {number}", f"10.0.0.{number}")
    for number in range(PLACES // 2):
        found.come(f"{number}", f"10.0.1.{number % 4}")
    clock.now += 2
    displaced = [found.come(f"newcomer {number}", f"10.2.0.{number}") for number in range(8)]
    assert displaced == [f"{number}" for number in range(8)]


def test_who_has_just_come_does_not_give_way() -> None:
    """Many honest clients behind one address, at once."""
    found: Strangers[int] = Strangers()
    for number in range(MOST):
        assert found.come(number, "10.0.0.1") is None
    assert found.come(MOST, "10.0.0.2") == 0
    assert found.come(MOST + 1, "10.0.0.2") == 1
    for number in range(MOST + 2):
        found.leave(number)
        found.leave(number)
    assert len(found) == 0
    assert not found._came


def test_a_flood_displaces_itself(clock: Clock) -> None:
    found: Strangers[str] = Strangers()
    found.come("honest", "10.0.0.2")
    for number in range(10 * MOST):
        clock.now += 0.001
        assert found.come(f"{number}", "10.0.0.1") != "honest"
    assert len(found) == MOST
    assert found.come("another", "10.0.0.3") not in ("honest", "another")


def test_an_honest_neighbour_of_a_flood_has_time_to_show_its_token() -> None:
    found: Strangers[str] = Strangers()
    for number in range(MOST):
        found.come(f"{number}", "10.0.0.1")
    assert found.come("honest", "10.0.0.1") == "0"
    for number in range(MOST - 1):
        assert found.come(f"again {number}", "10.0.0.1") != "honest"
    assert found.come("one more", "10.0.0.1") == "honest"


def test_a_network_of_ipv6_counts_as_one_address(clock: Clock) -> None:
    found: Strangers[int] = Strangers()
    for number in range(PLACES_OF_ONE):
        assert found.come(number, f"2001:db8::{number:x}") is None
    clock.now += 2
    assert found.come(100, "2001:db8:0:1::1") is None
    assert found.come(101, "2001:db8::ffff:1") == 0
    assert found.come(102, None) is None
