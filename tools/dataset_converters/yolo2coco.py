"""Convert YOLO text files to an annotation file in COCO format.

Each image has a text file of the same name, with a line for each object:

    class x_center y_center width height        a box
    class x1 y1 x2 y2 x3 y3 ...                 a polygon

All coordinates are relative to the size of the image, from 0 to 1. Images
without a text file, or with an empty one, have no objects.
"""

import argparse
import math
import signal
from pathlib import Path

from mmbiformer_threads import limit_threads

if __name__ == '__main__':
    # Ctrl-C during the imports ends the tool without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    limit_threads()

from mmbiformer.datacheck.conversion import (
    CocoWriter,
    add_arguments,
    convert_each,
    find_files,
    find_images,
    image_size,
    read_classes,
)
from mmbiformer.utils.command_line import command_line
from mmbiformer.utils.errors import ConfigError, DataError

TOLERANCE = 1e-3
"""float: How far a coordinate may lie outside of 0 to 1, from rounding."""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('images', type=Path, help='folder of the images')
    parser.add_argument('labels', type=Path, help='folder of the text files')
    add_arguments(parser)
    return parser.parse_args()


def read_line(line: str, where: str, classes: list) -> tuple:
    """Return the class of an object, and its coordinates from 0 to 1."""
    try:
        number, *values = map(float, line.split())
    except ValueError as error:
        raise DataError(f'{where}: {line!r} has other than numbers') from error
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise DataError(
            f'{where}: a box has 4 numbers after the class, a polygon 6 or '
            f'more, in pairs; got {len(values)}'
        )
    if number not in range(len(classes)):
        raise DataError(
            f'{where}: the class {number:g} is none of 0 to '
            f'{len(classes) - 1}, the {len(classes)} classes'
        )
    if not all(
        math.isfinite(one) and -TOLERANCE <= one <= 1 + TOLERANCE
        for one in values
    ):
        raise DataError(
            f'{where}: coordinates must lie between 0 and 1, got {line!r}'
        )
    return classes[int(number)], values


def convert(args: argparse.Namespace) -> None:
    """Convert all files."""
    if args.classes is None:
        raise ConfigError(
            '--classes is needed: the text files have numbers, not names'
        )
    classes = read_classes(args.classes)
    writer = CocoWriter(args.out, classes)
    images = find_images(args.images)
    texts = {
        path.relative_to(args.labels).with_suffix('')
        for path in find_files(args.labels, ('.txt',), 'LABELS')
    }
    names = {path.relative_to(args.images).with_suffix('') for path in images}
    if not texts & names:
        raise DataError(
            f'no text file in LABELS={str(args.labels)!r} has the name of an '
            f'image in IMAGES={str(args.images)!r}, such as '
            f'{images[0].relative_to(args.images).with_suffix(".txt")}'
        )

    def convert_image(path: Path) -> None:
        name = path.relative_to(args.images)
        height, width = image_size(path)
        writer.add_image(name.as_posix(), height, width)
        text = args.labels / name.with_suffix('.txt')
        if not text.is_file():
            return
        try:
            lines = text.read_text(encoding='utf-8').splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f'{text} is not text in UTF-8: {error}') from error
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f'{text}, line {number}'
            class_name, values = read_line(line, where, classes)
            if len(values) == 4:
                x, y, w, h = values
                values = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
            pixels = [
                min(max(value, 0), 1) * (height if index % 2 else width)
                for index, value in enumerate(values)
            ]
            if len(values) == 4:
                writer.add_object(class_name, where, pixels)
            else:
                writer.add_object(class_name, where, polygons=[pixels])

    convert_each(convert_image, images)
    writer.write()
    if texts - names:
        print(f'{len(texts - names):,} text files have no image')


def main() -> None:
    args = parse_args()
    with command_line('yolo2coco.py'):
        convert(args)


if __name__ == '__main__':
    main()
