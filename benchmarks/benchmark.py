"""Compare the speed and memory of models.

Every model runs in its own process, and the processes take turns. Weights and
images are random, so neither checkpoints nor data are needed.

Backbones, with the paper's n_win for each image size:
  benchmark.py --backbones biformer-small biformer-small:reference swin-tiny
Whole models (all networks, without pre- and post-processing):
  benchmark.py --configs configs/detection/maskrcnn_biformer.py
    mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py --shapes 800x1333
"""

import argparse
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import List, Tuple

if __name__ == '__main__':
    # Ctrl-C during the imports ends the tool without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import torch
from measure import BACKBONES, Candidate, Result, Setting, compare, paper_n_win
from report import header, plot, result_row, to_json, to_markdown

from mmbiformer.ops import ATTENTION_BACKENDS
from mmbiformer.utils.arguments import add_cfg_options
from mmbiformer.utils.command_line import command_line
from mmbiformer.utils.errors import ConfigError
from mmbiformer.utils.files import check_output, check_writable

WRITERS = {'.json': to_json, '.md': to_markdown}
SMALLEST_SIDE = 32


def parse_shape(text: str) -> Tuple[int, int]:
    sides = text.lower().replace('×', 'x').split('x')
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise argparse.ArgumentTypeError(
            f'an image size must be SIDE or HEIGHTxWIDTH, got {text!r}'
        )
    shape = int(sides[0]), int(sides[-1])
    if min(shape) < SMALLEST_SIDE:
        raise argparse.ArgumentTypeError(
            f'image sides must be at least {SMALLEST_SIDE}, got {text!r}'
        )
    return shape


def parse_positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f'must be an integer of at least 1, got {text!r}'
        )
    return int(text)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    models = parser.add_mutually_exclusive_group(required=True)
    models.add_argument(
        '--backbones',
        nargs='+',
        metavar='NAME[:BACKEND]',
        help=f'any of {", ".join(BACKBONES)}; for BiFormer, BACKEND is the '
        f'attention backend, one of {", ".join(ATTENTION_BACKENDS)}',
    )
    models.add_argument(
        '--configs',
        nargs='+',
        metavar='CONFIG',
        help='config files, or names such as mmdet::PATH; of ours, '
        'MMDetection, MMSegmentation or MMPretrain; or files of '
        'tools/deployment/export.py, which include pre- and post-processing',
    )
    add_cfg_options(parser)
    parser.add_argument(
        '--shapes',
        nargs='+',
        type=parse_shape,
        default=[(224, 224), (512, 512), (800, 1333)],
        metavar='SIDE|HEIGHTxWIDTH',
        help='image sizes (default: 224 512 800x1333)',
    )
    parser.add_argument(
        '--n-win',
        nargs='+',
        type=parse_positive,
        metavar='N',
        help='number of regions per side for --backbones, one number or one '
        'per image size (default: 7 up to 224 pixels, 8 up to 512, else 16)',
    )
    parser.add_argument(
        '--batch-size',
        type=parse_positive,
        default=1,
        help='number of images in a batch (default: 1)',
    )
    parser.add_argument(
        '--train',
        action='store_true',
        help='measure forward and backward pass instead of inference',
    )
    parser.add_argument(
        '--amp',
        action='store_true',
        help='use mixed precision: float16 on GPUs, bfloat16 on CPUs',
    )
    parser.add_argument(
        '--device',
        choices=['cpu', 'cuda'],
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='device to run on (default: cuda if available)',
    )
    parser.add_argument(
        '--threads',
        type=parse_positive,
        default=torch.get_num_threads(),
        help="number of CPU threads (default: torch's, %(default)s)",
    )
    parser.add_argument(
        '--repeat',
        type=parse_positive,
        default=5,
        help='number of rounds, in each of which every model runs '
        '(default: 5)',
    )
    parser.add_argument(
        '--timeout',
        type=float,
        default=600,
        metavar='SECONDS',
        help='skip a model if one run takes longer (default: 600)',
    )
    parser.add_argument(
        '--out',
        nargs='+',
        type=Path,
        default=[],
        metavar='FILE',
        help='write the results to new files: .json or .md',
    )
    parser.add_argument(
        '--plot',
        type=Path,
        metavar='FILE.png',
        help='plot time and memory over image size to a new file',
    )
    return parser.parse_args()


