"""Arguments that several tools share.

Imports nothing of the package: ``tools/arguments.py`` loads this file alone,
so that ``--help`` need not wait for torch.
"""

import argparse
import os
from typing import Optional

from mmengine.config import DictAction


class CfgOptions(DictAction):
    """mmengine's ``DictAction``, whose errors are those of an argument."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: list,
        option_string: Optional[str] = None,
    ) -> None:
        """Parse the values; see :class:`argparse.Action`."""
        for value in values:
            key, equals, _ = value.partition('=')
            if not key or not equals:
                raise argparse.ArgumentError(
                    self, f'expected KEY=VALUE, got {value!r}'
                )
        try:
            super().__call__(parser, namespace, values, option_string)
        except AssertionError as error:  # of brackets that are not closed
            raise argparse.ArgumentError(self, str(error)) from error


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the config and what overrides it.

    Args:
        parser (argparse.ArgumentParser): The tool's parser.
    """
    parser.add_argument('config', help='config file path')
    add_cfg_options(parser)


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``.

    Args:
        parser (argparse.ArgumentParser): The tool's parser.
    """
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        metavar='KEY=VALUE',
        help='override settings of the config; lists as key="[a,b]" or '
        'key=a,b, nested ones as key="[(a,b),(c,d)]", without white space',
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where a run writes, and how its processes start.

    Args:
        parser (argparse.ArgumentParser): The tool's parser.
    """
    parser.add_argument(
        '--work-dir', help='the directory to save logs, models and metrics'
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='job launcher',
    )
    # Older launchers pass the rank as an argument, torchrun as a variable.
    parser.add_argument(
        '--local_rank',
        '--local-rank',
        type=int,
        default=int(os.environ.get('LOCAL_RANK', 0)),
        help=argparse.SUPPRESS,
    )


RUNTIMES = ('onnxruntime', 'openvino')
"""tuple[str]: What runs an exported file."""


def add_runtime(parser: argparse.ArgumentParser) -> None:
    """Add ``--runtime``, of tools that take exported files.

    Args:
        parser (argparse.ArgumentParser): The tool's parser.
    """
    parser.add_argument(
        '--runtime',
        choices=RUNTIMES,
        help=f'what runs an exported file (default: {RUNTIMES[0]})',
    )


def is_exported(path: str) -> bool:
    """Tell whether a file is an exported model, by its suffix.

    Args:
        path (str): The file.

    Returns:
        bool: Whether ``tools/deployment/export.py`` writes such files.
    """
    return path.lower().endswith(('.onnx', '.pt2'))
