"""Several processes without a GPU."""

import os

import torch.distributed as dist
from mmengine.device import get_device

from mmbiformer.utils.errors import ConfigError


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
    """End the process group of a run that has come to its end.

    Left to the end of the interpreter, gloo's threads may abort the process.
    """
    if dist.is_initialized():
        dist.destroy_process_group()
