"""How the tools end where something is wrong."""

import logging
import re
import sys
import traceback
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Iterator

from mmengine.logging import MMLogger

from mmbiformer.reliable.hooks import TrainingInterrupted

RUN_ERRORS = (FloatingPointError, OSError, ValueError)
"""tuple: What says, while a run goes on, that data or numbers are wrong."""

SETUP_ERRORS = (*RUN_ERRORS, ImportError, RuntimeError)
"""tuple: What says so before a run has started."""


def is_of_user(error: Exception, started: bool) -> bool:
    """Tell whether an error is of a setting, the data or the numbers.

    Args:
        error (Exception): The error.
        started (bool): Whether the run had started.

    Returns:
        bool: Whether it is; others are of the code, and need a traceback.
    """
    if started:
        return isinstance(error, RUN_ERRORS)
    # What OpenMMLab's registries and the classes that they build say of a
    # config: by assertions, too.
    wording = re.search(
        r'is not in the .* registry|unexpected keyword argument|'
        r'required positional argument',
        str(error),
    )
    return isinstance(error, (AssertionError, *SETUP_ERRORS)) or (
        isinstance(error, (KeyError, TypeError)) and wording is not None
    )


def describe_error(error: BaseException) -> str:
    """Return the message of an error, without the traceback of a worker.

    Args:
        error (BaseException): The error.

    Returns:
        str: Its message, or its type if it has none.
    """
    # A KeyError shows its message in quotes.
    message = str(error.args[0] if isinstance(error, KeyError) else error)
    if 'Original Traceback (most recent call last)' in message:
        # Torch's dataloaders pass an error of a worker on as text.
        message = re.split(r'^[\w.]+: ', message, flags=re.MULTILINE)[-1]
    return message.strip() or type(error).__name__


@contextmanager
def one_line_errors(tool: str) -> Iterator[SimpleNamespace]:
    """End a tool with a line, where the one who called it can help.

    The traceback of what ends a run that had started goes to its log. Other
    errors are of the project, and keep theirs.

    Args:
        tool (str): Name of the tool.

    Yields:
        SimpleNamespace: Its ``runner``, None at first, is to be set once
        there is one.
    """
    context = SimpleNamespace(runner=None)
    end = None
    try:
        yield context
    except KeyboardInterrupt as error:
        signum = getattr(error, 'signum', 2)
        message = f' {error}' if isinstance(error, TrainingInterrupted) else ''
        print(f'{tool}: interrupted{message}', file=sys.stderr)
        end = 128 + signum
    except Exception as error:
        # Another runner that a config names does not tell.
        started = getattr(
            context.runner, 'started', context.runner is not None
        )
        if not is_of_user(error, started) or not str(error):
            raise
        if started:
            _log_traceback()
        end = f'{tool}: error: {describe_error(error)}'
    # Beyond the handler, where nothing holds on to the frames of the run, and
    # the workers of its dataloaders are told to end.
    context.runner = None
    if end is not None:
        sys.exit(end)


def _log_traceback() -> None:
    """Write the traceback to the log file of the run, where it has one."""
    for handler in MMLogger.get_current_instance().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.stream.write(traceback.format_exc())
            handler.flush()
