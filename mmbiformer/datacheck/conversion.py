"""What the converters of annotations have in common."""

import argparse
import json
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import cv2
import numpy as np
import yaml
from mmengine.utils import track_progress
from PIL import Image
from pycocotools import mask as mask_utils

from mmbiformer.utils.errors import DataError, MissingFileError, OutputError
from mmbiformer.utils.files import atomic_write, check_output, check_writable
from mmbiformer.utils.text import list_some, one_line

from .label_maps import IMAGE_SUFFIXES

Polygon = List[float]
"""Coordinates x1, y1, x2, y2, …, in pixels."""


def find_files(
    folder: Path, suffixes: Sequence[str], argument: str
) -> List[Path]:
    """Find the files of a folder and its subfolders.

    Args:
        folder (Path): The folder.
        suffixes (Sequence[str]): Suffixes of the files, in lower case.
        argument (str): The argument that names the folder, for messages.

    Returns:
        list[Path]: The files, sorted.

    Raises:
        MissingFileError: If it is no folder, or has no such file.
    """
    if not folder.is_dir():
        raise MissingFileError(f'{argument}={str(folder)!r} is not a folder')
    found = sorted(
        path
        for path in folder.rglob('*')
        if path.suffix.lower() in suffixes and not path.name.startswith('.')
    )
    if not found:
        raise MissingFileError(
            f'{argument}={str(folder)!r} has no file that ends in '
            f'{" or ".join(suffixes)}'
        )
    return found


def find_images(folder: Path, argument: str = 'IMAGES') -> List[Path]:
    """Find the images of a folder and its subfolders.

    Args:
        folder (Path): The folder.
        argument (str): The argument that names it. Default: ``'IMAGES'``.

    Returns:
        list[Path]: The images, sorted.

    Raises:
        MissingFileError: If there is none.
    """
    return find_files(folder, IMAGE_SUFFIXES, argument)


def image_size(path: Path) -> Tuple[int, int]:
    """Return the size of an image as OpenCV loads it, without loading it.

    Args:
        path (Path): The image.

    Returns:
        tuple[int, int]: Height and width in pixels, after the EXIF
        orientation.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(274, 1) > 4
            width, height = image.size
    except OSError as error:
        raise DataError(
            f'{path}: the image cannot be read: {one_line(error)}'
        ) from error
    return (width, height) if turned else (height, width)


def read_classes(path: Path) -> List[str]:
    """Read the names of the classes, in their order.

    Args:
        path (Path): A text file with a name in each line, or the ``.yaml``
            file of a YOLO data set with ``names``.

    Returns:
        list[str]: The names.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If there is no name, or one twice.
    """
    if not path.is_file():
        raise MissingFileError(f'--classes={str(path)!r} is not a file')
    text = path.read_text(encoding='utf-8')
    if path.suffix in ('.yaml', '.yml'):
        try:
            names = (yaml.safe_load(text) or {}).get('names')
            if isinstance(names, dict):
                names = [names[index] for index in range(len(names))]
            names = list(map(str, names))
        except (AttributeError, KeyError, TypeError, yaml.YAMLError) as error:
            raise DataError(
                f'{path}: names must be a list of names, or a dict from 0 on'
            ) from error
    else:
        names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise DataError(f'{path}: there is no name of a class')
    for name in names:
        if names.count(name) > 1:
            raise DataError(f'{path}: the class {name!r} is there twice')
    return names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that all converters to COCO's format have.

    Args:
        parser (argparse.ArgumentParser): Parser of the tool.
    """
    parser.add_argument(
        'out', type=Path, help='annotation file to write, in COCO format'
    )
    parser.add_argument(
        '--classes',
        type=Path,
        metavar='FILE',
        help='names of the classes in their order, a line for each (or the '
        '.yaml file of a YOLO data set)',
    )


