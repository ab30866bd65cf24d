import contextlib
import functools
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from forked import run_as_main

from mmbiformer_threads import limit_threads

ROOT = Path(__file__).resolve().parent.parent

# Before torch is imported; the tests share the cores with each other.
limit_threads()


def pytest_sessionstart(session):
    """Let tests read configs that inherit from others, and faster."""
    from mmengine.config import utils

    from mmbiformer.utils.config import installed_frameworks

    stack = contextlib.ExitStack()
    stack.enter_context(installed_frameworks())
    # mmengine parses a package's lists of models for each file inherited.
    load = functools.cache(utils.load)
    stack.enter_context(mock.patch.object(utils, 'load', load))
    session.config.add_cleanup(stack.close)


@pytest.fixture(scope='session')
def fork_server():
    """A process that has imported what takes seconds, to fork tools from.

    Nothing of mmbiformer is imported there: what a tool needs of it, it must
    import itself.
    """
    context = multiprocessing.get_context('forkserver')
    # What is not installed is left out.
    context.set_forkserver_preload(
        ['mmdet.apis', 'mmpretrain.apis', 'mmseg.apis']
    )
    return context


@pytest.fixture(scope='session')
def run_tool(fork_server, tmp_path_factory):
    """Run one of the tools as a user would; return the finished process."""

    def run(script, *arguments, cwd=ROOT, check=True, timeout=300):
        folder = tmp_path_factory.mktemp('output')
        path = ROOT / 'tools' / script
        arguments = [str(argument) for argument in arguments]
        streams = (folder / 'stdout', folder / 'stderr')
        process = fork_server.Process(
            target=run_as_main, args=(path, arguments, cwd, *streams)
        )
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired([path, *arguments], timeout)
        result = subprocess.CompletedProcess(
            [path, *arguments],
            process.exitcode,
            *(stream.read_text() for stream in streams),
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


@pytest.fixture(scope='session')
def demo_folder(tmp_path_factory):
    """A folder that keeps the data and the Mask R-CNN of the demo.

    The variable DEMO_FOLDER names one in which the demo has run already.
    """
    given = os.environ.get('DEMO_FOLDER')
    return Path(given) if given else tmp_path_factory.mktemp('demo')


@pytest.fixture(scope='session')
def digits_file(demo_folder, run_tool, tmp_path_factory):
    """The demo's Mask R-CNN as a file; it is trained if it is missing."""
    work_dir = demo_folder / 'work_dirs/maskrcnn_biformer_digits'
    if not (work_dir / 'epoch_7.pth').is_file():
        subprocess.run(
            [sys.executable, ROOT / 'scripts/demo.py'],
            cwd=demo_folder,
            check=True,
        )
    path = tmp_path_factory.mktemp('exported') / 'digits.onnx'
    run_tool(
        'deployment/export.py',
        ROOT / 'configs/detection/maskrcnn_biformer_digits.py',
        work_dir / 'epoch_7.pth', path,
        '--shape', '160x160', '--batch', 1, '--routing',
    )  # fmt: skip
    return path
