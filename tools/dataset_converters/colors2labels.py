"""Convert label maps of colors to PNG files of class indices.

The table of colors is a text file with a line for each class, in the order
of the classes, such as the labelmap.txt of CVAT's "Segmentation mask 1.1":

    background:0,0,0
    leaf:60,160,60
    stem:120,80,30

Palette images are converted by their colors, too.
"""

import argparse
import signal
from collections import Counter
from pathlib import Path

from mmbiformer_threads import limit_threads

if __name__ == '__main__':
    # Ctrl-C during the imports ends the tool without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    limit_threads()

import numpy as np

from mmbiformer.datacheck.conversion import (
    atomic_folder,
    color_indices,
    convert_each,
    find_images,
    read_colors,
    write_label_map,
)
from mmbiformer.utils.command_line import command_line
from mmbiformer.utils.errors import ConfigError, DataError
from mmbiformer.utils.text import list_some

IGNORED = 255
"""int: The label that training and evaluation ignore."""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('colored', type=Path, help='folder of label maps')
    parser.add_argument('colors', type=Path, help='table of the colors')
    parser.add_argument('out', type=Path, help='folder to create')
    parser.add_argument(
        '--ignore',
        nargs='+',
        default=[],
        metavar='NAME',
        help=f'names of the table that are no class, written as {IGNORED}',
    )
    return parser.parse_args()


def convert(args: argparse.Namespace) -> None:
    """Convert all label maps."""
    colors = read_colors(args.colors)
    unknown = [name for name in args.ignore if name not in colors]
    if unknown:
        raise ConfigError(
            f'--ignore={unknown[0]!r} is not in {args.colors}: '
            f'{list_some(list(colors))}'
        )
    classes = [name for name in colors if name not in args.ignore]
    if not classes or len(classes) > IGNORED:
        raise DataError(
            f'{args.colors}: there must be 1 to {IGNORED} classes, got '
            f'{len(classes)}'
        )
    # The number of each color in the table, to the label.
    labels = np.array(
        [
            classes.index(name) if name in classes else IGNORED
            for name in colors
        ],
        np.uint8,
    )
    paths = find_images(args.colored, 'COLORED')
    names = [
        path.relative_to(args.colored).with_suffix('.png') for path in paths
    ]
    for name, amount in Counter(names).items():
        if amount > 1:
            raise DataError(f'{amount} label maps would be written as {name}')

    with atomic_folder(args.out) as scratch:

        def convert_map(task: tuple) -> None:
            path, name = task
            indices = color_indices(path, list(colors.values()))
            write_label_map(scratch / name, labels[indices])

        convert_each(convert_map, list(zip(paths, names, strict=True)))
    palette = [list(colors[name]) for name in classes]
    print(
        f'\n{args.out}: {len(paths):,} label maps\nmetainfo='
        f'{dict(classes=tuple(classes), palette=palette)}'
    )


def main() -> None:
    args = parse_args()
    with command_line('colors2labels.py'):
        convert(args)


if __name__ == '__main__':
    main()
