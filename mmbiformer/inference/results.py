"""Results of an inferencer, kept under names of their own."""

import contextlib
import itertools
import json
import os
import os.path as osp
import shutil
import sys
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Iterator, List, Sequence

import cv2
import mmcv
from mmengine.infer import BaseInferencer
from mmengine.utils import ProgressBar

from mmbiformer.utils.config import task_of
from mmbiformer.utils.errors import ConfigError, DataError, OutputError
from mmbiformer.utils.files import atomic_write, check_writable
from mmbiformer.utils.text import one_line

from .inferencer import quiet
from .media import (
    Frame,
    count_frames,
    is_video,
    name_results,
    read_image,
    read_video,
)

# Where the inferencers write predictions.
FOLDERS = {
    'classification': 'preds',
    'detection': 'preds',
    'segmentation': 'pred',
}
INDEX = 'predictions.json'


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


class FileInferencer:
    """Predicts files, and keeps what their inferencer writes.

    The inferencer writes to a hidden folder, from where its files are moved:
    they appear when they are complete, under names that no others have.

    Args:
        inferencer (BaseInferencer): See
            :func:`mmbiformer.inference.inferencer.build_inferencer`.
        out_dir (Path): Folder for the results; must exist when files are
            predicted.
        save_vis (bool): Whether to write pictures. Default: True.
        save_pred (bool): Whether to write predictions. Default: True.
        pred_score_thr (float): For a detector, the score from which
            instances are drawn. Default: 0.3.

    Attributes:
        images (list[dict]): What was written for each file.
        skipped (list[dict]): The files that were not predicted, and why.

    Raises:
        ConfigError: If a segmentor has more classes than its label maps can
            hold.
    """

    def __init__(
        self,
        inferencer: BaseInferencer,
        out_dir: Path,
        save_vis: bool = True,
        save_pred: bool = True,
        pred_score_thr: float = 0.3,
    ) -> None:
        task = task_of(inferencer.cfg)
        classes = inferencer.model.dataset_meta['classes']
        self.folders = dict(picture='vis', prediction=FOLDERS[task])
        if not save_vis:
            del self.folders['picture']
        if not save_pred:
            del self.folders['prediction']
        self.options = {}  # mmseg has none of these, and writes both.
        if task != 'segmentation':
            self.options = dict(
                no_save_vis=not save_vis, no_save_pred=not save_pred
            )
            if task == 'detection':
                self.options['pred_score_thr'] = pred_score_thr
        elif len(classes) > 256 and save_pred:
            raise ConfigError(
                'mmseg writes label maps of 8 bits, and the model has '
                f'{len(classes)} classes: use --no-save-pred'
            )
        self.inferencer = inferencer
        self.inferencer.show_progress = False  # It would be of each batch.
        self.out_dir = out_dir
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
        pixels = mmcv.imread(str(picture))
        if self.video != name:
            self.open_files.close()
            path = self.out_dir / name
            path.parent.mkdir(parents=True, exist_ok=True)
            hidden = self.open_files.enter_context(atomic_write(path))
            self.writer = cv2.VideoWriter(
                str(hidden),
                cv2.VideoWriter_fourcc(*'mp4v'),
                frame.fps,
                pixels.shape[1::-1],
            )
            if not self.writer.isOpened():
                self.open_files.pop_all()
                raise OSError(f'OpenCV cannot write {name}; use --no-save-vis')
            self.open_files.callback(self.writer.release)
            self.video = name
        self.writer.write(pixels)
