"""Images and videos to predict: found, named and read."""

import glob
import os.path as osp
from collections import Counter
from typing import Dict, Iterator, List, NamedTuple, Sequence, Tuple

import cv2
import mmcv
import numpy as np
from PIL import Image, UnidentifiedImageError

from mmbiformer.utils.errors import DataError
from mmbiformer.utils.text import one_line

IMAGE_SUFFIXES = (
    '.bmp', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp',
)  # fmt: skip
"""tuple[str]: Files of a folder or pattern that are taken for images."""
VIDEO_SUFFIXES = (
    '.avi', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.webm', '.wmv',
)  # fmt: skip
"""tuple[str]: Files that are taken for videos."""


def find_files(sources: Sequence[str]) -> Tuple[List[str], Dict[str, str]]:
    """Return images and videos, each once, and why a source has none."""
    found, skipped = {}, {}
    for source in sources:
        path = osp.expanduser(source)
        folder = osp.isdir(path)
        files = [path]
        if not osp.isfile(path):
            pattern = osp.join(glob.escape(path), '*') if folder else path
            files = [
                file
                for file in sorted(glob.glob(pattern, recursive=True))
                if file.lower().endswith(IMAGE_SUFFIXES + VIDEO_SUFFIXES)
                and osp.isfile(file)
            ]
        for file in files:
            found.setdefault(osp.abspath(file), file)
        if not files:
            lacks = 'is a folder without' if folder else 'matches no'
            skipped[source] = (
                f'{lacks} images or videos (looked for {osp.abspath(path)})'
            )
    return list(found.values()), skipped


def name_results(paths: Sequence[str]) -> List[str]:
    """Return a name for the results of each file that no other has.

    It is the file's name or, where two would share one, its path below the
    folder that all have in common; without suffix, unless files differ in
    nothing else.
    """
    paths = [osp.abspath(path) for path in paths]
    base = osp.commonpath([osp.dirname(path) for path in paths])
    relative = [osp.relpath(path, base) for path in paths]
    for full in ([osp.basename(path) for path in paths], relative):
        # Some file systems do not distinguish upper from lower case.
        stems = [osp.splitext(name)[0].lower() for name in full]
        counts = Counter(stems)
        # The predictions of a video are in a folder of its name.
        counts.update({osp.dirname(stem) for stem in stems})
        names = [
            name if counts[stem] > 1 else osp.splitext(name)[0]
            for name, stem in zip(full, stems, strict=True)
        ]
        if len({name.lower() for name in names}) == len(names):
            return names
    return relative


class Frame(NamedTuple):
    """An image, or a frame of a video; ``fps`` is 0 for an image."""

    path: str
    name: str  # of its results: a relative path without suffix
    pixels: np.ndarray
    fps: float = 0.0


def is_video(path: str) -> bool:
    """Tell whether a file is taken for a video, by its suffix."""
    return path.lower().endswith(VIDEO_SUFFIXES)


def count_frames(path: str) -> int:
    """Return how many frames a file says that it has; an image has one."""
    if not is_video(path):
        return 1
    return max(int(cv2.VideoCapture(path).get(cv2.CAP_PROP_FRAME_COUNT)), 1)


def read_video(path: str, name: str) -> Iterator[Frame]:
    """Yield the frames of a video, named by their numbers from 0."""
    # mmcv.VideoReader seeks by positions that are estimates in some files.
    capture = cv2.VideoCapture(path)
    fps = capture.get(cv2.CAP_PROP_FPS)
    fps = fps if 0 < fps < 1000 else 25.0  # Some files do not tell it.
    count = 0
    while (pixels := capture.read()[1]) is not None:
        yield Frame(path, f'{name}/{count:06d}', pixels, fps)
        count += 1
    if not count:
        raise DataError('cannot be read as a video')
    # The number of frames may be an estimate from the length in seconds.
    expected = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    if count < expected - max(fps, 1):
        raise DataError(f'ended after {count} of {expected} frames')


def read_image(path: str) -> np.ndarray:
    """Read an image as in training, unless it is truncated."""
    try:
        # OpenCV fills what is missing of a file with grey.
        with Image.open(path) as image:
            image.load()
    except (UnidentifiedImageError, Image.DecompressionBombError):
        pass  # OpenCV may know it.
    except Exception as error:  # Pillow raises many types.
        raise DataError(
            f'is truncated or cannot be read: {one_line(error)}'
        ) from None
    try:
        pixels = mmcv.imread(path)
    except cv2.error:  # The file is empty.
        pixels = None
    if pixels is None:
        raise DataError('cannot be read as an image')
    return pixels
