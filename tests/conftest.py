import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope='session')
def run_tool():
    """Run one of the tools as a user would; return the finished process."""

    def run(script, *arguments, cwd=ROOT, check=True, timeout=300):
        result = subprocess.run(
            [sys.executable, str(ROOT / 'tools' / script)]
            + [str(argument) for argument in arguments],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and result.returncode:
            raise AssertionError(
                f'{script} ended with {result.returncode}:\n'
                f'{result.stdout[-3000:]}\n{result.stderr[-3000:]}'
            )
        return result

    return run


@pytest.fixture(scope='session')
def digits(tmp_path_factory, run_tool):
    """A tiny set of digits: 8 scenes for training, 2 for validation."""
    out = tmp_path_factory.mktemp('data') / 'digits'
    run_tool('dataset_converters/digits.py', out, '--images', 8)
    return out
