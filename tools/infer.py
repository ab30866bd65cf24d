"""Predict images and videos, and write pictures and predictions.

    infer.py IMAGE_OR_FOLDER_OR_PATTERN_OR_VIDEO ... CONFIG CHECKPOINT

Exit status: 0 if all was predicted, 1 if anything was skipped or nothing
could start, 130 after Ctrl-C.
"""

import argparse
import contextlib
import glob
import itertools
import json
import os
import os.path as osp
import shutil
import sys
import traceback
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Dict, Iterator, List, NamedTuple, Sequence, Tuple

import cv2
import mmcv
import numpy as np
from mmengine.config import DictAction
from mmengine.device import get_device
from mmengine.infer import BaseInferencer
from mmengine.utils import ProgressBar
from PIL import Image, UnidentifiedImageError

from mmbiformer.utils.command_line import one_line_errors
from mmbiformer.utils.config import read_config, task_of
from mmbiformer.utils.errors import (
    ConfigError,
    DataError,
    MissingFileError,
    OutputError,
)
from mmbiformer.utils.files import atomic_write, check_writable
from mmbiformer.utils.inference import build_inferencer, quiet
from mmbiformer.utils.text import one_line

IMAGE_SUFFIXES = (
    '.bmp', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp',
)  # fmt: skip
VIDEO_SUFFIXES = (
    '.avi', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.webm', '.wmv',
)  # fmt: skip
# Where the inferencers of mmdet and mmseg write predictions.
FOLDERS = {'detection': 'preds', 'segmentation': 'pred'}
INDEX = 'predictions.json'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'images',
        nargs='+',
        help='image or video file, folder of them, or pattern such as '
        '"photos/**/*.jpg", in quotes',
    )
    parser.add_argument('config', help='config file path')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--out-dir',
        type=Path,
        default=Path('outputs'),
        metavar='OUT',
        help=f'folder for pictures, predictions and {INDEX} '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--pred-score-thr',
        type=float,
        default=0.3,
        metavar='SCORE',
        help='detection: draw instances from this score on; the predictions '
        'have all (default: %(default)s)',
    )
    parser.add_argument(
        '--batch-size',
        type=int,
        default=1,
        metavar='N',
        help='images of one size that go through the model together '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--device', default=get_device(), help='(default: %(default)s)'
    )
    parser.add_argument(
        '--no-save-vis', action='store_true', help='write no pictures'
    )
    parser.add_argument(
        '--no-save-pred', action='store_true', help='write no predictions'
    )
    parser.add_argument(
        '--force',
        action='store_true',
        help='write into OUT even if it holds results; of these, files of '
        'other names stay',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override settings of the config',
    )
    # Options may stand between the images and the config.
    args = parser.parse_intermixed_args()
    if not args.config.endswith(('.py', '.yml', '.yaml', '.json')):
        parser.error(
            'the images are followed by config and checkpoint, got '
            f'config={args.config!r}, checkpoint={args.checkpoint!r}'
        )
    if args.no_save_vis and args.no_save_pred:
        parser.error('--no-save-vis and --no-save-pred leave nothing to do')
    if not 0 <= args.pred_score_thr <= 1:
        parser.error(
            '--pred-score-thr must be between 0 and 1, got '
            f'--pred-score-thr={args.pred_score_thr}'
        )
    if args.batch_size < 1:
        parser.error(
            '--batch-size must be at least 1, got '
            f'--batch-size={args.batch_size}'
        )
    return args


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


def check_out_dir(out_dir: Path, force: bool, paths: Sequence[str]) -> None:
    """Check that no file is overwritten that should not be."""
    check_writable(out_dir, '--out-dir')
    own = [out_dir / name for name in ('vis', *FOLDERS.values(), INDEX)]
    found = [str(path) for path in own if path.exists()]
    if found and not force:
        raise OutputError(
            f'--out-dir={str(out_dir)!r} holds results already '
            f'({", ".join(found)}); name another folder, or overwrite files '
            'of the same names by --force'
        )
    own = {path.resolve() for path in own}
    for path in paths:
        if not own.isdisjoint(Path(path).resolve().parents):
            raise OutputError(
                f'{path!r} is where --out-dir={str(out_dir)!r} has its '
                'results, which could overwrite it'
            )


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


