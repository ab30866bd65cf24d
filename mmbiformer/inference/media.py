"""Images and videos to predict: found, named and read."""

import contextlib
import glob
import io
import os
import os.path as osp
from collections import Counter
from pathlib import Path, PurePath
from typing import Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import cv2
import mmcv
import numpy as np
from PIL import Image, UnidentifiedImageError

IMAGE_SUFFIXES = (
    '.bmp', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp',
)  # fmt: skip
"""tuple[str]: Files of a folder or pattern that are taken for images."""
VIDEO_SUFFIXES = (
    '.avi', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.webm', '.wmv',
)  # fmt: skip
"""tuple[str]: Files that are taken for videos."""


class Problem(NamedTuple):
    """Something that could not be predicted.

    Attributes:
        source (str): The file, or the argument that names none.
        reason (str): Why.
    """

    source: str
    reason: str


class Video(NamedTuple):
    """A video that can be read.

    Attributes:
        path (str): The file.
        fps (float): Frames in a second.
        frames (int): Number of frames that the file tells, which may be an
            estimate.
    """

    path: str
    fps: float
    frames: int


class MediaImage(NamedTuple):
    """An image, or a frame of a video.

    Attributes:
        path (str): The file.
        name (str): What to call its results: a path without suffix.
        pixels (np.ndarray): BGR, uint8, of shape (H, W, 3).
        video (Video, optional): What it is a frame of. Default: None.
    """

    path: str
    name: str
    pixels: np.ndarray
    video: Optional[Video] = None

    @property
    def source(self) -> Union[str, np.ndarray]:
        """What a test pipeline reads: an image's file, a frame's pixels."""
        return self.path if self.video is None else self.pixels

    def problem(self, doing: str, error: Exception) -> Problem:
        """Say what went wrong with it."""
        frame = '' if self.video is None else f', frame {self.name[-6:]}'
        return Problem(
            f'{self.path}{frame}',
            f'cannot be {doing}: {type(error).__name__}: {_one_line(error)}',
        )


def _one_line(error: Exception) -> str:
    """Return what an error says; OpenCV's and torch's have many lines."""
    return ' '.join(str(error).split())


def is_video(path: str) -> bool:
    """Tell whether a file is taken for a video, by its suffix."""
    return path.lower().endswith(VIDEO_SUFFIXES)


def find_media(sources: Sequence[str]) -> Tuple[List[str], List[Problem]]:
    """Find the images and videos that a command line names.

    Args:
        sources (Sequence[str]): Files, folders, whose images and videos are
            taken but not those of folders in them, and patterns as
            :func:`glob.glob` takes them, ``**`` included.

    Returns:
        tuple[list[str], list[Problem]]: The files, each once, and what leads
        to none.
    """
    found, problems = {}, []
    for source in sources:
        path = osp.expanduser(source)
        if osp.isfile(path):
            files = [path]
        elif osp.isdir(path):
            files = _media_among(
                osp.join(path, name) for name in os.listdir(path)
            )
        else:
            files = _media_among(glob.glob(path, recursive=True))
        for file in files:
            found.setdefault(osp.abspath(file), file)
        if not files:
            problems.append(Problem(source, _reason_for_nothing(source)))
    return list(found.values()), problems


def _media_among(paths: Iterator[str]) -> List[str]:
    """Return the images and videos, hidden files excluded, in order."""
    return sorted(
        path
        for path in paths
        if path.lower().endswith(IMAGE_SUFFIXES + VIDEO_SUFFIXES)
        and not osp.basename(path).startswith('.')
        and osp.isfile(path)
    )


def _reason_for_nothing(source: str) -> str:
    """Say why a source leads to no file."""
    path = osp.expanduser(source)
    if osp.isdir(path):
        return 'is a folder without images or videos'
    if glob.has_magic(path):
        return 'is a pattern that no image or video matches'
    return f'does not exist (looked for {osp.abspath(path)})'


