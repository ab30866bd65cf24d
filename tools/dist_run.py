"""Start the processes of a run as torchrun does, and say which failed first.

All arguments are torchrun's. Where a process fails, the error that it recorded
comes last, instead of torchrun's report on itself.
"""

import signal
import sys
import tempfile
from pathlib import Path

from mmbiformer_threads import limit_spinning

if __name__ == '__main__':
    # Ctrl-C during the imports ends the tool without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    limit_spinning()

from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import (
    ChildFailedError,
    ProcessFailure,
)

# What torchrun ends the others with, as a signal or in the shell's way.
_ENDED = (-signal.SIGTERM, 128 + signal.SIGTERM)


def order_of(failure: ProcessFailure) -> tuple:
    """Return a key that sorts failures: the cause of the others first."""
    ended = failure.exitcode in _ENDED
    # Where one process dies, others that talk to it fail or abort.
    killed = failure.exitcode < 0 and failure.exitcode != -signal.SIGABRT
    record = Path(failure.error_file)
    # torch keeps whole seconds only.
    seconds = record.stat().st_mtime if record.is_file() else failure.timestamp
    return ended, not killed, seconds


def describe(error: ChildFailedError) -> str:
    """Say which process failed first, and why.

    Args:
        error (ChildFailedError): What torchrun found.

    Returns:
        str: The message.
    """
    rank, first = min(error.failures.items(), key=lambda one: order_of(one[1]))
    who = f'process {rank} (pid {first.pid})'
    if first.exitcode < 0:
        why = ', perhaps out of memory' * (first.exitcode == -signal.SIGKILL)
        return f'{who} was killed by {first.signal_name()}{why}'
    failed = f'{who} failed with exit code {first.exitcode}'
    if Path(first.error_file).is_file():
        return f'{failed}:\n{first.message}'
    return f'{failed}; its output is above'


def main() -> None:
    with tempfile.TemporaryDirectory(prefix='dist_run_') as logs:
        options = ['--log-dir', logs]
        # torchrun raises an error for a signal, once it can handle one.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            torchrun.run(torchrun.parse_args([*options, *sys.argv[1:]]))
        except ChildFailedError as error:
            sys.exit(f'dist_run.py: error: {describe(error)}')
        except SignalException as error:
            sys.exit(128 + error.sigval)


if __name__ == '__main__':
    main()
