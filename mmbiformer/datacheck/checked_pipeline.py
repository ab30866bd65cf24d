"""Data pipeline that checks each sample as it is loaded.

Samples that the frameworks would accept silently, or reject without naming
the file, raise an error that names it.
"""

import os
import os.path as osp
from typing import Callable, Optional, Sequence, Tuple, Union

import cv2
import numpy as np
from mmcv import imread
from mmcv.transforms import LoadAnnotations, LoadImageFromFile
from mmengine.dataset import Compose
from PIL import Image
from torch.utils.data import Dataset

from mmbiformer.utils.datasets import leaf_datasets
from mmbiformer.utils.errors import DataError, PipelineError, UserError
from mmbiformer.utils.text import one_line

from .polygons import polygon_problem

# Steps that load files, and what they raise if a file is broken.
_LOADERS = (LoadAnnotations, LoadImageFromFile)
_OF_FILES = (AssertionError, OSError, ValueError, cv2.error)

# What defines how the frameworks' own transforms load annotations.
_MMDET_LOADERS = ('mmdet.LoadAnnotations', 'mmdet.LoadTrackAnnotations')
_MMSEG_LOADERS = ('mmcv.LoadAnnotations', 'mmseg.LoadAnnotations')

LABEL_MODES = ('1', 'L', 'P')
"""tuple[str]: Pillow's modes of images with one 8-bit value per pixel."""


def check_jpeg(path: str) -> None:
    """Check that a file is not a truncated JPEG.

    OpenCV 4 decodes the beginning of a truncated file, and leaves the rest of
    the image gray.

    Args:
        path (str): Path of a local file.

    Raises:
        DataError: If it is a JPEG file whose end is missing.
    """
    with open(path, 'rb') as file:
        if file.read(2) != b'\xff\xd8':
            return
        file.seek(-2, os.SEEK_END)
        if file.read() == b'\xff\xd9':
            return
        # Either data follows the image, or its end is missing. The coded
        # pixels cannot contain the marker.
        file.seek(0)
        content = file.read()
    if content.rfind(b'\xff\xd9') < content.rfind(b'\xff\xda'):
        raise DataError('the JPEG file is truncated, its end is missing')


def check_label_map(path: str, backend: str = 'pillow') -> None:
    """Check that mmseg's loader keeps the values of a label map.

    It takes larger values modulo 256.

    Args:
        path (str): Path of a local file.
        backend (str): What decodes it, one of mmcv's backends. Default:
            ``'pillow'``, as in mmseg.

    Raises:
        DataError: If it has other values than 0 to 255.
    """
    try:
        with Image.open(path) as image:
            mode = image.mode
    except OSError:
        # Other backends read other formats, or have an error of their own.
        mode = None
    if mode in LABEL_MODES:
        return
    labels = imread(path, flag='unchanged', backend=backend)
    outside = labels[(labels < 0) | (labels > 255) | (labels % 1 != 0)]
    if outside.size:
        raise DataError(
            'mmseg keeps only 8 bits of the values of a label map, and this '
            f'one holds {np.unique(outside)[:10].tolist()}'
        )


def reads_masks(step: Callable) -> bool:
    """Tell whether a step takes masks from the annotations of objects.

    Args:
        step (Callable): A step of a pipeline.

    Returns:
        bool: False for mmdet's panoptic label maps, and for loaders of other
        packages, which may take masks from elsewhere.
    """
    return (
        getattr(step, 'with_mask', False)
        and _owner(step, '_process_masks') == 'mmdet.LoadAnnotations'
        and _owner(step, '_load_masks') == 'mmdet.LoadAnnotations'
        and _owner(step, 'transform') in _MMDET_LOADERS
    )


def reads_label_maps(step: Callable) -> bool:
    """Tell whether a step is mmseg's own loader of label maps.

    Args:
        step (Callable): A step of a pipeline.

    Returns:
        bool: False for loaders of other packages, which may read any file.
    """
    return (
        _owner(step, '_load_seg_map') == 'mmseg.LoadAnnotations'
        and _owner(step, 'transform') in _MMSEG_LOADERS
    )


def _owner(step: Callable, method: str) -> str:
    """Return the package and name of the class that defines a method."""
    for one in type(step).__mro__:
        if method in vars(one):
            return f'{one.__module__.split(".")[0]}.{one.__name__}'
    return ''


