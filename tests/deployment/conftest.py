from pathlib import Path

import pytest

from mmbiformer.deployment.tracing import check_torch
from mmbiformer.utils.errors import ConfigError

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    try:
        check_torch()
    except ConfigError as error:
        skip = pytest.mark.skip(reason=str(error))
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(skip)
