"""Create a data set of scenes composed of real handwritten digits.

The 1,797 digits of scikit-learn (8 x 8 pixels, from the UCI repository) are
scaled, colored and placed on varied backgrounds, where they may overlap. The
data set has images, COCO instance annotations with RLE masks, and semantic
label maps of the same scenes (0 is the background, d + 1 the digit d):

    OUT/images/{train,val}/*.png
    OUT/labels/{train,val}/*.png
    OUT/annotations/instances_{train,val}.json
    OUT/settings.json

Train and val share no digit. The same settings give the same files.
"""

import argparse
import functools
import json
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Callable, List, Tuple

from mmbiformer_threads import limit_threads

if __name__ == '__main__':
    # Ctrl-C during the imports ends the tool without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    limit_threads()

import cv2
import numpy as np
from mmengine.utils import track_iter_progress
from pycocotools import mask as mask_utils
from sklearn.datasets import load_digits

from mmbiformer.utils.command_line import command_line
from mmbiformer.utils.errors import OutputError
from mmbiformer.utils.files import check_writable

NUM_DIGITS = 1797
"""int: Number of digits of scikit-learn."""
VAL_SHARE = 0.2
"""float: Share of the digits used for val, and val scenes per train scene."""
HEIGHT_RANGE = (0.2, 0.3)
"""tuple[float, float]: Height of a digit relative to the side of the scene."""
MAX_HIDDEN = 0.15
"""float: Maximum share of a digit that later digits may hide."""
MIN_CONTRAST = 90
"""int: Minimum difference in brightness between a digit and its background."""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('out', type=Path, help='folder to create')
    parser.add_argument(
        '--images',
        type=int,
        default=400,
        metavar='N',
        help='number of scenes for training; val gets a fifth of that '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--size',
        type=int,
        default=160,
        help='side of a scene in pixels (default: %(default)s)',
    )
    parser.add_argument(
        '--digits-per-image',
        type=int,
        nargs=2,
        default=(4, 8),
        metavar=('MIN', 'MAX'),
        help='number of digits in a scene (default: 4 8)',
    )
    parser.add_argument(
        '--seed',
        type=int,
        default=0,
        help='random seed (default: %(default)s)',
    )
    args = parser.parse_args()
    if args.images < 1:
        parser.error(f'--images must be at least 1, got {args.images}')
    if args.size < 64:
        parser.error(f'--size must be at least 64, got {args.size}')
    low, high = args.digits_per_image
    if not 0 <= low <= high <= 20 or high < 1:
        parser.error(
            '--digits-per-image must be two ascending numbers from 0 '
            f'to 20, the second at least 1, got {low} {high}'
        )
    if args.seed < 0:
        parser.error(f'--seed must be at least 0, got {args.seed}')
    return args


def split_numbers(seed: int) -> dict:
    """Return the numbers of the digits for train and val, in random order."""
    order = np.random.default_rng([seed, 0]).permutation(NUM_DIGITS)
    cut = round(NUM_DIGITS * VAL_SHARE)
    return dict(train=order[cut:], val=order[:cut])


def read_digits(numbers: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Return images, (M, 8, 8) from 0 to 1, and values of some digits."""
    digits = load_digits()
    images = digits.images[numbers].astype(np.float32) / 16
    return images, digits.target[numbers]


def make_background(size: int, rng: np.random.Generator) -> np.ndarray:
    """Create a background, size x size: color gradients and strokes."""
    cells = int(rng.integers(2, 5))
    coarse = rng.uniform(0, 110, 3) + rng.normal(0, 20, (cells, cells, 3))
    image = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    image = np.clip(image, 0, 255)
    for _ in range(int(rng.integers(0, 4))):
        # Clutter that is not a digit: a semi-transparent stroke.
        start, end = rng.integers(0, size, (2, 2)).tolist()
        stroke = image.copy()
        cv2.line(
            stroke,
            start,
            end,
            rng.uniform(0, 200, 3).tolist(),
            int(rng.integers(1, max(2, size // 40))),
            cv2.LINE_AA,
        )
        image = 0.6 * image + 0.4 * stroke
    return image + rng.normal(0, rng.uniform(0, 5), image.shape)


def choose_color(under: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Choose a color that is brighter than the background of a digit."""
    color = rng.uniform(100, 255, 3)
    lacking = under.mean() + MIN_CONTRAST - color.mean()
    return np.clip(color + max(0, lacking), 0, 255)


def place_digit(
    glyph: np.ndarray,
    size: int,
    rng: np.random.Generator,
    height_range: Tuple[float, float],
) -> np.ndarray:
    """Return the opacity map, size x size, of a digit at a random position."""
    height = rng.uniform(*height_range) * size
    scale = height / glyph.shape[0]
    angle = np.deg2rad(rng.uniform(-5, 5))
    stretch = rng.uniform(0.9, 1.1)
    linear = scale * np.array(
        [
            [stretch * np.cos(angle), -np.sin(angle)],
            [stretch * np.sin(angle), np.cos(angle)],
        ]
    )
    center = rng.uniform(height / 2, size - height / 2, 2)
    shift = center - linear @ [3.5, 3.5]
    ink = cv2.warpAffine(
        glyph,
        np.column_stack([linear, shift]),
        (size, size),
        flags=cv2.INTER_CUBIC,
    )
    # Sharpen the edges of the upscaled 8 x 8 image, and thicken the strokes.
    return np.clip(2.5 * (ink - 0.4) + 0.5, 0, 1)


def make_scene(
    glyphs: np.ndarray,
    labels: np.ndarray,
    size: int,
    count: int,
    rng: np.random.Generator,
    height_range: Tuple[float, float] = HEIGHT_RANGE,
) -> Tuple[np.ndarray, List[Tuple[int, np.ndarray]]]:
    """Compose a scene.

    Args:
        glyphs (np.ndarray): Digits of shape (M, 8, 8), from 0 to 1.
        labels (np.ndarray): Digit values of shape (M, ).
        size (int): Side of the scene in pixels.
        count (int): Number of digits to place; there may be fewer if no room
            is left.
        rng (np.random.Generator): Random generator.
        height_range (tuple[float, float]): Height of a digit relative to the
            side of the scene. Default: :data:`HEIGHT_RANGE`.

    Returns:
        tuple: The image, uint8 of shape (size, size, 3), and for each digit
        its value and the mask of its visible pixels, of shape (size, size).
    """
    background = make_background(size, rng)
    image = background.copy()
    masks, values, areas = [], [], []
    for _ in range(count):
        for _ in range(20):
            index = int(rng.integers(len(labels)))
            opacity = place_digit(glyphs[index], size, rng, height_range)
            mask = opacity > 0.5
            left = [old & ~mask for old in masks]
            if mask.sum() >= 32 and all(
                part.sum() >= (1 - MAX_HIDDEN) * area
                for part, area in zip(left, areas, strict=True)
            ):
                break
        else:
            break
        masks = left + [mask]
        values.append(int(labels[index]))
        areas.append(mask.sum())
        color = choose_color(background[mask], rng)
        image += opacity[..., None] * (color - image)
    return np.clip(image, 0, 255).astype(np.uint8), list(
        zip(values, masks, strict=True)
    )


def annotate(
    mask: np.ndarray, value: int, image_id: int, annotation_id: int
) -> dict:
    """Return the COCO annotation of one digit."""
    rle = mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))
    return dict(
        id=annotation_id,
        image_id=image_id,
        category_id=value,
        bbox=mask_utils.toBbox(rle).tolist(),
        area=float(mask_utils.area(rle)),
        iscrowd=0,
        segmentation=dict(size=rle['size'], counts=rle['counts'].decode()),
    )