def run_lengths(counts: Union[str, bytes, Sequence[int]]) -> np.ndarray:
    """Return the run lengths of a COCO mask.

    A string stores 5 bits per byte, lowest first, and from the fourth run on
    the difference to the second last run (``rleFrString`` of the COCO API,
    which does not validate its input).

    Args:
        counts (str | bytes | Sequence[int]): The ``counts`` of the mask.

    Returns:
        np.ndarray: Run lengths, int64, starting with background.

    Raises:
        DataError: If the counts are neither such a string nor such numbers.
    """
    if not isinstance(counts, (str, bytes)):
        runs = np.asarray(counts)
        if runs.ndim != 1 or runs.dtype.kind not in 'iu' or (runs < 0).any():
            raise DataError('the counts of its mask are no whole numbers')
        return runs.astype(np.int64)
    counts = counts.encode() if isinstance(counts, str) else counts
    codes = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((codes & 32) == 0)
    if (
        not len(codes)
        or codes.min() < 0
        or codes.max() > 63
        or not len(ends)
        or ends[-1] != len(codes) - 1
    ):
        raise DataError('the counts of its mask are no run lengths')
    starts = np.concatenate([[0], ends[:-1] + 1])
    sizes = ends - starts + 1
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, sizes))
    if shifts.max() > 55:
        raise DataError('the counts of its mask are no run lengths')
    runs = np.add.reduceat((codes & 31) << shifts, starts)
    runs -= np.where(codes[ends] & 16, np.int64(1) << 5 * sizes, 0)
    for first in (1, 2):
        runs[first::2] = runs[first::2].cumsum()
    if (runs < 0).any():
        raise DataError('the counts of its mask are no run lengths')
    return runs


def check_mask(mask: object, size: Tuple[int, int]) -> None:
    """Check that the mask of an object matches its image.

    Args:
        mask (object): COCO's ``segmentation``. Masks that mmdet ignores
            together with their object are accepted: polygons with fewer than
            three points, and run lengths without ``counts`` or ``size``.
        size (tuple[int, int]): Height and width of the image in pixels.

    Raises:
        DataError: If it is neither polygons nor run lengths, or its size is
            not that of the image. The COCO API would leave pixels of such a
            mask undefined.
    """
    problem = polygon_problem(mask)
    if problem:
        raise DataError(problem)
    if isinstance(mask, list):
        for polygon in mask:
            try:
                finite = np.isfinite(np.asarray(polygon, np.float64)).all()
            except (TypeError, ValueError):
                finite = False
            if not finite:
                raise DataError(
                    f'its mask has a polygon of other than numbers: {polygon}'
                )
    elif not isinstance(mask, dict):
        raise DataError(
            f'its mask is neither polygons nor run lengths: {mask!r}'
        )
    elif mask.get('counts') is not None and mask.get('size') is not None:
        if list(mask['size']) != list(size):
            raise DataError(
                f'its mask is {_format(mask["size"])}, and the image is '
                f'{_format(size)}'
            )
        pixels = run_lengths(mask['counts']).sum()
        if pixels != size[0] * size[1]:
            raise DataError(
                f'its mask has {pixels} pixels, and the image '
                f'{size[0] * size[1]}'
            )


def _format(size: Sequence[int]) -> str:
    """Format height and width for a message."""
    return f'{size[1]} px wide and {size[0]} px high'