def make_candidates(args: argparse.Namespace) -> List[Candidate]:
    """Check and return the models to compare."""
    if args.configs and args.n_win:
        raise ConfigError(
            '--n-win is for --backbones; to set it in a config, use '
            '--cfg-options model.backbone.n_win=N'
        )
    if args.backbones and args.cfg_options:
        raise ConfigError('--cfg-options are for --configs')
    if args.backbones:
        candidates = [Candidate(name) for name in args.backbones]
    else:
        candidates = [
            Candidate(name, True, args.cfg_options) for name in args.configs
        ]
    for candidate in candidates:
        if candidates.count(candidate) > 1:
            raise ConfigError(f'{candidate.name!r} is given twice')
        candidate.check()
    return candidates


def make_settings(args: argparse.Namespace) -> List[Setting]:
    """Return the settings to measure, one for each image size."""
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise ConfigError('--device cuda: torch finds no GPU')
    n_wins = args.n_win or list(map(paper_n_win, args.shapes))
    if len(n_wins) == 1:
        n_wins *= len(args.shapes)
    if len(n_wins) != len(args.shapes):
        raise ConfigError(
            '--n-win must be one number, or one for each of --shapes: got '
            f'{len(n_wins)} for {len(args.shapes)}'
        )
    return [
        Setting(
            shape, n_win, args.batch_size, args.train, args.amp,
            args.device, args.threads,
        )
        for shape, n_win in zip(args.shapes, n_wins, strict=True)
    ]  # fmt: skip


def prepare_outputs(args: argparse.Namespace) -> None:
    """Create the folders of new files; refuse files that exist."""
    files = [(path, '--out', tuple(WRITERS)) for path in args.out]
    if args.plot:
        files.append((args.plot, '--plot', ('.png',)))
    for path, argument, suffixes in files:
        check_writable(path.parent, argument)
        path.parent.mkdir(parents=True, exist_ok=True)
        check_output(path, argument, suffixes=suffixes)


def warn_if_busy() -> None:
    """Warn if the machine is busy, which can slow threads down tenfold."""
    load, cores = os.getloadavg()[0], os.cpu_count()
    if load > cores / 4:
        print(
            f'benchmark.py: warning: this machine is busy (load {load:.1f} '
            f'on {cores} cores), so the times are not reliable',
            file=sys.stderr,
        )


def write_report(
    args: argparse.Namespace, results: List[Result], setting: Setting
) -> None:
    """Write the results so far to the files."""
    command = shlex.join(['python', *sys.argv])
    for path in args.out:
        text = WRITERS[path.suffix](results, setting, args.repeat, command)
        path.write_text(text, encoding='utf-8')
    if args.plot and any(result.error is None for result in results):
        plot(results, setting, args.plot)


def run(args: argparse.Namespace) -> None:
    """Measure, print and write what the arguments ask for."""
    candidates = make_candidates(args)
    settings = make_settings(args)
    prepare_outputs(args)
    warn_if_busy()
    results = []
    print(' | '.join(header(args.train)), flush=True)
    for setting in settings:
        found = compare(candidates, setting, args.repeat, args.timeout)
        for result in found:
            print(' | '.join(result_row(result, args.train)), flush=True)
        results += found
        # After each size, so that an interrupted run leaves what it has.
        write_report(args, results, setting)
    command = shlex.join(['python', *sys.argv])
    print('\n' + to_markdown(results, settings[0], args.repeat, command))
    if all(result.error is not None for result in results):
        sys.exit('benchmark.py: error: no model could be measured, see above')


def main() -> None:
    args = parse_args()
    with command_line('benchmark.py'):
        run(args)


if __name__ == '__main__':
    main()
