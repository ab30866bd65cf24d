from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='session')
def docs_table():
    """The page with the table of heads."""
    return (ROOT / 'docs/deployment.md').read_text()
