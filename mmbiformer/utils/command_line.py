"""How a tool ends: with one line for an error of the user, or a traceback."""

import logging
import os
import signal
import site
import sys
import threading
import traceback
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator, Union

from mmengine.logging import MMLogger

from .errors import UserError


@contextmanager
def command_line(tool: str) -> Iterator[None]:
    """Run a tool, and end it in a way that fits its error.

    - A :class:`UserError` is shown as the line ``tool: error: message``. Exit
      status 1.
    - Ctrl-C and signals that end training are shown as one line. Exit status
      128 + the number of the signal.
    - Any other exception is shown with its traceback, as by Python, and a
      line that names it. Exit status 1.

    Tracebacks are also written to the log file of the run, where it has one.

    Args:
        tool (str): Name of the tool, such as ``'train.py'``.

    Yields:
        None: The block is the tool.

    Example:
        >>> with command_line('train.py'):
        ...     train(args)
    """
    _enable_interrupts()
    try:
        yield
    except KeyboardInterrupt as error:
        print(f'{tool}: interrupted {error}'.rstrip(), file=sys.stderr)
        status = 128 + getattr(error, 'signum', signal.SIGINT)
        _release(error)
    except Exception as error:
        status = _report(tool, error)
        _release(error)
    else:
        return
    sys.exit(status)


def describe_error(error: BaseException) -> str:
    """Describe an error in the line that ends a tool.

    Args:
        error (BaseException): The error.

    Returns:
        str: The message of a :class:`UserError`; of others the type and the
        first line of the message or, without a message, the line of code that
        raised it.
    """
    message = _own_message(error)
    if isinstance(error, UserError):
        return message
    name = type(error).__name__
    if message:
        return f'{name}: {message.splitlines()[0]}'
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return name
    file, line = _shorten(frames[-1].filename), frames[-1].lineno
    return f'{name} at {file}:{line}: {frames[-1].line}'


def _own_message(error: BaseException) -> str:
    """Return the message of an error, without the traceback of a worker.

    Torch's dataloaders pass the error of a worker on as text: they raise its
    type again, with its whole traceback as message. For the types of this
    package, which are named in full there, the message proper is what follows
    the name.
    """
    kind = type(error)
    name = f'{kind.__module__}.{kind.__qualname__}: '
    return str(error).rpartition(name)[2].strip()


def _shorten(path: str) -> str:
    """Return the path of a module from where Python finds its package."""
    # An environment may be in the folder that the tool runs in.
    folders = sorted(
        {os.getcwd(), *site.getsitepackages(), *filter(None, sys.path)},
        key=len,
        reverse=True,
    )
    for folder in folders:
        if Path(path).is_relative_to(folder):
            return str(Path(path).relative_to(folder))
    return path


def _report(tool: str, error: Exception) -> Union[int, str]:
    """Show an error, and write its traceback to the log file.

    Args:
        tool (str): Name of the tool.
        error (Exception): The error.

    Returns:
        int | str: What to exit with: a line to show, or the status.
    """
    line = f'{tool}: error: {describe_error(error)}'
    _write_log(''.join(traceback.format_exception(error)) + line)
    if not isinstance(error, UserError):
        # torch puts the rank before each line.
        sys.excepthook(type(error), error, error.__traceback__)
        return line
    # torchrun shows the error of the first process that failed.
    recorded = os.path.exists(os.environ.get('TORCHELASTIC_ERROR_FILE', ''))
    return 1 if recorded else line


def _write_log(text: str) -> None:
    """Append a text to the log file of the run, where it has one."""
    for handler in MMLogger.get_current_instance().handlers:
        if isinstance(handler, logging.FileHandler):
            # The disk may be full, which may be the error itself.
            with suppress(OSError):
                handler.stream.write(f'{text}\n')
                handler.flush()


def _enable_interrupts() -> None:
    """Let Ctrl-C raise a KeyboardInterrupt.

    The tools let it end the process while they import their libraries.
    """
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    ):
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _release(error: BaseException) -> None:
    """Drop the references that the frames of an error hold.

    The workers of dataloaders end when nothing refers to their loader.
    """
    traceback.clear_frames(error.__traceback__)