class FileInferencer:
    """Predicts files, and keeps what mmdet's or mmseg's inferencer writes.

    The inferencer writes to a hidden folder, from where its files are moved:
    they appear when they are complete, under names that no others have.
    """

    def __init__(
        self, inferencer: BaseInferencer, args: argparse.Namespace
    ) -> None:
        task = task_of(inferencer.cfg)
        classes = inferencer.model.dataset_meta['classes']
        self.folders = dict(picture='vis', prediction=FOLDERS[task])
        if args.no_save_vis:
            del self.folders['picture']
        if args.no_save_pred:
            del self.folders['prediction']
        self.options = {}  # mmseg has none of these, and writes both.
        if task == 'detection':
            self.options = dict(
                pred_score_thr=args.pred_score_thr,
                no_save_vis=args.no_save_vis,
                no_save_pred=args.no_save_pred,
            )
        elif len(classes) > 256 and not args.no_save_pred:
            raise ConfigError(
                'mmseg writes label maps of 8 bits, and the model has '
                f'{len(classes)} classes: use --no-save-pred'
            )
        self.inferencer = inferencer
        self.inferencer.show_progress = False  # It would be of each batch.
        self.out_dir = args.out_dir
        self.images: List[dict] = []
        self.skipped: List[dict] = []
        self.traceback = ''  # of the first failure of the inferencer
        self.video, self.writer = '', None
        self.open_files = contextlib.ExitStack()

    def run(self, paths: Sequence[str], batch_size: int) -> None:
        """Predict files; if interrupted, keep what is done of a video."""
        bar = ProgressBar(sum(map(count_frames, paths)))
        with TemporaryDirectory(prefix='.', dir=self.out_dir) as self.scratch:
            try:
                for batch in self.read_batches(paths, batch_size):
                    self.predict(batch)
                    bar.update(len(batch))
            finally:
                print()
                self.open_files.close()

    def skip(self, path: str, reason: str) -> None:
        """Report what is not predicted."""
        self.skipped.append(dict(image=path, reason=reason))
        print(flush=True)  # ends the progress bar
        print(f'infer.py: skipped: {path!r} {reason}', file=sys.stderr)

    def read(self, path: str, name: str) -> Iterator[Frame]:
        """Yield an image, or the frames of a video, until it is broken."""
        try:
            if is_video(path):
                yield from read_video(path, name)
            else:
                yield Frame(path, name, read_image(path))
        except DataError as error:
            self.skip(path, str(error))

    def read_batches(
        self, paths: Sequence[str], size: int
    ) -> Iterator[List[Frame]]:
        """Yield the images of files, in batches of neighbors of one size.

        None is then padded because of another, and each gets the prediction
        that it gets alone.
        """
        frames = map(self.read, paths, name_results(paths))
        frames = itertools.chain.from_iterable(frames)
        for _, group in itertools.groupby(frames, lambda x: x.pixels.shape):
            while batch := list(itertools.islice(group, size)):
                yield batch

    def predict(self, batch: List[Frame]) -> None:
        """Predict a batch; if that fails, such as for memory, one by one."""
        with TemporaryDirectory(dir=self.scratch) as scratch:
            images = []
            for number, frame in enumerate(batch):
                # The suffix is that of the picture, too.
                lossy = frame.path.lower().endswith(('.jpg', '.jpeg'))
                image = f'{scratch}/{number:08d}{".jpg" if lossy else ".png"}'
                if frame.fps:
                    mmcv.imwrite(frame.pixels, image)
                else:
                    shutil.copyfile(frame.path, image)
                images.append(image)
            self.inferencer.num_pred_imgs = 0  # mmseg names label maps by it.
            try:
                with quiet():
                    self.inferencer(
                        images,
                        batch_size=len(batch),
                        out_dir=scratch,
                        **self.options,
                    )
            except OSError:
                raise
            except Exception as error:  # of any transform, model, visualizer
                if len(batch) == 1:
                    self.skip_failed(frame, error)
            else:
                for number, frame in enumerate(batch):
                    self.keep(frame, Path(scratch), f'{number:08d}')
                return
        # Here, nothing holds the memory of the attempt.
        if len(batch) > 1:
            for frame in batch:
                self.predict([frame])

    def skip_failed(self, frame: Frame, error: Exception) -> None:
        """Skip an image that cannot be predicted, written or drawn."""
        number = f', frame {frame.name[-6:]}' if frame.fps else ''
        self.traceback = self.traceback or traceback.format_exc()
        self.skip(
            frame.path + number,
            f'cannot be predicted: {type(error).__name__}: {one_line(error)}',
        )

    def keep(self, frame: Frame, scratch: Path, number: str) -> None:
        """Move what was written for an image to the folder for results."""
        entry = {}
        for kind, folder in self.folders.items():
            for path in sorted((scratch / folder).glob(f'{number}*')):
                name = f'{folder}/{frame.name}{path.name[len(number) :]}'
                entry[kind] = osp.dirname(name) if frame.fps else name
                if frame.fps and kind == 'picture':
                    entry[kind] += '.mp4'
                    self.add_to_video(entry[kind], frame, path)
                    continue
                if path.suffix == '.json':
                    # A panoptic one names its picture in the hidden folder.
                    record = json.loads(path.read_text())
                    record.pop('panoptic_seg_path', None)
                    path.write_text(json.dumps(record))
                target = self.out_dir / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(target) as hidden:
                    os.replace(path, hidden)
        if not self.images or self.images[-1]['image'] != frame.path:
            self.images.append(dict(image=frame.path))
        self.images[-1].update(entry)
        if frame.fps:
            frames = self.images[-1].get('frames', 0)
            self.images[-1]['frames'] = frames + 1

    def add_to_video(self, name: str, frame: Frame, picture: Path) -> None:
        """Add a picture to a video, which may be a new one."""
        if self.video != name:
            self.open_files.close()
            path = self.out_dir / name
            path.parent.mkdir(parents=True, exist_ok=True)
            hidden = self.open_files.enter_context(atomic_write(path))
            self.writer = cv2.VideoWriter(
                str(hidden),
                cv2.VideoWriter_fourcc(*'mp4v'),
                frame.fps,
                frame.pixels.shape[1::-1],
            )
            if not self.writer.isOpened():
                self.open_files.pop_all()
                raise OSError(f'OpenCV cannot write {name}; use --no-save-vis')
            self.open_files.callback(self.writer.release)
            self.video = name
        self.writer.write(mmcv.imread(str(picture)))


