"""Predict images and videos, draw the predictions, and keep them.

    infer.py IMAGE_OR_FOLDER_OR_PATTERN_OR_VIDEO ... CONFIG CHECKPOINT

Exit status: 0 if all was predicted, 1 if anything was skipped or nothing
could start, 130 after Ctrl-C.
"""

import argparse
import sys
from pathlib import Path

from mmengine.config import DictAction


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # The package takes seconds to import, and is only once this is right.
    parser.add_argument(
        'images',
        nargs='+',
        help='image or video file, folder of them, or pattern such as '
        '"photos/**/*.jpg", in quotes',
    )
    parser.add_argument('config', help='config file path')
    parser.add_argument('checkpoint', help='checkpoint file')
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
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override settings of the config',
    )
    # Options may stand between the images and the config.
    args = parser.parse_intermixed_args()
    if not args.config.endswith(('.py', '.yml', '.yaml', '.json')):
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
    from mmengine.utils import ProgressBar

    from mmbiformer.inference.inferencer import build_inferencer, infer
    from mmbiformer.inference.media import (
        Problem,
        count_images,
        find_media,
        name_results,
        read_media,
    )
    from mmbiformer.inference.prediction_files import (
        INDEX,
        PICTURES,
        PREDICTIONS,
        PredictionFolder,
        check_folder,
    )
    from mmbiformer.utils.config import read_config, task_of

    def report(problem: Problem) -> None:
        print(
            f'infer.py: skipped: {problem.source!r} {problem.reason}',
            file=sys.stderr,
            flush=True,
        )

    paths, problems = find_media(args.images)
    for problem in problems:
        report(problem)
    if not paths:
        raise ValueError(f'no image or video is in {args.images}')
    check_folder(args.out_dir, args.force, paths)
    cfg = read_config(args.config, args.cfg_options)
    inferencer = build_inferencer(
        cfg, args.checkpoint, args.device or get_device()
    )
    folder = PredictionFolder(
        args.out_dir, not args.no_save_vis, not args.no_save_pred
    )
    folder.problems.extend(problems)

    bar = ProgressBar(count_images(paths))
    complete = False
    try:
        images = read_media(paths, name_results(paths))
        for outcome in infer(
            inferencer, images, folder, args.batch_size, args.pred_score_thr
        ):
            if isinstance(outcome, Problem):
                print(flush=True)
                report(outcome)
            bar.update()
        complete = True
    except KeyboardInterrupt:
        print('\ninterrupted: what follows was done, and is whole', end='')
    finally:
        folder.write_index(
            task=task_of(cfg),
            config=args.config,
            checkpoint=args.checkpoint,
            classes=inferencer.model.dataset_meta['classes'],
            complete=complete,
        )
    print(
        f'\npredicted   {folder.images} images, skipped {len(folder.problems)}'
    )
    if folder.pictures and folder.images:
        print(f'pictures    {args.out_dir / PICTURES}')
    if folder.predictions and folder.images:
        print(f'predictions {args.out_dir / PREDICTIONS}')
    if folder.predictions:
        print(f'index       {args.out_dir / INDEX}')
    if not complete:
        return 130
    return 1 if folder.problems else 0


def main() -> None:
    args = parse_args()
    from mmbiformer.utils.command_line import command_line

    with command_line('infer.py'):
        status = run(args)
    sys.exit(status)


if __name__ == '__main__':
    main()
