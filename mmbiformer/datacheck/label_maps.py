"""Check the images and label maps of a segmentation data set."""

import os
import os.path as osp
from contextlib import suppress
from copy import deepcopy
from functools import partial
from typing import Callable, Iterator, List, Optional, Tuple

import numpy as np
from mmengine.dataset import Compose
from torch.utils.data import Dataset

from mmbiformer.utils.errors import DataError, PipelineError
from mmbiformer.utils.text import one_line

from .checked_pipeline import (
    CheckedPipeline,
    check_label_map,
    reads_label_maps,
)
from .images import find_transform, inspect_all, inspect_image, pop_finding
from .reference_counts import REFERENCE_COUNTS, compare_counts
from .report import Finding, SplitReport

IMAGE_SUFFIXES = (
    *('.jpg', '.jpeg', '.jpe', '.png', '.bmp', '.tif', '.tiff'),
    *('.webp', '.gif', '.ppm', '.pgm'),
)


def check_label_maps(
    dataset: Dataset, report: SplitReport, workers: int
) -> None:
    """Check images and their label maps.

    Args:
        dataset (Dataset): mmseg's BaseSegDataset or one derived from it,
            built with ``lazy_init=True``.
        report (SplitReport): Report to add counts and problems to.
        workers (int): Number of processes that read images.
    """
    try:
        infos = dataset.load_data_list()
    except (AssertionError, OSError, ValueError) as error:
        report.add('data set cannot be read', one_line(error))
        return
    classes = tuple(dataset.metainfo.get('classes') or ())
    pipeline = CheckedPipeline(dataset.pipeline)
    loads_labels = _loads_labels(infos, pipeline)
    inspect = partial(
        _inspect_pair,
        loader=find_transform(dataset, 'LoadImage'),
        pipeline=pipeline,
        loads_labels=loads_labels,
        classes=len(classes),
        ignore_index=dataset.ignore_index,
    )
    report.counts['images'] += len(infos)
    _check_folders(dataset, infos, report)
    size = max(256, len(classes))
    pixels = np.zeros(size, np.int64)
    num_images = np.zeros(size, np.int64)
    for findings, amounts in inspect_all(inspect, infos, workers):
        report.extend(findings)
        if amounts is not None:
            report.counts['label maps'] += 1
            pixels += amounts
            num_images += amounts > 0
    if loads_labels:
        report.unit = 'pixels'
        total = max(1, pixels.sum())
        for index, name in enumerate(classes):
            share = float(pixels[index] / total)
            report.classes[name] = share, int(num_images[index])
        ignored = {255, dataset.ignore_index} & set(range(size))
        share = pixels[list(ignored)].max() / total
        report.remarks.append(f'{share:.2%} of the pixels are ignored')
    folder = dataset.data_prefix.get('img_path', '').rstrip('/')
    if type(dataset).__name__ == 'ADE20KDataset':
        for key in REFERENCE_COUNTS:
            if folder.endswith(f'/{key}'):
                compare_counts(report, key)


def _check_folders(
    dataset: Dataset, infos: List[dict], report: SplitReport
) -> None:
    """Find files that the data set skips."""
    if dataset.ann_file:
        return
    for key, suffix, kind in (
        ('img_path', IMAGE_SUFFIXES, 'image with another suffix'),
        ('seg_map_path', dataset.seg_map_suffix, 'label map without an image'),
    ):
        folder = dataset.data_prefix.get(key)
        if not folder or not osp.isdir(folder):
            continue
        read = {osp.normpath(info[key]) for info in infos}
        report.extend(
            (kind, path)
            for path in sorted(_files_in(folder))
            if path.lower().endswith(suffix) and path not in read
        )


def _files_in(folder: str) -> Iterator[str]:
    """Yield the files in a folder and its subfolders."""
    for parent, _, names in os.walk(folder):
        for name in names:
            yield osp.normpath(osp.join(parent, name))


def _loads_labels(infos: List[dict], pipeline: CheckedPipeline) -> bool:
    """Tell whether a pipeline loads label maps, by a step of any name."""
    if any(map(reads_label_maps, pipeline.transforms)):
        return True
    for info in infos[:5]:
        # Of broken files, the next image tells.
        with suppress(Exception):
            return _load_labels(info, pipeline) is not None
    return False