def run(args: argparse.Namespace) -> int:
    """Predict what the arguments ask for; return the exit status."""
    paths, skipped = find_files(args.images)
    if not paths:
        reasons = [f'{path!r} {reason}' for path, reason in skipped.items()]
        raise MissingFileError('; '.join(reasons))
    check_out_dir(args.out_dir, args.force, paths)
    cfg = read_config(args.config, args.cfg_options)
    inferencer = build_inferencer(cfg, args.checkpoint, args.device)
    files = FileInferencer(inferencer, args)
    for path, reason in skipped.items():
        files.skip(path, reason)
    complete = False
    try:
        args.out_dir.mkdir(parents=True, exist_ok=True)
        try:
            files.run(paths, args.batch_size)
            complete = True
        finally:
            index = dict(
                task=task_of(cfg),
                config=args.config,
                checkpoint=args.checkpoint,
                classes=inferencer.model.dataset_meta['classes'],
                complete=complete,
                images=files.images,
                skipped=files.skipped,
            )
            with atomic_write(args.out_dir / INDEX) as hidden:
                hidden.write_text(json.dumps(index, indent=2) + '\n')
    except OSError as error:
        raise OutputError(
            f'--out-dir={str(args.out_dir)!r} cannot be written to: {error}'
        ) from error
    if not files.images:
        print(files.traceback, end='', file=sys.stderr)
    count = sum(entry.get('frames', 1) for entry in files.images)
    print(f'predicted   {count} images, skipped {len(files.skipped)}')
    for name in (*files.folders.values(), INDEX):
        if (args.out_dir / name).exists():
            print(f'written     {args.out_dir / name}')
    return 1 if files.skipped else 0


def main() -> None:
    args = parse_args()
    with one_line_errors('infer.py'):
        status = run(args)
    sys.exit(status)


if __name__ == '__main__':
    main()
