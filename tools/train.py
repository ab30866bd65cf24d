"""Train a detector, segmentor or classifier."""

import argparse
import signal

from arguments import add_config_arguments, add_run_arguments

from mmbiformer_threads import limit_threads

if __name__ == '__main__':
    # Ctrl-C during the imports ends the tool without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    limit_threads()

from mmengine.config import Config


def parse_args() -> argparse.Namespace:
    # The package takes seconds to import, and is only once this is right.
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
    from mmbiformer.datacheck.checks import check_classes, check_data
    from mmbiformer.reliable.launch import init_cpu_process_group
    from mmbiformer.reliable.resume import check_work_dir
    from mmbiformer.utils.config import (
        check_pretrained,
        check_weight_decay,
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
    check_weight_decay(cfg)
    check_work_dir(cfg, training=True)
    init_cpu_process_group(cfg.launcher)
    return cfg


def train(args: argparse.Namespace) -> None:
    """Train a model as the arguments say."""
    from mmbiformer.reliable.launch import leave_process_group
    from mmbiformer.reliable.runner import build_runner

    build_runner(make_config(args)).train()
    leave_process_group()


def main() -> None:
    args = parse_args()
    from torch.distributed.elastic.multiprocessing.errors import record

    from mmbiformer.checkpoints.strict import strict_loading
    from mmbiformer.reliable.launch import ErrorRecord
    from mmbiformer.utils.command_line import command_line

    with command_line('train.py'), strict_loading():
        record(train, ErrorRecord('train.py'))(args)


if __name__ == '__main__':
    main()
