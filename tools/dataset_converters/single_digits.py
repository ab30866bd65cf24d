"""Create a data set of single handwritten digits, with a folder per class.

The digits of scikit-learn are colored and placed as in the scenes of
digits.py, one in each image and as large as there:

    OUT/{train,val}/{0,...,9}/*.png
    OUT/settings.json

The digits of val are those of the last three of the fourteen forms that were
filled in for the data set. Train has digits of the other forms, and none of
those in the validation scenes of digits.py with the same seed. The same
settings give the same files.
"""

import argparse
import functools
import signal
from pathlib import Path

from mmbiformer_threads import limit_threads

if __name__ == '__main__':
    # Ctrl-C during the imports ends the tool without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    limit_threads()

import cv2
import numpy as np
from digits import (
    NUM_DIGITS,
    make_scene,
    read_digits,
    split_numbers,
    write_folder,
)
from mmengine.utils import track_iter_progress

from mmbiformer.utils.command_line import command_line
from mmbiformer.utils.errors import OutputError

VAL_FORMS_START = 1415
"""int: Number of the first digit of the last three forms.

The data set has the forms one after the other. Each begins with the digits
from 0 to 9, several times in this order.
"""
SIZE = 80
"""int: Side of an image in pixels."""
HEIGHT_RANGE = (0.4, 0.6)
"""tuple[float, float]: Height of a digit relative to the side of the image.

It is that of the scenes, 32 to 48 px.
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('out', type=Path, help='folder to create')
    parser.add_argument(
        '--views',
        type=int,
        default=3,
        metavar='N',
        help='number of images of each digit for training; one for '
        'validation (default: %(default)s)',
    )
    parser.add_argument(
        '--digits',
        type=int,
        default=NUM_DIGITS,
        metavar='N',
        help='number of digits to use, spread over all forms '
        '(default: all %(default)s)',
    )
    parser.add_argument(
        '--seed',
        type=int,
        default=0,
        help='random seed (default: %(default)s)',
    )
    args = parser.parse_args()
    if args.views < 1:
        parser.error(f'--views must be at least 1, got {args.views}')
    if not 100 <= args.digits <= NUM_DIGITS:
        parser.error(
            f'--digits must be from 100 to {NUM_DIGITS}, got {args.digits}'
        )
    if args.seed < 0:
        parser.error(f'--seed must be at least 0, got {args.seed}')
    return args


def choose_numbers(digits: int, seed: int) -> dict:
    """Return the numbers of the digits for train and val."""
    numbers = np.linspace(0, NUM_DIGITS - 1, digits).round().astype(int)
    in_scenes = split_numbers(seed)['val']
    train = numbers[numbers < VAL_FORMS_START]
    return dict(
        train=np.setdiff1d(train, in_scenes),
        val=numbers[numbers >= VAL_FORMS_START],
    )


def write_images(out: Path, args: argparse.Namespace) -> None:
    """Write both splits."""
    numbers = choose_numbers(args.digits, args.seed)
    for split, views in (('train', args.views), ('val', 1)):
        glyphs, labels = read_digits(numbers[split])
        print(f'{split}: {views} x {len(labels)} digits')
        for value in range(10):
            (out / split / str(value)).mkdir(parents=True)
        for index in track_iter_progress(range(len(labels))):
            one = slice(index, index + 1)
            for view in range(views):
                number = int(numbers[split][index])
                # One generator per image, so that images are independent.
                rng = np.random.default_rng([args.seed, 3, number, view])
                image, _ = make_scene(
                    glyphs[one], labels[one], SIZE, 1, rng, HEIGHT_RANGE
                )
                name = f'{split}/{labels[index]}/{number:04d}_{view}.png'
                if not cv2.imwrite(str(out / name), image):
                    raise OutputError(
                        f'OUT={str(out)!r}: {name} cannot be written; the '
                        'disk may be full'
                    )


def main() -> None:
    args = parse_args()
    settings = dict(views=args.views, digits=args.digits, seed=args.seed)
    with command_line('single_digits.py'):
        write_folder(
            args.out, settings, functools.partial(write_images, args=args)
        )


if __name__ == '__main__':
    main()
