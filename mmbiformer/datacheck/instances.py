"""Check the objects and images of a detection data set of any format."""

import os.path as osp
from collections import Counter
from functools import partial
from typing import Iterator, List
from xml.etree import ElementTree

from torch.utils.data import Dataset

from mmbiformer.utils.errors import ConfigError

from .checked_pipeline import CheckedPipeline
from .coco import tally_file
from .images import find_transform, inspect_all, inspect_image
from .objects import (
    NO_AREA,
    OUTSIDE,
    SMALL_IMAGE,
    ObjectTally,
    image_name,
    instance_problem,
    labeled_instances,
    reads_coco,
)
from .records import load_records
from .report import SplitReport


def check_instances(
    dataset: Dataset, report: SplitReport, workers: int
) -> None:
    """Check the objects of a data set, and its images.

    The objects are those that the data set yields, whatever the format of
    its files.

    Args:
        dataset (Dataset): mmdet's BaseDetDataset or one derived from it,
            built with ``lazy_init=True``.
        report (SplitReport): Report to add counts and problems to.
        workers (int): Number of processes that read images.

    Raises:
        ConfigError: If its records are not images, but videos.
    """
    try:
        infos = load_records(dataset)
    except ValueError as error:
        report.add('data set cannot be read', error)
        return
    if any('img_path' not in info for info in infos):
        raise ConfigError(
            f'data sets of type {type(dataset).__name__} are not supported: '
            'their records are not images'
        )
    count_objects(dataset, infos, report)
    _find_other_names(dataset, infos, report)
    inspect = partial(
        inspect_image,
        loader=find_transform(dataset, 'LoadImage'),
        pipeline=CheckedPipeline(dataset.pipeline),
    )
    with_mask = any(
        getattr(step, 'with_mask', False)
        for step in dataset.pipeline.transforms
    )
    tasks = [
        (dict(info, instances=[]), list(_masks(info)) if with_mask else [])
        for info in infos
    ]
    for findings, _ in inspect_all(inspect, tasks, workers):
        report.extend(findings)


def _masks(info: dict) -> Iterator[tuple]:
    """Yield name, box and mask of each object that is trained on.

    Those of panoptic data sets are in the label map.
    """
    if 'segments_info' in info:
        return
    for number, instance in enumerate(info.get('instances', ())):
        if instance_problem(instance, info) is None:
            left, top, right, bottom = instance['bbox']
            box = [left, top, right - left, bottom - top]
            yield f'object {number}', box, instance.get('mask')


def tally_records(dataset: Dataset) -> ObjectTally:
    """Count the objects that training uses and skips.

    Args:
        dataset (Dataset): A data set of detection, built with
            ``lazy_init=True``.

    Returns:
        ObjectTally: Its objects.
    """
    if reads_coco(type(dataset)):
        return tally_file(dataset)
    return count_objects(dataset, load_records(dataset), SplitReport(''))


def count_objects(
    dataset: Dataset, infos: List[dict], report: SplitReport
) -> ObjectTally:
    """Count images and objects, and find what is skipped or ignored.

    Args:
        dataset (Dataset): A data set of detection.
        infos (list[dict]): Its records.
        report (SplitReport): Report to add counts and problems to.

    Returns:
        ObjectTally: The objects that training uses and skips.
    """
    names = tuple(dataset.metainfo.get('classes') or ())
    for name in names:
        report.classes.setdefault(name, (0, 0))
    filter_cfg = getattr(dataset, 'filter_cfg', None) or {}
    min_size = 0 if dataset.test_mode else filter_cfg.get('min_size', 0)
    tally = ObjectTally()
    for info in infos:
        report.counts['images'] += 1
        instances = info.get('instances', ())
        report.counts['images with objects'] += bool(instances)
        where = image_name(info)
        size = info.get('height'), info.get('width')
        small = None not in size and min(size) < min_size
        if not instances:
            report.add('image without objects', where)
        elif small:
            report.add('image below filter_cfg.min_size', where)
        amounts = Counter()
        for number, (name, instance, problem) in enumerate(
            labeled_instances(dataset, info)
        ):
            if problem in (NO_AREA, OUTSIDE):
                report.add(
                    problem,
                    f'{where}, object {number} ({name}): '
                    f'{list(instance["bbox"])}',
                )
            elif problem is None and small:
                problem = SMALL_IMAGE
            elif problem is None:
                _check_edges(
                    instance, info, f'{where}, object {number}', report
                )
            box = instance['bbox'] if problem == NO_AREA else ()
            tally.add(name, problem, box)
            if problem is None:
                amounts[name] += 1
        for name in set(amounts) & set(names):
            total, images = report.classes[name]
            report.classes[name] = total + amounts[name], images + 1
    report.counts['objects'] += sum(tally.total.values())
    report.counts['objects used'] += sum(tally.used.values())
    if not dataset.test_mode:
        report.tallies.append(tally)
    return tally


def _find_other_names(
    dataset: Dataset, infos: List[dict], report: SplitReport
) -> None:
    """Find objects in XML files that are of no class, and thus skipped."""
    amounts = Counter(
        name.text
        for info in infos
        if osp.isfile(info.get('xml_path', ''))
        for name in ElementTree.parse(info['xml_path']).iterfind('object/name')
    )
    report.extend(
        ('category that is not a class', f'{name!r}, with {amount:,} objects')
        for name, amount in amounts.items()
        if name not in dataset.metainfo['classes']
    )


def _check_edges(
    instance: dict, info: dict, where: str, report: SplitReport
) -> None:
    """Note a box that is partly outside the image."""
    box = instance.get('bbox')
    height, width = info.get('height'), info.get('width')
    if box is None or len(box) != 4 or not height or not width:
        return
    # Tolerate rounding.
    if min(box[:2]) < -1 or box[2] > width + 1 or box[3] > height + 1:
        report.add('box partly outside the image', f'{where}: {list(box)}')
