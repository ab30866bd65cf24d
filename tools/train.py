"""Train a detector or segmentor."""

import argparse
import os

from mmengine.config import Config, DictAction


def parse_args() -> argparse.Namespace:
    # The package takes seconds to import, and is only once this is right.
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file path')
    parser.add_argument(
        '--amp',
        action='store_true',
        help='enable automatic mixed precision training (needs a GPU)',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the total batch size',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='PATH',
        help='resume from this checkpoint or, without PATH or with "auto", '
        'from the latest one in the work directory',
    )
    parser.add_argument(
        '--work-dir', help='the directory to save logs, models and metrics'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override settings of the config; lists as key="[a,b]" or '
        'key=a,b, nested ones as key="[(a,b),(c,d)]", without white space',
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
    return parser.parse_args()


def make_config(args: argparse.Namespace) -> Config:
    """Return the config of the run, once all that it needs is there."""
    from mmbiformer.datacheck.checks import check_classes, check_data
    from mmbiformer.reliable.launch import init_cpu_process_group
    from mmbiformer.reliable.resume import check_work_dir
    from mmbiformer.utils.config import (
        check_pretrained,
        enable_amp,
        enable_auto_scale_lr,
        load_config,
        set_resume,
    )

    cfg = load_config(
        args.config,
        args.cfg_options,
        args.work_dir,
        args.launcher,
        args.local_rank,
    )
    if args.amp:
        enable_amp(cfg)
    if args.auto_scale_lr:
        enable_auto_scale_lr(cfg)
    if args.resume is not None:
        set_resume(cfg, args.resume)
    check_data(cfg, ['train_dataloader', 'val_dataloader'])
    check_classes(cfg, ['train_dataloader', 'val_dataloader'])
    check_pretrained(cfg)
    check_work_dir(cfg, training=True)
    init_cpu_process_group(cfg.launcher)
    return cfg


def main() -> None:
    args = parse_args()
    from mmbiformer.checkpoints.strict import strict_loading
    from mmbiformer.reliable.launch import leave_process_group
    from mmbiformer.reliable.runner import build_runner
    from mmbiformer.utils.command_line import one_line_errors

    with one_line_errors('train.py') as tool, strict_loading():
        tool.runner = build_runner(make_config(args))
        tool.runner.train()
        leave_process_group()


if __name__ == '__main__':
    main()
