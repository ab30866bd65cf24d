"""Convert CVAT's XML for images to an annotation file in COCO format.

The file is what CVAT exports as "CVAT for images 1.1". Boxes, ellipses,
polygons and masks are converted; points, polylines and tags are skipped.
"""

import argparse
import math
import signal
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import Tuple

from mmbiformer_threads import limit_threads

if __name__ == '__main__':
    # Ctrl-C during the imports ends the tool without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    limit_threads()

import numpy as np

from mmbiformer.datacheck.conversion import (
    CocoWriter,
    add_arguments,
    convert_each,
    image_size,
    read_classes,
)
from mmbiformer.utils.command_line import command_line
from mmbiformer.utils.errors import DataError, MissingFileError

ELLIPSE_CORNERS = 32
"""int: Number of corners of the polygon that stands for an ellipse."""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('images', type=Path, help='folder of the images')
    parser.add_argument('xml', type=Path, help='the annotations.xml of CVAT')
    add_arguments(parser)
    return parser.parse_args()


def rotate(points: np.ndarray, degrees: float) -> np.ndarray:
    """Rotate points of shape (N, 2) clockwise around their center."""
    center = (points.min(0) + points.max(0)) / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (points - center) @ np.array([[cos, sin], [-sin, cos]]) + center


def read_shape(shape: ET.Element, size: Tuple[int, int]) -> dict:
    """Return box, polygons and masks of a shape."""
    values = shape.attrib
    angle = float(values.get('rotation', 0))
    if shape.tag == 'box':
        box = [float(values[key]) for key in ('xtl', 'ytl', 'xbr', 'ybr')]
        if not angle:
            return dict(box=box)
        left, top, right, bottom = box
        points = np.array(
            [(left, top), (right, top), (right, bottom), (left, bottom)]
        )
    elif shape.tag == 'ellipse':
        x, y, rx, ry = (float(values[key]) for key in ('cx', 'cy', 'rx', 'ry'))
        angles = np.arange(ELLIPSE_CORNERS) * 2 * np.pi / ELLIPSE_CORNERS
        points = np.stack(
            [x + rx * np.cos(angles), y + ry * np.sin(angles)], 1
        )
    elif shape.tag == 'polygon':
        points = np.array(
            [point.split(',') for point in values['points'].split(';')], float
        )
        if points.shape[1:] != (2,) or len(points) < 3:
            raise ValueError(f'a polygon of {len(points)} points')
    else:
        left, top, width, height = (
            int(float(values[key]))
            for key in ('left', 'top', 'width', 'height')
        )
        runs = [int(run) for run in values['rle'].split(',')]
        pixels = np.repeat(np.arange(len(runs)) % 2, runs).astype(np.uint8)
        mask = np.zeros(size, np.uint8)
        area = mask[top : top + height, left : left + width]
        if min(left, top) < 0 or area.shape != (height, width):
            raise ValueError('a mask outside of the image')
        area[:] = pixels.reshape(height, width)
        return dict(masks=[mask])
    return dict(polygons=[rotate(points, angle).ravel().tolist()])


def convert(args: argparse.Namespace) -> None:
    """Convert the file."""
    if not args.xml.is_file():
        raise MissingFileError(f'XML={str(args.xml)!r} is not a file')
    try:
        root = ET.parse(args.xml).getroot()
    except ET.ParseError as error:
        raise DataError(f'{args.xml} cannot be read: {error}') from error
    images = root.findall('image')
    if root.tag != 'annotations' or not images:
        raise DataError(
            f'{args.xml} has no images; export "CVAT for images 1.1"'
        )
    classes = read_classes(args.classes) if args.classes else None
    if classes is None:
        # CVAT writes the labels of the task or project in their order.
        names = [label.findtext('name') for label in root.iter('label')]
        classes = list(dict.fromkeys(name for name in names if name)) or None
    writer = CocoWriter(args.out, classes)
    skipped = Counter()

    def convert_image(image: ET.Element) -> None:
        name = image.get('name') or ''
        if not name or not (args.images / name).is_file():
            raise MissingFileError(
                f'{args.xml}, image {image.get("id")}: there is no image '
                f'{args.images / name}'
            )
        size = image_size(args.images / name)
        annotated = image.get('height'), image.get('width')
        if annotated != tuple(map(str, size)):
            raise DataError(
                f'{args.xml}, {name}: the image is {size[1]} x {size[0]} px '
                f'as loaded, and was annotated as {annotated[1]} x '
                f'{annotated[0]} px'
            )
        writer.add_image(name, *size)
        for number, shape in enumerate(image, 1):
            where = f'{args.xml}, {name}, {shape.tag} {number}'
            if shape.tag not in ('box', 'ellipse', 'polygon', 'mask'):
                skipped[shape.tag] += 1
                continue
            try:
                label, parts = shape.attrib['label'], read_shape(shape, size)
            except KeyError as error:
                raise DataError(f'{where} has no {error}') from error
            except ValueError as error:
                raise DataError(f'{where} cannot be read: {error}') from error
            writer.add_object(label, where, **parts)

    convert_each(convert_image, images)
    writer.write()
    for tag, amount in skipped.items():
        print(f'{amount:,} elements <{tag}> were skipped')


def main() -> None:
    args = parse_args()
    with command_line('cvat2coco.py'):
        convert(args)


if __name__ == '__main__':
    main()
