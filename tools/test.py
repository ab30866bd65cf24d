"""Test (and evaluate) a detector or segmentor."""

import argparse
import os

from mmengine.config import Config, DictAction


def parse_args() -> argparse.Namespace:
    # The package takes seconds to import, and is only once this is right.
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file path')
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
        enable_drawing,
        enable_tta,
        keep_predictions,
        load_config,
    )
    from mmbiformer.utils.files import check_checkpoint

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
    check_work_dir(cfg, training=False)
    init_cpu_process_group(cfg.launcher)
    return cfg


def main() -> None:
    args = parse_args()
    from mmbiformer.checkpoints.strict import strict_loading
    from mmbiformer.reliable.launch import leave_process_group
    from mmbiformer.reliable.runner import build_runner
    from mmbiformer.utils.command_line import one_line_errors

    with one_line_errors('test.py') as tool, strict_loading():
        tool.runner = build_runner(make_config(args))
        tool.runner.test()
        leave_process_group()


if __name__ == '__main__':
    main()
