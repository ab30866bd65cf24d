"""Export a model to a file that runs without PyTorch.

    export.py CONFIG CHECKPOINT OUT.onnx

The file takes images as mmcv reads them, from 0 to 255 and resized by the
test pipeline, and computes the rest: normalization, network, boxes after NMS,
masks of 28 x 28, logits of the images' size, probabilities of classes. It is
compared with the model's own predictions before it gets its name; if it
differs, the exit status is 1 and there is no file.
"""

import argparse
import signal
from pathlib import Path
from typing import Tuple

from mmbiformer_threads import limit_threads

if __name__ == '__main__':
    # Ctrl-C during the imports ends the tool without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    limit_threads()

from mmbiformer.deployment.export import Options, export
from mmbiformer.deployment.quantization import MODES
from mmbiformer.deployment.rewrites import ATTENTIONS
from mmbiformer.deployment.table import format_table, unproven
from mmbiformer.deployment.tracing import DEFAULT_OPSET, OPSETS, Sizes
from mmbiformer.deployment.triton_server import check_repository, write_model
from mmbiformer.inference.media import find_files
from mmbiformer.utils.arguments import add_cfg_options
from mmbiformer.utils.command_line import command_line
from mmbiformer.utils.config import read_config
from mmbiformer.utils.errors import ConfigError, MissingFileError
from mmbiformer.utils.files import check_output


def parse_shape(text: str) -> Tuple[int, int]:
    sides = text.lower().replace('×', 'x').split('x')
    if len(sides) != 2 or not all(side.isdecimal() for side in sides):
        raise argparse.ArgumentTypeError(
            f'an image size must be HEIGHTxWIDTH, got {text!r}'
        )
    return int(sides[0]), int(sides[1])


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='config file path')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        'out', type=Path, help='new file: .onnx, or .pt2 for torch.export'
    )
    shapes = parser.add_mutually_exclusive_group()
    shapes.add_argument(
        '--shape',
        type=parse_shape,
        metavar='HxW',
        help='fix the height and width of the images, in pixels',
    )
    shapes.add_argument(
        '--dynamic',
        action='store_true',
        help='take images of any size (the default)',
    )
    parser.add_argument(
        '--batch', type=int, metavar='N', help='fix the number of images'
    )
    parser.add_argument(
        '--opset',
        type=int,
        default=DEFAULT_OPSET,
        choices=OPSETS,
        help='version of the operators of ONNX (default: %(default)s)',
    )
    parser.add_argument(
        '--attention',
        choices=ATTENTIONS,
        default=ATTENTIONS[0],
        help="blocks by standard operators, or by ours for onnxruntime's "
        'CPU (default: %(default)s)',
    )
    parser.add_argument(
        '--backbone', action='store_true', help='export the backbone only'
    )
    parser.add_argument(
        '--routing',
        action='store_true',
        help='also write the routed regions and affinities of each layer',
    )
    parser.add_argument(
        '--verify',
        nargs='+',
        default=[],
        metavar='IMAGE',
        help='images to compare on, beside drawn ones',
    )
    parser.add_argument(
        '--int8',
        choices=MODES,
        help='write weights of 8 bits, and with static also values, whose '
        'ranges are taken from the images of --calib',
    )
    parser.add_argument(
        '--calib',
        metavar='FOLDER',
        help='folder of images for --int8, which is compared on them',
    )
    parser.add_argument(
        '--triton',
        type=Path,
        metavar='REPOSITORY',
        help="also write a model of Triton Inference Server's repository",
    )
    parser.add_argument(
        '--force', action='store_true', help='overwrite an existing file'
    )
    add_cfg_options(parser)
    return parser.parse_args()


def run(args: argparse.Namespace) -> None:
    check_output(args.out, 'out', args.force, ('.onnx', '.pt2'))
    if args.batch is not None and args.batch < 1:
        raise ConfigError(f'--batch must be at least 1, got {args.batch}')
    sizes = Sizes(args.batch, *(args.shape or (None, None)))
    if args.calib is not None and args.int8 is None:
        raise ConfigError('--calib is for --int8')
    if args.triton is not None:
        if args.out.suffix != '.onnx':
            raise ConfigError('--triton is for .onnx files')
        if args.attention != 'portable':
            raise ConfigError(
                'the server does not have our operators: --triton needs '
                f'--attention portable, got --attention {args.attention}'
            )
        check_repository(args.triton, args.out.stem, args.force)
    calibration, _ = find_files([args.calib]) if args.calib else ([], {})
    if args.calib is not None and not calibration:
        raise MissingFileError(f'--calib {args.calib!r} has no images')
    options = Options(
        sizes,
        args.opset,
        args.attention,
        args.backbone,
        args.verify,
        args.int8,
        calibration,
        args.routing,
    )
    cfg = read_config(args.config, args.cfg_options)
    report = export(cfg, args.checkpoint, args.out, options)
    print(format_table(report.rows))
    if unproven(report.rows):
        print(f'note        {unproven(report.rows)}')
    if report.loss is not None:
        print(report.loss.describe())
    size = args.out.stat().st_size / 2**20
    print(f'written     {args.out} ({size:.1f} MiB)')
    if args.triton is not None:
        folder = write_model(args.triton, args.out, report.metadata)
        print(f'written     {folder}')


def main() -> None:
    args = parse_args()
    with command_line('export.py'):
        run(args)


if __name__ == '__main__':
    main()
