"""Start the tools many times without importing their libraries each time.

As a script: a process that has imported them, and forks one that runs a tool
for each line that it reads.
"""

import contextlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Run:
    """A tool that was started.

    ``returncode`` is negative for a signal, as in :mod:`subprocess`.
    """

    def __init__(self, pid, output, replies):
        self.pid = pid
        self.output = output
        self._replies = replies
        self.returncode = None

    def text(self):
        """Return what it has written to stdout and stderr so far."""
        return self.output.read_text(errors='replace')

    def kill(self, signum=signal.SIGKILL):
        """Send it a signal, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signum)

    def wait(self, timeout=120):
        """Wait until it has ended; return its exit status."""
        end = time.monotonic() + timeout
        while self.returncode is None:
            if self._replies(self.pid) is not None:
                self.returncode = self._replies(self.pid)
            elif time.monotonic() > end:
                self.kill()
                raise AssertionError(
                    f'still running after {timeout} s:\n{self.text()[-3000:]}'
                )
            time.sleep(0.01)
        return self.returncode

    def poll(self):
        """Wait briefly; return its exit status, or None while it runs."""
        time.sleep(0.1)
        self.returncode = self._replies(self.pid)
        return self.returncode

    def wait_until(self, condition, timeout=120):
        """Wait until a condition holds, or the tool has ended."""
        end = time.monotonic() + timeout
        while not condition() and self._replies(self.pid) is None:
            assert time.monotonic() < end, self.text()[-3000:]
            time.sleep(0.002)


class ToolServer:
    """A process that has imported the libraries, and forks the tools.

    Args:
        folder (Path): Where the outputs and exit statuses are written.
    """

    def __init__(self, folder):
        self._folder = folder
        self._count = 0
        paths = [str(ROOT / 'tests/support'), os.environ.get('PYTHONPATH')]
        environment = dict(
            os.environ,
            OMP_NUM_THREADS='1',
            PYTHONPATH=os.pathsep.join(filter(None, paths)),
        )
        self._process = subprocess.Popen(
            [sys.executable, __file__, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )
        # It has imported the libraries, so that starts can be timed.
        self._process.stdout.readline()

    def start(self, script, *arguments):
        """Start a tool; return its :class:`Run`."""
        self._count += 1
        output = self._folder / f'{self._count}.txt'
        output.touch()
        request = dict(
            script=str(ROOT / 'tools' / script),
            arguments=[str(argument) for argument in arguments],
            output=str(output),
        )
        self._process.stdin.write(json.dumps(request) + '\n')
        self._process.stdin.flush()
        pid = int(self._process.stdout.readline())
        return Run(pid, output, self._status)

    def run(self, script, *arguments, check=True):
        """Run a tool until it has ended; return its :class:`Run`."""
        run = self.start(script, *arguments)
        status = run.wait()
        assert not check or status == 0, run.text()[-3000:]
        return run

    def _status(self, pid):
        """Return the exit status of a tool, or None while it runs."""
        path = self._folder / f'{pid}.status'
        return int(path.read_text()) if path.exists() else None

    def close(self):
        """End the process."""
        self._process.stdin.close()
        self._process.wait(30)


def _run_tool(request):
    """Run a tool in this process as its main script."""
    output = os.open(request['output'], os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = [request['script'], *request['arguments']]
    sys.path[0] = os.path.dirname(request['script'])
    runpy.run_path(request['script'], run_name='__main__')


def _serve(folder):
    """Fork for each request; return it in the child, None at the end."""
    requests = os.fdopen(os.dup(0), 'rb', buffering=0)
    replies = os.fdopen(os.dup(1), 'w')
    # What libraries print is no reply.
    os.dup2(2, 1)

    import mmdet.apis  # noqa: F401
    import mmdet.datasets  # noqa: F401
    import mmdet.engine  # noqa: F401
    import mmdet.evaluation  # noqa: F401
    import mmdet.models  # noqa: F401
    import mmseg.datasets  # noqa: F401
    import mmseg.engine  # noqa: F401
    import mmseg.models  # noqa: F401
    import torch

    import mmbiformer  # noqa: F401

    torch.set_num_threads(1)
    print('ready', file=replies, flush=True)
    children = set()
    while True:
        ready, _, _ = select.select([requests], [], [], 0.01)
        for pid in list(children):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                children.remove(pid)
                code = str(os.waitstatus_to_exitcode(status))
                scratch = Path(folder, f'{pid}.part')
                scratch.write_text(code)
                scratch.rename(Path(folder, f'{pid}.status'))
        if not ready:
            continue
        line = requests.readline()
        if not line:
            return None
        child = os.fork()
        if not child:
            # As a shell starts it: Ctrl-C would go to its whole group.
            os.setpgid(0, 0)
            return json.loads(line)
        children.add(child)
        print(child, file=replies, flush=True)


if __name__ == '__main__':
    request = _serve(sys.argv[1])
    if request:
        _run_tool(request)
