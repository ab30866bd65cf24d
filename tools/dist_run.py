"""Start the processes of a run as torchrun does, and say which failed first.

All arguments are torchrun's. Where a process fails, its error comes last,
instead of torchrun's report on itself.
"""

import re
import signal
import sys
import tempfile
from pathlib import Path

from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import (
    ChildFailedError,
    ProcessFailure,
)

MAX_LINES = 20
"""int: How much of an error is shown again."""
_TOOL_ERROR = re.compile(r'\w+\.py: error: ')
# What torchrun ends the others with, as a signal or in the shell's way.
_ENDED = (-signal.SIGTERM, 128 + signal.SIGTERM)


def error_of(text: str) -> str:
    """Return the error at the end of what a process wrote.

    Args:
        text (str): What it wrote to stderr.

    Returns:
        str: The tool's own message, or what comes behind the frames of the
        last traceback, or the last lines.
    """
    # torch puts the rank before each line of a traceback.
    text = re.sub(r'^\[rank\d+\]: ?', '', text, flags=re.MULTILINE)
    lines = text.rstrip().splitlines()
    for index in range(len(lines) - 1, -1, -1):
        if _TOOL_ERROR.match(lines[index]):
            lines = lines[index:]
            break
        if lines[index].startswith('Traceback '):
            frames = index + 1
            while frames < len(lines) and lines[frames].startswith(' '):
                frames += 1
            lines = lines[frames:]
            break
    return '\n'.join(lines[-MAX_LINES:])


def describe(error: ChildFailedError, logs: Path) -> str:
    """Say which process failed first, and why.

    Args:
        error (ChildFailedError): What torchrun found.
        logs (Path): Its folder of logs.

    Returns:
        str: The message.
    """

    def log(failure: ProcessFailure) -> Path:
        (path,) = logs.glob(f'*/attempt_*/{failure.local_rank}/stderr.log')
        return path

    def order(item: tuple) -> tuple:
        failure = item[1]
        ended = failure.exitcode in _ENDED
        # Where one process dies, others that talk to it fail or abort.
        killed = failure.exitcode < 0 and failure.exitcode != -signal.SIGABRT
        return ended, not killed, log(failure).stat().st_mtime_ns

    rank, first = min(error.failures.items(), key=order)
    who = f'process {rank} (pid {first.pid})'
    if first.exitcode > 0:
        text = error_of(log(first).read_text(errors='replace'))
        return f'{who} failed with exit code {first.exitcode}:\n{text}'
    name = signal.Signals(-first.exitcode).name
    why = ', perhaps for want of memory' if name == 'SIGKILL' else ''
    return f'{who} was killed by {name}{why}'


def main() -> None:
    with tempfile.TemporaryDirectory(prefix='dist_run_') as logs:
        options = ['--log-dir', logs, '--tee', '2']
        try:
            torchrun.run(torchrun.parse_args([*options, *sys.argv[1:]]))
        except ChildFailedError as error:
            sys.exit(f'dist_run.py: error: {describe(error, Path(logs))}')
        except SignalException as error:
            sys.exit(128 + error.sigval)


if __name__ == '__main__':
    main()
