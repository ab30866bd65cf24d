"""Run a tool in a process that is forked from one with all imports."""

import os
import runpy
import sys


def run_as_main(script, arguments, cwd, out, err):
    """Run a tool as the main script of this process.

    Args:
        script (Path): The tool.
        arguments (list[str]): Its command line.
        cwd (Path): Its working directory.
        out (Path): File for what it writes to stdout.
        err (Path): File for what it writes to stderr.
    """
    os.chdir(cwd)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.argv = [str(script), *arguments]
    # As Python does for a script; it finds modules beside itself.
    sys.path.insert(0, os.path.dirname(script))
    runpy.run_path(str(script), run_name='__main__')
