"""Train a detector or segmentor."""

import argparse
import sys

from mmengine.config import Config

from mmbiformer.engine.checks import (
    check_classes,
    check_data,
    check_pretrained,
)
from mmbiformer.engine.config import (
    add_config_arguments,
    add_run_arguments,
    enable_amp,
    enable_auto_scale_lr,
    load_config,
    set_resume,
)
from mmbiformer.engine.launch import init_cpu_process_group
from mmbiformer.engine.runner import build_runner


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
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
    add_run_arguments(parser)
    return parser.parse_args()


def make_config(args: argparse.Namespace) -> Config:
    """Return the config of the run, once all that it needs is there."""
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
    init_cpu_process_group(cfg.launcher)
    return cfg


def main() -> None:
    args = parse_args()
    try:
        cfg = make_config(args)
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f'train.py: error: {error}')
    build_runner(cfg).train()


if __name__ == '__main__':
    main()