class CheckedPipeline(Compose):
    """Pipeline of a data set whose errors name the file.

    Between the transforms it checks that JPEG files are not truncated, that
    image, annotations and masks have the same size, and that label maps keep
    their values when they are loaded; at the end, that mmseg's label maps have
    one value per pixel and the size of the image.

    Args:
        pipeline (Compose): The pipeline, whose transforms are reused.
    """

    def __init__(self, pipeline: Compose) -> None:
        super().__init__(pipeline.transforms)

    def __call__(self, data: dict) -> Optional[dict]:
        """Run the transforms on a sample.

        Args:
            data (dict): Data information of the sample.

        Returns:
            dict, optional: The result of the last transform, or None if a
            transform asks for another sample.

        Raises:
            DataError: If the sample is broken.
            PipelineError: If a step fails on it for another reason.
        """
        names = [
            data[key] for key in ('img_path', 'seg_map_path') if data.get(key)
        ]
        name = ' with '.join(map(str, names)) or 'a sample'
        source = data
        try:
            self._check_before(data)
            for step in self.transforms:
                had = {key for key in ('img', 'gt_seg_map') if key in data}
                data = _run(step, data, name)
                if data is None:
                    return None
                self._check_between(step, data, had)
            if 'reduce_zero_label' in source:
                _check_result(data)
        except (DataError, OSError) as error:
            raise DataError(
                f'{name}: {error} (python tools/misc/check_dataset.py CONFIG '
                'finds all such files)'
            ) from error
        return data

    def _check_before(self, data: dict) -> None:
        """Check the annotations before any file is loaded."""
        with_mask = any(map(reads_masks, self.transforms))
        for instance in data.get('instances', ()):
            if not np.isfinite(instance.get('bbox', 0)).all():
                raise DataError(f'an object has the box {instance["bbox"]}')
            if with_mask and 'mask' in instance and 'height' in data:
                check_mask(instance['mask'], (data['height'], data['width']))

    @staticmethod
    def _check_between(step: Callable, data: dict, had: set) -> None:
        """Check the image or label map that a transform has loaded."""
        if 'img' in data and 'img' not in had:
            if _is_file(data.get('img_path')):
                check_jpeg(data['img_path'])
            loaded = tuple(data['img'].shape[:2])
            annotated = data.get('height'), data.get('width')
            if None not in annotated and loaded != annotated:
                raise DataError(
                    f'the image is {_format(loaded)} as loaded, after its '
                    'EXIF orientation, and the annotations say '
                    f'{_format(annotated)}'
                )
        loaded_labels = 'gt_seg_map' in data and 'gt_seg_map' not in had
        if loaded_labels and reads_label_maps(step):
            if _is_file(data.get('seg_map_path')):
                check_label_map(data['seg_map_path'], step.imdecode_backend)
            _check_label_map_size(data)


def _check_label_map_size(data: dict) -> None:
    """Check the size of a label map that mmseg's loader has loaded.

    A map in another resolution may be resized together with its image.
    """
    labels = data['gt_seg_map'].shape
    size = data.get('ori_shape', labels)[:2]
    if len(labels) < 2:
        raise DataError(
            f'the image is {_format(size)}, and mmseg loads label maps of two '
            'pixels or more a side only'
        )
    if abs(labels[0] * size[1] - labels[1] * size[0]) > max(*labels, *size):
        raise DataError(_describe_sizes(size, labels))


def _describe_sizes(size: Sequence[int], labels: Sequence[int]) -> str:
    """Say that an image and its label map have different sizes."""
    return (
        f'the image is {_format(size)} as loaded, after its EXIF orientation, '
        f'and the label map {_format(labels)}'
    )


def _check_result(data: dict) -> None:
    """Check the label map that a pipeline of mmseg has made.

    The losses resize their predictions to any label map, and the metrics fail
    on one that is not of the original size.
    """
    sample = data.get('data_samples', data)
    if 'gt_sem_seg' in sample and 'inputs' in data:
        labels = tuple(sample.gt_sem_seg.data.shape)
        image = tuple(data['inputs'].shape[-2:])
    elif 'gt_seg_map' in data and 'img' in data:
        labels = data['gt_seg_map'].shape
        image = data['img'].shape[:2]
    else:
        return
    if labels[:2] == image and len(labels) == 3 and labels[2] <= 4:
        raise DataError(
            'a label map must have one value a pixel, the number of the '
            f'class, and this one has {labels[2]}: it may be a color image'
        )
    if labels[-2:] not in (image, sample.get('ori_shape', image)[:2]):
        raise DataError(_describe_sizes(image, labels[-2:]))


def _run(step: Callable, data: dict, name: str) -> Optional[dict]:
    """Run a transform; an error names the transform and the sample.

    What a transform that loads files raises is taken to be due to the file.
    The cause of other errors is not known, so they keep their traceback.
    """
    try:
        return step(data)
    except (MemoryError, UserError):
        raise
    except Exception as error:
        image = data.get('img')
        size = '' if image is None else f', {_format(image.shape)}'
        problem = f'{type(step).__name__} fails on the image{size}'
        if isinstance(step, _LOADERS) and isinstance(error, _OF_FILES):
            raise DataError(f'{problem}: {one_line(error)}') from error
        raise PipelineError(
            f'{name}: {problem}: {type(error).__name__}: {one_line(error)}'
        ) from error


def _is_file(path: object) -> bool:
    """Return whether a path is a local file."""
    return isinstance(path, str) and osp.isfile(path)


def check_samples(dataset: Dataset) -> None:
    """Make a data set check each sample as it is loaded.

    Args:
        dataset (Dataset): The data set; modified in place.
    """
    for leaf in leaf_datasets(dataset):
        pipeline = getattr(leaf, 'pipeline', None)
        if isinstance(pipeline, Compose):
            leaf.pipeline = CheckedPipeline(pipeline)
