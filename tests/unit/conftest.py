"""Fixtures of the unit tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from softrnic_programs import OPTIONS, SANITIZERS, compile_device


@pytest.fixture(scope="session", params=SANITIZERS)
def instrumented(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], list[Path]]:
    """How to compile for a sanitizer, and all of the soft RNIC's sources compiled so."""
    options = [*OPTIONS, *SANITIZERS[request.param]]
    return options, compile_device(options, tmp_path_factory.mktemp("softrnic"))
