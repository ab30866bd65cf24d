"""Predict images and videos, and write pictures and predictions.

    infer.py IMAGE_OR_FOLDER_OR_PATTERN_OR_VIDEO ... CONFIG CHECKPOINT
    infer.py IMAGE_OR_FOLDER_OR_PATTERN_OR_VIDEO ... EXPORTED.onnx

Exit status: 0 if all was predicted, 1 if anything was skipped or nothing
could start, 130 after Ctrl-C.
"""

import argparse
import signal

from arguments import add_cfg_options, add_runtime, is_exported

from mmbiformer_threads import limit_threads

if __name__ == '__main__':
    # Ctrl-C during the imports ends the tool without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    limit_threads()

import json
import sys
from pathlib import Path

CONFIGS = ('.py', '.yml', '.yaml', '.json')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'images',
        nargs='+',
        help='image or video file, folder of them, or pattern such as '
        '"photos/**/*.jpg", in quotes',
    )
    parser.add_argument('config', nargs='?', help='config file path')
    parser.add_argument(
        'checkpoint',
        help='checkpoint file, or in place of both a file of '
        'tools/deployment/export.py',
    )
    parser.add_argument(
        '--out-dir',
        type=Path,
        default=Path('outputs'),
        metavar='OUT',
        help='folder for pictures, predictions and predictions.json '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--pred-score-thr',
        type=float,
        default=0.3,
        metavar='SCORE',
        help='detection: draw instances from this score on; the predictions '
        'have all (default: %(default)s)',
    )
    parser.add_argument(
        '--batch-size',
        type=int,
        default=1,
        metavar='N',
        help='images of one size that go through the model together '
        '(default: %(default)s)',
    )
    parser.add_argument('--device', help='(default: a GPU if there is one)')
    parser.add_argument(
        '--no-save-vis', action='store_true', help='write no pictures'
    )
    parser.add_argument(
        '--no-save-pred', action='store_true', help='write no predictions'
    )
    parser.add_argument(
        '--force',
        action='store_true',
        help='write into OUT even if it holds results; of these, files of '
        'other names stay',
    )
    add_runtime(parser)
    add_cfg_options(parser)
    # Options may stand between the images and the config.
    args = parser.parse_intermixed_args()
    exported = is_exported(args.checkpoint)
    if args.config is None and not exported:
        # argparse gives the images all that it can.
        if len(args.images) < 2:
            parser.error('the images are followed by config and checkpoint')
        args.config = args.images.pop()
    if exported:
        if args.config is not None:
            args.images.append(args.config)
            args.config = None
        configs = [path for path in args.images if path.endswith(CONFIGS)]
        if configs:
            parser.error(
                'an exported file takes the place of config and checkpoint, '
                f'got config={configs[-1]!r}, checkpoint={args.checkpoint!r}'
            )
    elif args.runtime:
        parser.error(
            '--runtime is for exported files, got '
            f'checkpoint={args.checkpoint!r}'
        )
    elif not args.config.endswith(CONFIGS):
        parser.error(
            'the images are followed by config and checkpoint, got '
            f'config={args.config!r}, checkpoint={args.checkpoint!r}'
        )
    if args.no_save_vis and args.no_save_pred:
        parser.error('--no-save-vis and --no-save-pred leave nothing to do')
    if not 0 <= args.pred_score_thr <= 1:
        parser.error(
            '--pred-score-thr must be between 0 and 1, got '
            f'--pred-score-thr={args.pred_score_thr}'
        )
    if args.batch_size < 1:
        parser.error(
            '--batch-size must be at least 1, got '
            f'--batch-size={args.batch_size}'
        )
    return args


def run(args: argparse.Namespace) -> int:
    """Predict what the arguments ask for; return the exit status."""
    from mmengine.device import get_device

    from mmbiformer.deployment.inference import build_exported_inferencer
    from mmbiformer.deployment.models import config_of
    from mmbiformer.inference.inferencer import build_inferencer
    from mmbiformer.inference.media import find_files
    from mmbiformer.inference.results import (
        INDEX,
        FileInferencer,
        check_out_dir,
    )
    from mmbiformer.utils.config import read_config, task_of
    from mmbiformer.utils.errors import MissingFileError, OutputError
    from mmbiformer.utils.files import atomic_write

    paths, skipped = find_files(args.images)
    if not paths:
        reasons = [f'{path!r} {reason}' for path, reason in skipped.items()]
        raise MissingFileError('; '.join(reasons))
    check_out_dir(args.out_dir, args.force, paths)
    if args.config is None:
        cfg = config_of(args.checkpoint, args.runtime, args.cfg_options)
        inferencer = build_exported_inferencer(cfg)
    else:
        cfg = read_config(args.config, args.cfg_options)
        inferencer = build_inferencer(
            cfg, args.checkpoint, args.device or get_device()
        )
    files = FileInferencer(
        inferencer,
        args.out_dir,
        save_vis=not args.no_save_vis,
        save_pred=not args.no_save_pred,
        pred_score_thr=args.pred_score_thr,
    )
    for path, reason in skipped.items():
        files.skip(path, reason)
    complete = False
    try:
        args.out_dir.mkdir(parents=True, exist_ok=True)
        try:
            files.run(paths, args.batch_size)
            complete = True
        finally:
            index = dict(
                task=task_of(cfg),
                config=args.config,
                checkpoint=args.checkpoint,
                classes=inferencer.model.dataset_meta['classes'],
                complete=complete,
                images=files.images,
                skipped=files.skipped,
            )
            with atomic_write(args.out_dir / INDEX) as hidden:
                hidden.write_text(json.dumps(index, indent=2) + '\n')
    except OSError as error:
        raise OutputError(
            f'--out-dir={str(args.out_dir)!r} cannot be written to: {error}'
        ) from error
    if not files.images:
        print(files.traceback, end='', file=sys.stderr)
    count = sum(entry.get('frames', 1) for entry in files.images)
    print(f'predicted   {count} images, skipped {len(files.skipped)}')
    for name in (*files.folders.values(), INDEX):
        if (args.out_dir / name).exists():
            print(f'written     {args.out_dir / name}')
    return 1 if files.skipped else 0


def main() -> None:
    args = parse_args()
    from mmbiformer.utils.command_line import command_line

    with command_line('infer.py'):
        status = run(args)
    sys.exit(status)


if __name__ == '__main__':
    main()
