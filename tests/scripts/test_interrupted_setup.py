"""The set-up, interrupted in each step and run again, with a fake Python."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Runs the script as `make` does, by a Python without any package, and with
# Ctrl-C where what runs the tests has it ignored.
DRIVER = """
import runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
script, sys.executable = sys.argv.pop(), sys.argv.pop()
sys.path.insert(0, script.rpartition('/')[0])
runpy.run_path(script, run_name='__main__')
"""
# Answers the questions of the set-up, and logs what it is told to do. The step
# in $STOP_AT does not end by itself.
PYTHON = """#!/bin/sh
case "$*" in
  *run_module*venv*) step=venv; for folder; do :; done
     mkdir -p "$folder/bin"; cp "$0" "$folder/bin/python";;
  *install*torch==*) step=torch;;
  *install*ninja*) step=build_tools;;
  *build_mmcv.py*) step=mmcv;;
  *install*mminstall*) step=packages;;
  *install*--editable*) step=project;;
  *sep=*.*) echo 3.12; exit;;
  *importlib.metadata*) echo '{}'; exit;;
  *include*) echo "$INCLUDE"; exit;;
  *) echo 1; exit;;
esac
echo $step >> "$LOG"
if [ "$STOP_AT" = $step ]; then
  trap 'kill $!; sleep 0.5; echo cleaned >> "$LOG"; exit 1' INT
  sleep 60 & wait
fi
"""
STEPS = ['venv', 'torch', 'build_tools', 'mmcv', 'packages', 'project']


@pytest.fixture
def project(tmp_path):
    """Copy what the set-up reads; return the folder."""
    project = tmp_path / 'my project'
    for name in ('scripts', 'requirements', 'csrc'):
        shutil.copytree(ROOT / name, project / name)
    for name in ('pyproject.toml', 'setup.py'):
        shutil.copy(ROOT / name, project)
    (tmp_path / 'Python.h').touch()
    (tmp_path / 'bin').mkdir()
    for name, text in {'python3': PYTHON, 'c++': '#!/bin/sh\n'}.items():
        (tmp_path / 'bin' / name).write_text(text)
        (tmp_path / 'bin' / name).chmod(0o755)
    return project


def start(project, **environment):
    """Start the set-up in a process group of its own, as a shell does."""
    bin_folder = project.parent / 'bin'
    environment.update(
        PATH=f'{bin_folder}:/bin:/usr/bin',
        HOME=str(project.parent),
        INCLUDE=str(project.parent),
        LOG=str(project.parent / 'log'),
    )
    return subprocess.Popen(
        [sys.executable, '-c', DRIVER]
        + [bin_folder / 'python3', project / 'scripts/setup_env.py'],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(step, log, process):
    """Wait until the step has begun."""
    while not (log.is_file() and step in log.read_text().split()):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


@pytest.mark.parametrize('step', STEPS)
def test_ctrl_c_in_each_step(project, step):
    log = project.parent / 'log'
    process = start(project, STOP_AT=step)
    wait_for(step, log, process)
    os.killpg(process.pid, signal.SIGINT)
    _, output = process.communicate(timeout=30)
    assert process.returncode == 1
    last = output.splitlines()[-1]
    assert last == (
        '[setup] interrupted; the same command continues from here'
    )
    assert 'Traceback' not in output
    # The command had the time to clean up.
    assert log.read_text().split() == [
        *STEPS[: STEPS.index(step) + 1],
        'cleaned',
    ]

    log.unlink()
    process = start(project)
    _, output = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert '[setup] ready' in output
    assert log.read_text().split() == STEPS


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP])
def test_a_command_does_not_outlive_the_set_up(project, number):
    """Asked to stop alone, the set-up stops what it has started."""
    command = ['sh', '-c', 'sleep 0.3; echo $$ >&2; exec sleep 60']
    code = (
        'import interrupts, signal\n'
        # Where the tests run under nohup, it is ignored.
        'signal.signal(signal.SIGHUP, signal.SIG_DFL)\n'
        'interrupts.GRACE = 0.1\n'
        'interrupts.raise_on_stop()\n'
        f'interrupts.run({command})\n'
    )
    process = subprocess.Popen(
        [sys.executable, '-c', code],
        env=dict(os.environ, PYTHONPATH=str(project / 'scripts')),
        stderr=subprocess.PIPE,
        text=True,
    )
    command = int(process.stderr.readline())
    process.send_signal(number)
    _, output = process.communicate(timeout=30)
    assert output.rstrip().endswith('KeyboardInterrupt')
    with pytest.raises(ProcessLookupError):
        os.kill(command, 0)
