"""Ctrl-C and other requests to stop, for the scripts of the set-up.

This module needs only the standard library.
"""

import signal
import subprocess
import sys
from typing import Sequence

GRACE = 10
"""float: Seconds for a command to end by itself."""


def raise_on_stop() -> None:
    """Raise ``KeyboardInterrupt`` on SIGTERM and a closed terminal, too."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Not where nohup or a shell has the signal ignored.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


def run(command: Sequence[object]) -> int:
    """Run a command with its output on stderr, and return its exit code.

    ``subprocess.run`` kills a command a quarter of a second after Ctrl-C,
    which reaches both; here it has the time to end what it began.

    Args:
        command (Sequence[object]): The program and its arguments.
    """
    process = subprocess.Popen(
        [str(part) for part in command], stdout=sys.stderr
    )
    try:
        return process.wait()
    except BaseException:
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            # Only this process was asked to stop.
            process.terminate()
            process.wait()
        raise