def _load_labels(
    info: dict, pipeline: CheckedPipeline
) -> Optional[np.ndarray]:
    """Load a label map by the steps of a pipeline, and run no more of them.

    Args:
        info (dict): Data information of the image.
        pipeline (CheckedPipeline): The whole pipeline.

    Returns:
        np.ndarray, optional: The first label map with at most one value per
        pixel, or None if the pipeline makes none.
    """
    for step in pipeline.transforms:
        if reads_label_maps(step):
            # It needs no image.
            check_label_map(info['seg_map_path'], step.imdecode_backend)
            labels = step(deepcopy(info))['gt_seg_map']
            if labels.ndim <= 2:
                return labels
    data = deepcopy(info)
    for step in pipeline.transforms:
        data = step(data)
        labels = None if data is None else data.get('gt_seg_map')
        if labels is not None and labels.ndim <= 2:
            return labels.astype(np.int64)
        if data is None:
            return None
    # Or it says what is wrong with the label map.
    pipeline(deepcopy(info))
    return None


def _inspect_pair(
    info: dict,
    loader: Callable,
    pipeline: CheckedPipeline,
    loads_labels: bool,
    classes: int,
    ignore_index: int,
) -> Tuple[List[Finding], Optional[np.ndarray]]:
    """Check an image and its label map.

    Args:
        info (dict): Data information of the image.
        loader (Callable): The transform that loads images.
        pipeline (CheckedPipeline): The whole pipeline.
        loads_labels (bool): Whether it loads label maps.
        classes (int): Number of classes.
        ignore_index (int): The label that is ignored.

    Returns:
        tuple: The findings, and the number of pixels of each label, of shape
        (256, ) or one of each class, or None if there is no valid label map.
    """
    labels_path = info.get('seg_map_path')
    problems: List[Finding] = []
    labels = None
    whole = pipeline
    if loads_labels and labels_path is not None:
        if not osp.isfile(labels_path):
            problems.append(('missing label map', labels_path))
        else:
            try:
                labels = _load_labels(info, pipeline)
            except Exception as error:
                where = f'{labels_path}: {one_line(error)}'
                problems.append(('broken label map', where))
    if problems:
        # The pipeline would only report the same problem again.
        pipeline = Compose([])
    findings, size = inspect_image((info, []), loader, pipeline)
    if size is None and not any(map(reads_label_maps, whole.transforms)):
        # Other loaders may have failed on the image.
        problems = [one for one in problems if one[0] == 'missing label map']
    findings = problems + findings
    # mmseg squeezes label maps of one pixel in width or height.
    if labels is None or labels.ndim != 2:
        return findings, None
    where = f'{info["img_path"]} with {labels_path}'
    rotated = pop_finding(
        findings, ('image rotated by EXIF', info['img_path'])
    )
    if size is not None and labels.shape != size and _is_rejected(info, whole):
        findings.append(
            (
                'label map size mismatch',
                f'{where}: {size[1]} x {size[0]} px as loaded'
                f'{" and rotated by EXIF" * rotated}, {labels.shape[1]} x '
                f'{labels.shape[0]} px',
            )
        )
    elif rotated:
        findings.append(('label map not rotated by EXIF', where))
    values, counts = np.unique(labels, return_counts=True)
    outside = [
        value
        for value in values.tolist()
        if not 0 <= value < classes and value not in (255, ignore_index)
    ]
    amounts = np.zeros(max(256, classes), np.int64)
    inside = (values >= 0) & (values < len(amounts))
    amounts[values[inside]] = counts[inside]
    if classes and outside:
        findings.append(
            (
                'label outside the classes',
                f'{labels_path}: {outside[:10]}, the classes are 0 to '
                f'{classes - 1}',
            )
        )
    elif not amounts[:classes].any():
        findings.append(('label map without labels', labels_path))
    return findings, amounts


def _is_rejected(info: dict, pipeline: CheckedPipeline) -> bool:
    """Tell whether training would refuse a pair of image and label map."""
    try:
        pipeline(deepcopy(info))
    except (DataError, PipelineError):
        return True
    return False
