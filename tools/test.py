"""Test (and evaluate) a detector or segmentor."""

import argparse
import sys

from mmengine.config import Config

from mmbiformer.engine.checks import (
    check_checkpoint,
    check_classes,
    check_data,
)
from mmbiformer.engine.config import (
    add_config_arguments,
    add_run_arguments,
    enable_drawing,
    enable_tta,
    keep_predictions,
    load_config,
)
from mmbiformer.engine.launch import init_cpu_process_group
from mmbiformer.engine.runner import build_runner


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--out',
        help='detection: dump the predictions to this pickle file; '
        'segmentation: save the predicted label maps in this directory',
    )
    parser.add_argument(
        '--show', action='store_true', help='show prediction results'
    )
    parser.add_argument(
        '--show-dir',
        help='directory where painted images will be saved; for detection '
        'below work_dir/timestamp',
    )
    parser.add_argument(
        '--wait-time', type=float, default=2, help='the interval of show (s)'
    )
    parser.add_argument(
        '--tta', action='store_true', help='test time augmentation'
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
    check_data(cfg, ['test_dataloader'])
    check_classes(cfg, ['test_dataloader'])
    check_checkpoint(args.checkpoint)
    cfg.load_from = args.checkpoint
    if args.show or args.show_dir:
        enable_drawing(cfg, args.show, args.show_dir, args.wait_time)
    if args.tta:
        enable_tta(cfg)
    if args.out is not None:
        keep_predictions(cfg, args.out)
    init_cpu_process_group(cfg.launcher)
    return cfg


def main() -> None:
    args = parse_args()
    try:
        cfg = make_config(args)
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f'test.py: error: {error}')
    build_runner(cfg).test()


if __name__ == '__main__':
    main()
