"""What rpma.pool.protocol.sizes promises about sizes as people write them."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rpma.pool.protocol.errors import PoolSizeError
from rpma.pool.protocol.sizes import format_size, parse_size

UNITS = {
    "": 1,
    "B": 1,
    "K": 1 << 10,
    "M": 1 << 20,
    "G": 1 << 30,
    "T": 1 << 40,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}


class TestParse:
    @pytest.mark.parametrize(
        ("text", "size"),
        [
            ("0", 0),
            ("4096", 4096),
            ("4k", 4096),
            ("64MiB", 64 << 20),
            ("64 MiB", 64 << 20),
            ("64mib", 64 << 20),
            ("1.5GiB", 3 << 29),
            ("0.5k", 512),
            ("1.0", 1),
            ("2.500kB", 2500),
            ("1MB", 1_000_000),
            ("1mb", 1_000_000),
            ("256T", 1 << 48),
            (" 7 B\n", 7),
            (12345, 12345),
            (0, 0),
        ],
    )
    def test_means_bytes(self, text: str | int, size: int) -> None:
        assert parse_size(text) == size

    @given(number=st.integers(0, 1 << 50), unit=st.sampled_from(sorted(UNITS)), data=st.data())
    def test_every_unit_in_any_case(self, number: int, unit: str, data: st.DataObject) -> None:
        shape = data.draw(st.sampled_from([str, str.lower, str.upper]))
        space = data.draw(st.sampled_from(["", " "]))
        assert parse_size(f"{number}{space}{shape(unit)}") == number * UNITS[unit]

    @given(
        whole=st.integers(0, 10**6),
        fraction=st.text("0123456789", min_size=1, max_size=20),
        unit=st.sampled_from(sorted(UNITS)),
    )
    @example(whole=0, fraction="1", unit="")
    def test_a_fraction_is_exact_or_refused(self, whole: int, fraction: str, unit: str) -> None:
        text = f"{whole}.{fraction}{unit}"
        exact = Fraction(f"{whole}.{fraction}") * UNITS[unit]
        if exact.denominator == 1:
            assert parse_size(text) == exact
        else:
            with pytest.raises(PoolSizeError, match="is not a whole number of bytes"):
                parse_size(text)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            " ",
            "-1",
            "+1",
            "k",
            "1.",
            ".5G",
            "1,5G",
            "1e9",
            "0x10",
            "1_000",
            "1 000",
            "4  k",
            "4kk",
            "4i",
            "4Bi",
            "4PiB",
            "4bytes",
            "1.2.3",
            "٤k",
            "²",
            "4\u212a",  # the Kelvin sign, whose small letter is k
            "nan",
            "inf",
            "9" * 21,
            "9" * 100_000,
        ],
    )
    def test_refuses_what_is_no_size(self, text: str) -> None:
        with pytest.raises(PoolSizeError, match=r"^length: .* as in 4096, 64MiB") as caught:
            parse_size(text, "length")
        assert len(str(caught.value)) < 300
        assert isinstance(caught.value, ValueError)

    def test_refuses_a_negative_number(self) -> None:
        with pytest.raises(PoolSizeError, match="size: -1 is negative"):
            parse_size(-1)

    @pytest.mark.parametrize("value", [None, True, 1.0, b"4k"])
    def test_wrong_type_is_named(self, value: Any) -> None:
        with pytest.raises(TypeError, match=f"size: an int is needed, not {type(value).__name__}"):
            parse_size(value)

    @given(st.text())
    def test_any_text_is_a_size_or_a_pool_size_error(self, text: str) -> None:
        with contextlib.suppress(PoolSizeError):
            assert parse_size(text) >= 0


class TestFormat:
    @pytest.mark.parametrize(
        ("size", "text"),
        [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (64 << 20, "64 MiB"),
            (int(1.37 * (1 << 30)), "1.37 GiB"),
            ((1 << 20) - 1, "1 MiB"),
            ((1 << 30) - 1, "1 GiB"),
            (100 << 40, "100 TiB"),
            (1 << 60, "1048576 TiB"),
            (-2048, "-2 KiB"),
        ],
    )
    def test_is_for_people(self, size: int, text: str) -> None:
        assert format_size(size) == text

    @given(st.integers(0, 1 << 60))
    @example((1 << 20) - 6)
    @example(1_798_413)
    @example((1 << 30) - (1 << 12))
    def test_is_right_to_two_decimals(self, size: int) -> None:
        number, unit = format_size(size).split()
        assert abs(Fraction(number) * UNITS[unit] - size) <= Fraction(1, 200) * UNITS[unit]
        assert Fraction(number) < 1024 or unit == "TiB"

    @given(st.integers(0, 1 << 20), st.sampled_from(["B", "KiB", "MiB", "GiB", "TiB"]))
    def test_what_two_decimals_hold_is_parsed_back(self, number: int, unit: str) -> None:
        size = number * UNITS[unit] // 4
        if number < 4096:
            assert parse_size(format_size(size)) == size