def write_split(
    out: Path, split: str, scenes: int, digits: tuple, args: argparse.Namespace
) -> None:
    """Write the images, labels and annotations of one split."""
    for kind in ('images', 'labels'):
        (out / kind / split).mkdir(parents=True)
    images, annotations = [], []
    low, high = args.digits_per_image
    print(f'{split}: {scenes} scenes from {len(digits[1])} digits')
    for image_id in track_iter_progress(range(scenes)):
        # One generator per scene, so that scenes are independent.
        rng = np.random.default_rng(
            [args.seed, 1 + (split == 'val'), image_id]
        )
        image, instances = make_scene(
            *digits, args.size, int(rng.integers(low, high + 1)), rng
        )
        name = f'{image_id:06d}.png'
        label = np.zeros((args.size, args.size), np.uint8)
        for value, mask in instances:
            label[mask] = value + 1
            annotations.append(
                annotate(mask, value, image_id, len(annotations) + 1)
            )
        for kind, content in (('images', image), ('labels', label)):
            if not cv2.imwrite(str(out / kind / split / name), content):
                raise OutputError(
                    f'OUT={str(out)!r}: {kind}/{split}/{name} cannot be '
                    'written; the disk may be full'
                )
        images.append(
            dict(
                id=image_id, file_name=name, width=args.size, height=args.size
            )
        )
    (out / 'annotations').mkdir(exist_ok=True)
    (out / 'annotations' / f'instances_{split}.json').write_text(
        json.dumps(
            dict(
                # Some versions of pycocotools need it to evaluate.
                info=dict(description='scenes of handwritten digits'),
                images=images,
                annotations=annotations,
                categories=[dict(id=d, name=str(d)) for d in range(10)],
            )
        )
    )


def write_folder(
    out: Path, settings: dict, write: Callable[[Path], None]
) -> None:
    """Write a data set, or nothing.

    Args:
        out (Path): Folder to create. One that has the data set already is
            left alone.
        settings (dict): What the content depends on; kept in the folder.
        write (Callable): Writes the data set to a folder.

    Raises:
        OutputError: If the folder has other content, or cannot be written.
    """
    out = out.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        stored = out / 'settings.json'
        if stored.is_file() and stored.read_text() == json.dumps(settings):
            print(f'{out} already contains these images')
            return
        raise OutputError(
            f'OUT={str(out)!r} exists and has other content, or images with '
            'other settings; remove it or choose another folder'
        )
    check_writable(out.parent, 'OUT')
    out.parent.mkdir(parents=True, exist_ok=True)
    # The folder appears under its name only when it is complete.
    scratch = Path(tempfile.mkdtemp(prefix=f'.{out.name}-', dir=out.parent))
    try:
        write(scratch)
        (scratch / 'settings.json').write_text(json.dumps(settings))
        scratch.chmod(0o755)
        if out.exists():
            out.rmdir()
        scratch.rename(out)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    print(f'written to {out}')


def write_scenes(out: Path, args: argparse.Namespace) -> None:
    """Write both splits."""
    val_scenes = max(1, round(args.images * VAL_SHARE))
    for split, scenes in (('train', args.images), ('val', val_scenes)):
        digits = read_digits(split_numbers(args.seed)[split])
        write_split(out, split, scenes, digits, args)


def main() -> None:
    args = parse_args()
    settings = dict(
        images=args.images,
        size=args.size,
        digits_per_image=list(args.digits_per_image),
        seed=args.seed,
    )
    with command_line('digits.py'):
        write_folder(
            args.out, settings, functools.partial(write_scenes, args=args)
        )


if __name__ == '__main__':
    main()