def name_results(paths: Sequence[str]) -> List[str]:
    """Give each file a name for its results that no other has.

    Args:
        paths (Sequence[str]): Different files.

    Returns:
        list[str]: Relative paths: the files' own names or, where two would
        share one, the files' paths below the folder that all have in common.
        They have no suffix, except where files differ in nothing else.
    """
    paths = [osp.abspath(path) for path in paths]
    base = osp.commonpath([osp.dirname(path) for path in paths])
    relative = [osp.relpath(path, base) for path in paths]
    for names in ([osp.basename(path) for path in paths], relative):
        # Some file systems do not tell upper from lower case.
        stems = [osp.splitext(name)[0].lower() for name in names]
        counts = Counter(stems)
        # A video's name is that of a folder of frames.
        counts.update(parent for stem in set(stems) for parent in _above(stem))
        names = [
            name if counts[stem] > 1 else osp.splitext(name)[0]
            for name, stem in zip(names, stems, strict=True)
        ]
        if len({name.lower() for name in names}) == len(names):
            return names
    return relative


def _above(name: str) -> List[str]:
    """Return the folders of a relative path."""
    return [str(parent) for parent in PurePath(name).parents]


def read_image(path: str) -> np.ndarray:
    """Read an image as training does, but not one that is cut off.

    Args:
        path (str): The file.

    Returns:
        np.ndarray: BGR, uint8, of shape (H, W, 3): grey in three channels,
        without transparency, the upper eight of sixteen bits.

    Raises:
        ValueError: If it is not whole, or no image that OpenCV knows.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f'cannot be read: {error.strerror}') from None
    if not content:
        raise ValueError('is empty')
    try:
        # OpenCV fills up what is missing of a file with grey.
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except (UnidentifiedImageError, Image.DecompressionBombError):
        pass  # OpenCV may know it nevertheless.
    except Exception as error:  # Pillow documents none.
        raise ValueError(
            f'is truncated or broken: {_one_line(error)}'
        ) from None
    try:
        pixels = mmcv.imfrombytes(content)
    except cv2.error as error:
        raise ValueError(
            f'cannot be read as an image: {_one_line(error)}'
        ) from None
    if pixels is None:
        raise ValueError(
            'cannot be read as an image: it is none, or of a kind that '
            'OpenCV does not know'
        )
    return pixels


def open_video(path: str) -> Video:
    """Look at a video without reading its frames.

    Args:
        path (str): The file.

    Returns:
        Video: What the file tells.

    Raises:
        ValueError: If OpenCV cannot read its first frame.
    """
    capture = cv2.VideoCapture(path)
    try:
        if not capture.read()[0]:
            raise ValueError('cannot be read as a video')
        fps = capture.get(cv2.CAP_PROP_FPS)
        frames = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    finally:
        capture.release()
    # Some files tell neither.
    return Video(path, fps if 0 < fps < 1000 else 25.0, max(int(frames), 1))


def count_images(paths: Sequence[str]) -> int:
    """Count images and frames.

    Args:
        paths (Sequence[str]): Images and videos.

    Returns:
        int: Their number, in which a video that cannot be read is one.
    """
    count = 0
    for path in paths:
        with contextlib.suppress(ValueError):
            count += open_video(path).frames - 1 if is_video(path) else 0
        count += 1
    return count


def read_media(
    paths: Sequence[str], names: Sequence[str]
) -> Iterator[Union[MediaImage, Problem]]:
    """Read images and the frames of videos.

    Args:
        paths (Sequence[str]): Images and videos.
        names (Sequence[str]): What to call the results of each.

    Yields:
        MediaImage | Problem: An image, a frame, or why there is none.
    """
    for path, name in zip(paths, names, strict=True):
        yield from _read(path, name)


def _read(path: str, name: str) -> Iterator[Union[MediaImage, Problem]]:
    """Yield an image, or the frames of a video."""
    try:
        if is_video(path):
            yield from _read_video(open_video(path), name)
        else:
            yield MediaImage(path, name, read_image(path))
    except ValueError as error:
        yield Problem(path, str(error))


def _read_video(video: Video, name: str) -> Iterator[MediaImage]:
    """Yield the frames of a video, named by their numbers from 0."""
    capture = cv2.VideoCapture(video.path)
    index = 0
    try:
        while True:
            success, pixels = capture.read()
            if not success:
                break
            frame = osp.join(name, f'{index:06d}')
            yield MediaImage(video.path, frame, pixels, video)
            index += 1
    finally:
        capture.release()
    # The number of frames may be an estimate from the length in seconds.
    if index < video.frames - max(video.fps, 1):
        raise ValueError(f'ended after {index} of {video.frames} frames')
