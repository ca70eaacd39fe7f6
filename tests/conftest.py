"""What all tests share: where real prices lie, and the repository's root."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real prices beside the checkout (KIT_SHARED_DATA, or ../shared/data): not part of the project, so absent for most users."""
    path = Path(os.environ.get("KIT_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip("no real prices here (KIT_SHARED_DATA)")
    return path