class CocoWriter:
    """Collects images and objects, and writes them in COCO's format.

    Args:
        out (Path): The annotation file; it must not exist.
        classes (Sequence[str], optional): Names of the classes. Default:
            None, which means those that are found, sorted by name.

    Raises:
        OutputError: If the file exists, or cannot be written.
    """

    def __init__(
        self, out: Path, classes: Optional[Sequence[str]] = None
    ) -> None:
        # Such as data/NAME/annotations, as the guides name it.
        with suppress(OSError):
            out.parent.mkdir(parents=True, exist_ok=True)
        check_output(out, 'OUT', suffixes=('.json',))
        self.out = out
        self.classes = classes
        self.images: List[dict] = []
        self.objects: List[Tuple[str, dict]] = []

    def add_image(self, name: str, height: int, width: int) -> None:
        """Add an image.

        Args:
            name (str): Its path from the folder of the images.
            height (int): Height in pixels.
            width (int): Width in pixels.
        """
        self.images.append(
            dict(
                id=len(self.images) + 1,
                file_name=name,
                height=height,
                width=width,
            )
        )

    def add_object(
        self,
        name: str,
        where: str,
        box: Optional[Sequence[float]] = None,
        polygons: Sequence[Polygon] = (),
        masks: Sequence[np.ndarray] = (),
    ) -> None:
        """Add an object of the last image.

        Args:
            name (str): Its class.
            where (str): File and line, for messages.
            box (Sequence[float], optional): Left, top, right and bottom, in
                pixels. Default: None, which means that of the mask.
            polygons (Sequence[list[float]]): The mask as polygons. Default:
                ``()``.
            masks (Sequence[np.ndarray]): Parts of the mask, of shape
                (height, width). Default: ``()``.

        Raises:
            DataError: If the class is not one of the classes.
        """
        if self.classes is not None and name not in self.classes:
            raise DataError(
                f'{where}: {name!r} is none of the {len(self.classes)} '
                f'classes: {list_some(self.classes)}'
            )
        image = self.images[-1]
        item = dict(image_id=image['id'], iscrowd=0)
        if masks:
            size = image['height'], image['width']
            encoded = [
                mask_utils.encode(np.asfortranarray(mask, np.uint8))
                for mask in masks
            ]
            if polygons:
                encoded += mask_utils.frPyObjects(list(polygons), *size)
            rle = mask_utils.merge(encoded)
            item['bbox'] = mask_utils.toBbox(rle).tolist()
            item['area'] = float(mask_utils.area(rle))
            item['segmentation'] = dict(
                size=list(size), counts=rle['counts'].decode()
            )
        else:
            if polygons:
                points = np.concatenate(
                    [np.reshape(polygon, (-1, 2)) for polygon in polygons]
                )
                box = [*points.min(0).tolist(), *points.max(0).tolist()]
                item['segmentation'] = [list(one) for one in polygons]
            left, top, right, bottom = box
            item['bbox'] = [left, top, right - left, bottom - top]
            item['area'] = (
                sum(map(polygon_area, polygons))
                if polygons
                else (right - left) * (bottom - top)
            )
        self.objects.append((name, item))

    def write(self) -> None:
        """Write the file, and print what is in it.

        Raises:
            DataError: If there is no object.
        """
        if not self.objects:
            raise DataError('there is no object in any of the files')
        classes = self.classes or sorted({name for name, _ in self.objects})
        ids = {name: index for index, name in enumerate(classes, 1)}
        content = dict(
            # Some versions of pycocotools need it to evaluate.
            info=dict(description=self.out.stem),
            images=self.images,
            annotations=[
                dict(id=index, category_id=ids[name], **item)
                for index, (name, item) in enumerate(self.objects, 1)
            ],
            categories=[dict(id=ids[name], name=name) for name in classes],
        )
        with atomic_write(self.out) as scratch:
            scratch.write_text(json.dumps(content), encoding='utf-8')
        masks = sum('segmentation' in item for _, item in self.objects)
        print(
            f'\n{self.out}: {len(self.images):,} images, '
            f'{len(self.objects):,} objects, {masks:,} of them with a mask\n'
            f'classes={tuple(classes)}'
        )


