"""Test (and evaluate) a detector, segmentor or classifier."""

import argparse
import signal

from arguments import (
    add_config_arguments,
    add_run_arguments,
    add_runtime,
    is_exported,
)

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
        'checkpoint',
        nargs='?',
        help='checkpoint file; none if config is a file of '
        'tools/deployment/export.py',
    )
    add_runtime(parser)
    parser.add_argument(
        '--out',
        help='segmentation: save the predicted label maps in this directory; '
        'else dump the predictions to this pickle file',
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
    args = parser.parse_args()
    exported = is_exported(args.config)
    if exported == (args.checkpoint is not None):
        parser.error(
            'a config needs a checkpoint, and an exported file takes none; '
            f'got config={args.config!r}, checkpoint={args.checkpoint!r}'
        )
    if exported and args.tta or args.runtime and not exported:
        parser.error(
            '--tta is for checkpoints, and --runtime for exported files; got '
            f'config={args.config!r}'
        )
    return args


def make_config(args: argparse.Namespace) -> Config:
    """Return the config of the run, once all that it needs is there."""
    from mmbiformer.datacheck.checks import check_classes, check_data
    from mmbiformer.deployment.models import config_of
    from mmbiformer.reliable.launch import init_cpu_process_group
    from mmbiformer.reliable.resume import check_work_dir
    from mmbiformer.utils.config import load_config, set_up_run
    from mmbiformer.utils.files import check_checkpoint
    from mmbiformer.utils.predictions import (
        enable_drawing,
        enable_tta,
        keep_predictions,
    )

    place = args.work_dir, args.launcher, args.local_rank
    if args.checkpoint is None:
        cfg = config_of(args.config, args.runtime, args.cfg_options)
        set_up_run(cfg, args.config, *place)
    else:
        cfg = load_config(args.config, args.cfg_options, *place)
        check_checkpoint(args.checkpoint)
        cfg.load_from = args.checkpoint
    check_data(cfg, ['test_dataloader'])
    check_classes(cfg, ['test_dataloader'])
    if args.show or args.show_dir:
        enable_drawing(cfg, args.show, args.show_dir, args.wait_time)
    if args.tta:
        enable_tta(cfg)
    if args.out is not None:
        keep_predictions(cfg, args.out)
    check_work_dir(cfg, training=False)
    init_cpu_process_group(cfg.launcher)
    return cfg


def test(args: argparse.Namespace) -> None:
    """Test a model as the arguments say."""
    from mmbiformer.reliable.launch import leave_process_group
    from mmbiformer.reliable.runner import build_runner

    build_runner(make_config(args)).test()
    leave_process_group()


def main() -> None:
    args = parse_args()
    from torch.distributed.elastic.multiprocessing.errors import record

    from mmbiformer.checkpoints.strict import strict_loading
    from mmbiformer.reliable.launch import ErrorRecord
    from mmbiformer.utils.command_line import command_line

    with command_line('test.py'), strict_loading():
        record(test, ErrorRecord('test.py'))(args)


if __name__ == '__main__':
    main()
