"""Count parameters and FLOPs (multiply-adds) of a model."""

import argparse
import signal
from typing import Tuple

from mmbiformer_threads import limit_threads

if __name__ == '__main__':
    # Ctrl-C during the imports ends the tool without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    limit_threads()

from mmbiformer.models import BiFormer
from mmbiformer.models.flops import (
    count_backbone,
    count_classifier_head,
    count_model,
    format_parts,
)
from mmbiformer.utils.arguments import add_cfg_options
from mmbiformer.utils.command_line import command_line
from mmbiformer.utils.config import build_model, read_config
from mmbiformer.utils.synthetic import random_batch

# The image sizes that papers report FLOPs for.
SHAPES = {
    'mmdet': (800, 1280),
    'mmseg': (512, 2048),
    'mmpretrain': (224, 224),
    'arch': (224, 224),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'config',
        nargs='?',
        help='config file, or a name such as mmdet::PATH; of ours, '
        'MMDetection, MMSegmentation or MMPretrain',
    )
    parser.add_argument(
        '--arch',
        choices=list(BiFormer.arch_zoo),
        help='instead of a config: backbone to count, for classification '
        'and dense prediction',
    )
    parser.add_argument(
        '--n-win',
        type=int,
        default=7,
        help='number of regions per side, with --arch (default: 7)',
    )
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        metavar='SIDE',
        help='height and width of the image, or one number for both '
        '(default: 800 1280 for detection, 512 2048 for segmentation, '
        '224 224 for classification and with --arch)',
    )
    add_cfg_options(parser)
    args = parser.parse_args()
    if (args.config is None) == (args.arch is None):
        parser.error('either a config or --arch is required')
    if args.arch and args.cfg_options:
        parser.error('--cfg-options requires a config')
    if args.shape and (len(args.shape) > 2 or min(args.shape) < 32):
        parser.error(
            '--shape takes one or two numbers of at least 32, got '
            f'--shape {" ".join(map(str, args.shape))}'
        )
    return args


def shape_of(args: argparse.Namespace, kind: str) -> Tuple[int, int]:
    if not args.shape:
        return SHAPES[kind]
    return args.shape[0], args.shape[-1]


def report_arch(args: argparse.Namespace) -> None:
    """Print a backbone for classification and dense prediction."""
    shape = shape_of(args, 'arch')
    backbone = BiFormer(args.arch, args.n_win)
    *stages, norms = count_backbone(backbone, shape)
    dim = backbone.arch_zoo[args.arch]['dims'][-1]
    head = count_classifier_head(dim, shape)
    print(f'BiFormer {args.arch}, n_win {args.n_win}, image {shape}\n')
    print(format_parts([*stages, head], 'for classification'))
    print()
    print(format_parts([*stages, norms], 'for dense prediction'))


def report_config(args: argparse.Namespace) -> None:
    """Print the parts of a model and the stages of its backbone."""
    cfg = read_config(args.config, args.cfg_options)
    scope = cfg.default_scope
    shape = shape_of(args, scope)
    model = build_model(cfg)
    images, samples = random_batch(model, scope, shape)
    parts, stages = count_model(model, images, samples)
    padded = tuple(images.shape[2:])
    note = '' if padded == shape else f', padded by the model to {padded}'
    print(f'{args.config}, image {shape}{note}\n')
    print(format_parts(parts, 'model'))
    if stages:
        print()
        print(format_parts(stages, 'backbone'))


def main() -> None:
    args = parse_args()
    with command_line('get_flops.py'):
        report_arch(args) if args.arch else report_config(args)
    print('\nFLOPs are multiply-adds, as counted in the paper and mmengine.')


if __name__ == '__main__':
    main()
