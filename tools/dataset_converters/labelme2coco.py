"""Convert Labelme's JSON files to an annotation file in COCO format.

Polygons, rectangles, circles and masks are converted; shapes of one label
and group id in an image are parts of one object. Points and lines are
skipped, and so is the label __ignore__.
"""

import argparse
import base64
import binascii
import json
import math
import signal
from collections import Counter
from pathlib import Path, PureWindowsPath
from typing import Dict, List, Tuple

from mmbiformer_threads import limit_threads

if __name__ == '__main__':
    # Ctrl-C during the imports ends the tool without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    limit_threads()

import cv2
import numpy as np

from mmbiformer.datacheck.conversion import (
    CocoWriter,
    add_arguments,
    convert_each,
    find_files,
    image_size,
    read_classes,
)
from mmbiformer.utils.command_line import command_line
from mmbiformer.utils.errors import DataError, MissingFileError

CIRCLE_CORNERS = 32
"""int: Number of corners of the polygon that stands for a circle."""
WITHOUT_AREA = ('point', 'points', 'line', 'linestrip')
IGNORED = '__ignore__'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('images', type=Path, help='folder of the images')
    parser.add_argument(
        'labels', type=Path, help='folder of the JSON files, often the same'
    )
    add_arguments(parser)
    return parser.parse_args()


def read_shape(
    shape: dict, size: Tuple[int, int]
) -> Tuple[List[list], List[np.ndarray]]:
    """Return the polygons and the masks of a shape."""
    kind = shape.get('shape_type') or 'polygon'
    points = np.array(shape['points'], float).reshape(-1, 2)
    if kind == 'polygon':
        if len(points) < 3:
            raise ValueError(f'a polygon of {len(points)} points')
        return [points.ravel().tolist()], []
    if kind == 'rectangle':
        if len(points) != 2:
            raise ValueError(f'a rectangle of {len(points)} points')
        (left, top), (right, bottom) = points.min(0), points.max(0)
        corners = [left, top, right, top, right, bottom, left, bottom]
        return [list(map(float, corners))], []
    if kind == 'circle':
        center, edge = points
        radius = math.dist(center, edge)
        angles = np.arange(CIRCLE_CORNERS) * 2 * np.pi / CIRCLE_CORNERS
        steps = np.stack([np.cos(angles), np.sin(angles)], 1)
        return [(center + radius * steps).ravel().tolist()], []
    if kind == 'mask':
        content = np.frombuffer(base64.b64decode(shape['mask']), np.uint8)
        part = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE)
        if part is None:
            raise ValueError('a mask that is not a PNG')
        left, top = points.min(0).round().astype(int).tolist()
        mask = np.zeros(size, np.uint8)
        area = mask[top : top + part.shape[0], left : left + part.shape[1]]
        if left < 0 or top < 0 or area.shape != part.shape:
            raise ValueError('a mask outside of the image')
        area[:] = part > 0
        return [], [mask]
    raise ValueError(f'a shape of the type {kind!r}')


def convert_file(
    path: Path, args: argparse.Namespace, writer: CocoWriter, skipped: Counter
) -> None:
    """Convert the objects of an image."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        shapes, image = content['shapes'], content['imagePath']
        if not isinstance(shapes, list):
            raise TypeError(f'shapes={shapes!r} is not a list')
        annotated = content.get('imageHeight'), content.get('imageWidth')
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f'{path} is not a JSON file of Labelme '
            f'({type(error).__name__}: {error})'
        ) from error
    # The path may be of another machine; the name is what counts.
    folder = path.relative_to(args.labels).parent
    name = folder / PureWindowsPath(image).name
    if not (args.images / name).is_file():
        raise MissingFileError(
            f'{path}: there is no image {args.images / name}'
        )
    size = image_size(args.images / name)
    if None not in annotated and annotated != size:
        raise DataError(
            f'{path}: the image is {size[1]} x {size[0]} px as loaded, and '
            f'was annotated as {annotated[1]} x {annotated[0]} px'
        )
    writer.add_image(name.as_posix(), *size)
    objects: Dict[object, list] = {}
    for number, shape in enumerate(shapes, 1):
        where = f'{path}, shape {number}'
        try:
            label, group = shape['label'], shape.get('group_id')
            if label == IGNORED or shape.get('shape_type') in WITHOUT_AREA:
                skipped[shape.get('shape_type')] += 1
                continue
            parts = read_shape(shape, size)
        except KeyError as error:
            raise DataError(f'{where} has no {error}') from error
        except (TypeError, ValueError, binascii.Error) as error:
            raise DataError(f'{where} cannot be read: {error}') from error
        key = number if group is None else (label, group)
        _, _, polygons, masks = objects.setdefault(key, (label, where, [], []))
        polygons += parts[0]
        masks += parts[1]
    for label, where, polygons, masks in objects.values():
        writer.add_object(label, where, polygons=polygons, masks=masks)


def convert(args: argparse.Namespace) -> None:
    """Convert all files."""
    classes = read_classes(args.classes) if args.classes else None
    writer = CocoWriter(args.out, classes)
    paths = find_files(args.labels, ('.json',), 'LABELS')
    skipped = Counter()
    convert_each(lambda path: convert_file(path, args, writer, skipped), paths)
    writer.write()
    for kind, amount in skipped.items():
        print(f'{amount:,} shapes of the type {kind} were skipped')


def main() -> None:
    args = parse_args()
    with command_line('labelme2coco.py'):
        convert(args)


if __name__ == '__main__':
    main()
