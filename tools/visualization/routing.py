"""Visualize the routed regions and the attention of points."""

import argparse
import contextlib
import logging
import os
import signal
import sys
from pathlib import Path
from typing import List, Tuple

from mmbiformer_threads import limit_threads

if __name__ == '__main__':
    # Ctrl-C during the imports ends the tool without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    limit_threads()

import cv2
import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import MMLogger
from torch import nn

from mmbiformer.inference.inferencer import check_device, load_weights, predict
from mmbiformer.utils.arguments import add_cfg_options
from mmbiformer.utils.command_line import command_line
from mmbiformer.utils.config import build_model, load_config
from mmbiformer.utils.errors import ConfigError, DataError, MissingFileError
from mmbiformer.utils.files import check_output
from mmbiformer.visualization import (
    PICTURE_SUFFIXES,
    ImageGeometry,
    default_points,
    draw_routing,
    draw_stages,
    find_layers,
    object_points,
    record_routing,
    resolve_layer,
    write_page,
)


def parse_point(text: str) -> Tuple[float, float]:
    """Parse a point on the command line."""
    try:
        x, y = map(float, text.split(','))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'a point must be X,Y in pixels, such as 120,80, got {text!r}'
        ) from None
    return x, y


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('image', help='image file path')
    parser.add_argument('config', help='config file path')
    parser.add_argument(
        '--checkpoint',
        help="checkpoint file of the config's model; without it, the weights "
        'are initialized as for training: random, or those of init_cfg',
    )
    stages = parser.add_mutually_exclusive_group()
    stages.add_argument(
        '--stage',
        type=int,
        default=3,
        help='stage, from 1 to 4 as in the paper (default: %(default)s)',
    )
    stages.add_argument(
        '--all-stages',
        action='store_true',
        help='draw all stages side by side',
    )
    parser.add_argument(
        '--block',
        type=int,
        default=-1,
        help='block of the stage, counted from 1, or backward from -1 '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--point',
        type=parse_point,
        nargs='+',
        metavar='X,Y',
        help='query points, in pixels of the image (default: points on the '
        'predicted objects or, without a checkpoint, on a diagonal)',
    )
    parser.add_argument(
        '--out',
        type=Path,
        metavar='FILE',
        help=f'file to write the picture to, {", ".join(PICTURE_SUFFIXES)} '
        '(default: routing.png, unless --html is given)',
    )
    parser.add_argument(
        '--html',
        type=Path,
        metavar='FILE.html',
        help='file to write an interactive page to, with the routing of '
        'every region in every layer',
    )
    parser.add_argument(
        '--device',
        default=get_device(),
        help='device to run on (default: %(default)s)',
    )
    add_cfg_options(parser)
    return parser.parse_args()


def read_image(path: str) -> np.ndarray:
    """Read an image in RGB."""
    if not os.path.isfile(path):
        raise MissingFileError(
            f'image={path!r} is not a file (looked for '
            f'{os.path.abspath(path)})'
        )
    try:
        image = mmcv.imread(path, channel_order='rgb')
    except cv2.error:  # of an empty file
        image = None
    if image is None:
        raise DataError(f'image={path!r} cannot be read as an image')
    return image


def warn_of_weights(cfg: Config) -> None:
    """Warn which weights are visualized without a checkpoint."""
    init_cfg = cfg.model.get('backbone', {}).get('init_cfg') or {}
    weights = 'all weights are random'
    if isinstance(init_cfg, dict) and 'checkpoint' in init_cfg:
        weights = (
            f'the weights of the backbone are those of its init_cfg, '
            f'{init_cfg.checkpoint}, all others are random'
        )
    print(
        f'routing.py: warning: without --checkpoint {weights}', file=sys.stderr
    )


def choose_layers(
    model: nn.Module, args: argparse.Namespace
) -> List[Tuple[int, int]]:
    """Return stage and block of the layers to visualize."""
    if not args.all_stages:
        return [resolve_layer(model, args.stage, args.block)]
    stages = sorted({stage for stage, _ in find_layers(model)})
    return [
        resolve_layer(model, stage, args.block, routed=False)
        for stage in stages
    ]


def run(args: argparse.Namespace) -> None:
    """Write the picture and the page."""
    image = read_image(args.image)
    if args.out is None and args.html is None:
        args.out = Path('routing.png')
    if args.out is not None:
        check_output(args.out, '--out', True, PICTURE_SUFFIXES)
        if args.out.exists() and args.out.samefile(args.image):
            raise ConfigError(
                f'--out={str(args.out)!r} would overwrite the image'
            )
    if args.html is not None:
        check_output(args.html, '--html', True, ('.html',))
    for point in args.point or []:
        ImageGeometry(image.shape[:2]).check_point(point)
    # mmengine logs the initialization of every single weight.
    MMLogger.get_current_instance().setLevel(logging.WARNING)
    cfg = load_config(args.config, args.cfg_options)
    if (cfg.model.get('test_cfg') or {}).get('mode') == 'slide':
        # Record a single forward pass, over the whole image.
        cfg.model.test_cfg.mode = 'whole'
    check_device(args.device)
    model = build_model(cfg).to(args.device)
    layers = choose_layers(model, args)
    load_weights(model, cfg, args.checkpoint)
    if args.checkpoint is None:
        warn_of_weights(cfg)

    with contextlib.ExitStack() as stack:
        records = stack.enter_context(
            record_routing(
                model, layers, keep_inputs=True, routed=not args.all_stages
            )
        )
        all_records = stack.enter_context(record_routing(model))
        prediction = predict(model, cfg, args.image)
    geometry = ImageGeometry.from_metainfo(prediction.metainfo)
    points = args.point
    if not points and args.checkpoint is not None:
        points = object_points(prediction)
    points = points or default_points(image.shape[:2], geometry.visible)

    if args.out is not None:
        if args.all_stages:
            records = list(records.values())
            figure = draw_stages(image, records, points, geometry)
        else:
            figure = draw_routing(image, records[layers[0]], points, geometry)
        figure.savefig(args.out)
        print(f'picture     {args.out}')
    if args.html is not None:
        write_page(
            args.html,
            image,
            list(all_records.values()),
            geometry,
            start=points[0],
            first=layers[-1] if layers[-1] in all_records else None,
            title=f'Routing in {os.path.basename(args.image)}',
        )
        print(f'page        {args.html}')


def main() -> None:
    args = parse_args()
    with command_line('routing.py'):
        run(args)


if __name__ == '__main__':
    main()