def polygon_area(polygon: Polygon) -> float:
    """Return the area of a polygon, by the shoelace formula.

    Args:
        polygon (list[float]): The polygon.

    Returns:
        float: Its area in square pixels.
    """
    x, y = np.reshape(polygon, (-1, 2)).T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def convert_each(convert: Callable, items: Sequence) -> list:
    """Convert files one after the other, with a progress bar.

    Args:
        convert (Callable): Function of a file.
        items (Sequence): The files.

    Returns:
        list: What it returns for each.
    """
    return track_progress(convert, list(items))


@contextmanager
def atomic_folder(out: Path, argument: str = 'OUT') -> Iterator[Path]:
    """Write a folder that appears under its name only when it is complete.

    Args:
        out (Path): Folder to write; it must not exist, or be empty.
        argument (str): The argument that names it. Default: ``'OUT'``.

    Yields:
        Path: The hidden folder to write to.

    Raises:
        OutputError: If it has content, or cannot be written.
    """
    out = out.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(
            f'{argument}={str(out)!r} exists already; name another folder'
        )
    check_writable(out.parent, argument)
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f'.{out.name}-', dir=out.parent))
    try:
        yield scratch
        scratch.chmod(0o755)
        if out.exists():
            out.rmdir()
        scratch.rename(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def read_colors(path: Path) -> Dict[str, Tuple[int, int, int]]:
    """Read a table of classes and their colors.

    Args:
        path (Path): A text file with a line ``name:red,green,blue`` for each
            class, in the order of the classes. What follows a further colon,
            and lines that start with ``#``, are ignored, as in the
            ``labelmap.txt`` that CVAT exports.

    Returns:
        dict: The color of each class.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If a line is wrong, or a name or color is there twice.
    """
    if not path.is_file():
        raise MissingFileError(f'COLORS={str(path)!r} is not a file')
    table: Dict[str, Tuple[int, int, int]] = {}
    lines = path.read_text(encoding='utf-8').splitlines()
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith('#'):
            continue
        name, _, rest = line.partition(':')
        try:
            color = tuple(map(int, rest.split(':')[0].split(',')))
        except ValueError:
            color = ()
        if len(color) != 3 or not all(0 <= one <= 255 for one in color):
            raise DataError(
                f'{path}, line {number}: {line!r} is not of the form '
                'name:red,green,blue with values of 0 to 255'
            )
        if name in table or color in table.values():
            raise DataError(
                f'{path}, line {number}: the name or the color of {line!r} is '
                'there twice'
            )
        table[name] = color
    if not table:
        raise DataError(f'{path}: there is no color')
    return table


def color_indices(
    path: Path, colors: Sequence[Tuple[int, int, int]]
) -> np.ndarray:
    """Read an image of colors as their numbers.

    Args:
        path (Path): An image, in colors or with a palette.
        colors (Sequence[tuple[int, int, int]]): All colors that it may have.

    Returns:
        np.ndarray: Index of the color of each pixel, of shape (height,
        width).

    Raises:
        DataError: If it cannot be read, or has another color.
    """
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert('RGB'))
    except OSError as error:
        raise DataError(
            f'{path}: the image cannot be read: {one_line(error)}'
        ) from error
    codes = pixels.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1])
    known = np.array([(r << 16) + (g << 8) + b for r, g, b in colors])
    order = np.argsort(known)
    places = np.searchsorted(known[order], codes).clip(max=len(known) - 1)
    other = known[order][places] != codes
    if other.any():
        y, x = np.argwhere(other)[0].tolist()
        raise DataError(
            f'{path}: {other.sum():,} pixels have a color that is not in the '
            f'table, such as {tuple(pixels[y, x].tolist())} at x={x}, y={y}'
            ' (JPEG and resizing change colors)'
        )
    return order[places]


def write_label_map(path: Path, labels: np.ndarray) -> None:
    """Write a label map.

    Args:
        path (Path): PNG file; its folder is created.
        labels (np.ndarray): Labels, uint8 of shape (height, width).

    Raises:
        OutputError: If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), labels):
        raise OutputError(f'{path} cannot be written; the disk may be full')
