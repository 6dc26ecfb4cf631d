"""The real Penn Treebank, which lies beside the checkout and is not part of it."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def ptb_dir() -> Path:
    folder = Path(__file__).parents[2].parent / "shared/data/ptb"
    if not folder.is_dir():
        pytest.skip("no Penn Treebank beside the checkout (shared/data/ptb)")
    return folder
