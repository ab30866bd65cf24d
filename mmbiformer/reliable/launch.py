"""Several processes: without a GPU, and their errors."""

import gc
import json
import os
import time
from pathlib import Path

import torch.distributed as dist
from mmengine.device import get_device
from torch.distributed.elastic.multiprocessing.errors import ErrorHandler

from mmbiformer.utils.command_line import describe_error
from mmbiformer.utils.errors import ConfigError


class ErrorRecord(ErrorHandler):
    """Records the line that ends a tool, for torchrun to show.

    torch's own handler records the traceback, which the process has shown
    already where it is of use. To be given to torch's ``record``.

    Args:
        tool (str): Name of the tool.
    """

    def __init__(self, tool: str) -> None:
        self.tool = tool

    def record_exception(self, e: BaseException) -> None:
        """Write the line to the file that torchrun reads, if there is one.

        Args:
            e (BaseException): The error.
        """
        path = os.environ.get('TORCHELASTIC_ERROR_FILE')
        if path:
            line = f'{self.tool}: error: {describe_error(e)}'
            record = dict(message=line, timestamp=int(time.time()))
            Path(path).write_text(json.dumps(record))


def init_cpu_process_group(launcher: str) -> None:
    """Create the process group where mmengine cannot: without an accelerator.

    mmengine's launchers choose a GPU before anything else, but leave a group
    alone that exists already. With an accelerator, or one process, this does
    nothing.

    Args:
        launcher (str): The tools' ``--launcher``.

    Raises:
        ConfigError: If there is no accelerator and ``launcher`` is one that
            needs it, or the launcher's environment variables are not set.
    """
    if launcher == 'pytorch' and 'RANK' not in os.environ:
        raise ConfigError(
            '--launcher=pytorch is for processes that torchrun starts; use '
            'tools/dist_train.sh or tools/dist_test.sh'
        )
    if launcher == 'none' or get_device() != 'cpu' or dist.is_initialized():
        return
    if launcher != 'pytorch':
        raise ConfigError(
            f'--launcher={launcher} needs GPUs, and none is there; without '
            'them, several processes start by tools/dist_train.sh and '
            'tools/dist_test.sh (--launcher=pytorch)'
        )
    dist.init_process_group('gloo')


def leave_process_group() -> None:
    """Destroy the process group at the end of a run.

    If the interpreter did it at its exit, gloo's threads could abort the
    process: they release tensors, for which they need an interpreter.
    """
    if dist.is_initialized():
        # A model wrapper that nobody uses would still hold the group.
        gc.collect()
        dist.destroy_process_group()
