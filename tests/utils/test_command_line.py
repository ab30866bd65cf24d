"""How a tool ends, by its error."""

import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mmengine.logging import MMLogger
from torch.utils.data import DataLoader

from mmbiformer.utils.command_line import command_line, describe_error
from mmbiformer.utils.errors import (
    ConfigError,
    DataError,
    PipelineError,
    TrainingInterrupted,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def log_file(tmp_path):
    """The log file of a run."""
    logger = MMLogger.get_instance(
        tmp_path.name, log_file=str(tmp_path / 'run.log')
    )
    yield tmp_path / 'run.log'
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.close()
    MMLogger._instance_dict.pop(tmp_path.name)


def end_of(error):
    """End a tool with an error; return what it exits with."""
    with pytest.raises(SystemExit) as end, command_line('tool.py'):
        raise error
    return end.value.code


def test_what_the_user_can_mend_is_one_line(log_file, capsys):
    line = 'tool.py: error: arch must be one of a, b'
    # Python shows it, and exits with 1.
    assert end_of(ConfigError('arch must be one of a, b')) == line
    assert capsys.readouterr().err == ''
    # For those who want to know where it was raised.
    log = log_file.read_text()
    assert 'Traceback (most recent call last)' in log
    assert log.endswith(f'{line}\n')


def test_any_other_error_shows_its_traceback(log_file, capsys, monkeypatch):
    # torch replaces the hook in processes that had a process group.
    monkeypatch.setattr(sys, 'excepthook', sys.__excepthook__)
    with pytest.raises(SystemExit) as end, command_line('tool.py'):
        try:
            {}['missing']
        except KeyError as error:
            raise ValueError('first line\nsecond line') from error
    shown = f'{capsys.readouterr().err}{end.value.code}\n'
    assert "KeyError: 'missing'" in shown
    assert 'the direct cause of the following exception' in shown
    assert shown.endswith(
        'ValueError: first line\nsecond line\n'
        'tool.py: error: ValueError: first line\n'
    )
    assert log_file.read_text().endswith(shown)


def test_an_error_without_a_message_is_named_by_its_code():
    with pytest.raises(SystemExit) as end, command_line('tool.py'):
        # pytest gives its own asserts a message.
        raise AssertionError
    assert re.fullmatch(
        r'tool\.py: error: AssertionError at \S*test_command_line\.py:\d+: '
        r'raise AssertionError',
        end.value.code,
    )


def test_a_file_is_named_as_of_its_package():
    with pytest.raises((AssertionError, TypeError)) as error:
        MMLogger.get_instance(3)
    error.value.args = ()
    assert re.match(
        r'(TypeError|AssertionError) at mmengine/\S+\.py:\d+: \w',
        describe_error(error.value),
    )


@pytest.mark.parametrize(
    ('error', 'line', 'status'),
    [
        (KeyboardInterrupt(), 'tool.py: interrupted', 130),
        (
            TrainingInterrupted(signal.SIGTERM, 'after iteration 3'),
            'tool.py: interrupted after iteration 3',
            143,
        ),
    ],
)
def test_signals(error, line, status, capsys):
    assert end_of(error) == status
    assert capsys.readouterr().err == f'{line}\n'


class Failing:
    """A data set whose images raise an error."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise self.error from OSError('the cause')


@pytest.mark.parametrize(
    ('error', 'line'),
    [
        (DataError('a.png: is broken'), 'a.png: is broken'),
        (PipelineError('a.png: fails'), 'PipelineError: a.png: fails'),
        (
            IndexError('of the code'),
            'IndexError: Caught IndexError in DataLoader worker process 0.',
        ),
    ],
)
def test_errors_of_workers_keep_their_message(error, line):
    loader = DataLoader(Failing(error), num_workers=1)
    with pytest.raises(type(error)) as raised:
        next(iter(loader))
    assert describe_error(raised.value) == line
    # And the traceback, with what was raised first, in their text.
    assert 'OSError: the cause' in str(raised.value)


def test_errors_keep_what_they_are_when_pickled():
    again = pickle.loads(pickle.dumps(DataError('a.png')))
    assert (type(again), str(again)) == (DataError, 'a.png')


def test_an_error_that_torchrun_shows_is_not_shown_twice(
    tmp_path, monkeypatch, capsys
):
    record = tmp_path / 'error.json'
    monkeypatch.setenv('TORCHELASTIC_ERROR_FILE', str(record))
    error = ConfigError('no such arch')
    # By mmbiformer.reliable.launch.ErrorRecord.
    record.touch()
    # torchrun shows it, so that it is shown once for all processes.
    assert end_of(error) == 1
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize('library', ['numpy', 'libtorch'])
def test_ctrl_c_during_the_imports_shows_nothing(library):
    process = subprocess.Popen(
        [sys.executable, ROOT / 'tools/misc/print_config.py', 'x.py'],
        stderr=subprocess.PIPE,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        text=True,
    )
    # Python itself answers Ctrl-C while it starts: wait for the imports.
    maps = Path(f'/proc/{process.pid}/maps')
    end = time.monotonic() + 60
    while library not in maps.read_text() and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert shown == ''
