"""The folder of an inference: pictures, predictions, and what is where."""

import json
import os
import os.path as osp
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import cv2
import numpy as np

from mmbiformer.utils.files import atomic_write, check_writable

from .media import MediaImage, Problem

PICTURES, PREDICTIONS, INDEX = 'vis', 'preds', 'predictions.json'
"""str: What an inference writes into its folder."""


def check_folder(folder: Path, force: bool, sources: Sequence[str]) -> None:
    """Refuse a folder that cannot be written, or holds something already.

    Args:
        folder (Path): The folder, which need not exist.
        force (bool): Whether it may hold results.
        sources (Sequence[str]): Files that are to be predicted.

    Raises:
        FileExistsError: If it holds results, and may not.
        NotADirectoryError: If it, or what it would lie in, is a file.
        PermissionError: If it cannot be written.
        ValueError: If it holds the sources where results go.
    """
    check_writable(folder, '--out-dir')
    own = [folder / name for name in (PICTURES, PREDICTIONS, INDEX)]
    found = [str(path) for path in own if path.exists()]
    if found and not force:
        raise FileExistsError(
            f'--out-dir={str(folder)!r} holds results already '
            f'({", ".join(found)}); name another folder, or write over files '
            'of the same names by --force'
        )
    for path in own[:2]:
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(f'{str(path)!r} is not a folder')
    for source in sources:
        if not set(Path(source).resolve().parents).isdisjoint(
            path.resolve() for path in own[:2]
        ):
            raise ValueError(
                f'{source!r} lies where --out-dir={str(folder)!r} has its '
                'results, which could overwrite it'
            )


def write_file(path: Path, content: bytes) -> None:
    """Write a file that is visible under its name only when it is whole.

    Args:
        path (Path): The file, whose folder is made if need be.
        content (bytes): What to write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as scratch:
        scratch.write_bytes(content)


def _scratch_of(path: Path) -> Path:
    """Return a file beside another, hidden and of the same kind."""
    return path.with_name(f'.{os.getpid()}.{path.name}')


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """Write a picture or label map in the format of its suffix.

    Args:
        path (Path): The file.
        pixels (np.ndarray): Grey values or BGR.
    """
    write_file(path, cv2.imencode(path.suffix, pixels)[1].tobytes())


class VideoFile:
    """A video that is written frame by frame.

    Args:
        path (Path): The file, an ``.mp4``; visible only once it is closed.
        fps (float): Frames in a second.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path = path
        self.fps = fps
        self._scratch = _scratch_of(path)
        self._writer = None

    def write(self, pixels: np.ndarray) -> None:
        """Add a frame.

        Args:
            pixels (np.ndarray): BGR, of shape (H, W, 3) as all before.

        Raises:
            OSError: If the video cannot be written.
        """
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            writer = cv2.VideoWriter(
                str(self._scratch),
                cv2.VideoWriter_fourcc(*'mp4v'),
                self.fps,
                pixels.shape[1::-1],
            )
            if not writer.isOpened():
                raise OSError(
                    f'OpenCV cannot write the video {str(self.path)!r}; '
                    'leave it out by --no-save-vis'
                )
            self._writer = writer
        self._writer.write(np.ascontiguousarray(pixels))

    def close(self) -> None:
        """Finish the video with the frames that it has."""
        if self._writer is not None:
            self._writer.release()
            os.replace(self._scratch, self.path)
            self._writer = None


class PredictionFolder:
    """Writes what was predicted, and what not, into a folder.

    Args:
        folder (Path): The folder; see :func:`check_folder`.
        pictures (bool): Whether to write pictures. Default: True.
        predictions (bool): Whether to write predictions. Default: True.
    """

    def __init__(
        self, folder: Path, pictures: bool = True, predictions: bool = True
    ) -> None:
        self.folder = folder
        self.pictures = pictures
        self.predictions = predictions
        self.problems: List[Problem] = []
        self._entries: Dict[str, Dict[str, Any]] = {}
        self._video: Optional[VideoFile] = None

    @property
    def images(self) -> int:
        """Images and frames that were written."""
        return sum(entry.get('frames', 1) for entry in self._entries.values())

    def add(
        self,
        image: MediaImage,
        record: Optional[dict] = None,
        labels: Optional[np.ndarray] = None,
        picture: Optional[np.ndarray] = None,
    ) -> None:
        """Write what belongs to an image; frames of a video in order.

        Args:
            image (MediaImage): The image.
            record (dict, optional): What goes into a JSON file. Default:
                None.
            labels (np.ndarray, optional): What goes into a PNG file: label
                map of shape (H, W) or picture of shape (H, W, 3). Default:
                None.
            picture (np.ndarray, optional): The image with its prediction
                drawn, BGR, of shape (H, W, 3). Default: None.

        Raises:
            OSError: If it cannot be written.
        """
        entry = {}
        if self.predictions and record is not None:
            entry['prediction'] = f'{PREDICTIONS}/{image.name}.json'
            content = dict(image=image.path, **record)
            write_file(
                self.folder / entry['prediction'], json.dumps(content).encode()
            )
        if self.predictions and labels is not None:
            entry['labels'] = f'{PREDICTIONS}/{image.name}.png'
            write_picture(self.folder / entry['labels'], labels)
        if self.pictures and picture is not None:
            entry['picture'] = self._add_picture(image, picture)
        if image.video is not None:
            frames = self._entries.get(image.path, {}).get('frames', 0)
            # Its frames lie in folders.
            entry = {
                key: value if key == 'picture' else osp.dirname(value)
                for key, value in entry.items()
            }
            entry['frames'] = frames + 1
        self._entries[image.path] = entry

    def _add_picture(self, image: MediaImage, picture: np.ndarray) -> str:
        """Write a picture or frame; return the file within the folder."""
        if image.video is None:
            lossy = image.path.lower().endswith(('.jpg', '.jpeg'))
            name = f'{PICTURES}/{image.name}{".jpg" if lossy else ".png"}'
            write_picture(self.folder / name, picture)
            return name
        name = f'{PICTURES}/{osp.dirname(image.name)}.mp4'
        path = self.folder / name
        if self._video is None or self._video.path != path:
            self.close()
            self._video = VideoFile(path, image.video.fps)
        self._video.write(picture)
        return name

    def close(self) -> None:
        """Finish the video that is being written, if there is one."""
        if self._video is not None:
            self._video.close()
            self._video = None

    def write_index(self, **about: Any) -> None:
        """Write what is where, and what was skipped and why.

        Args:
            **about: What else to say, as JSON.
        """
        self.close()
        if not self.predictions:
            return
        index = dict(
            **about,
            images=[
                dict(image=image, **entry)
                for image, entry in self._entries.items()
            ],
            skipped=[
                dict(image=problem.source, reason=problem.reason)
                for problem in self.problems
            ],
        )
        write_file(
            self.folder / INDEX, (json.dumps(index, indent=2) + '\n').encode()
        )
