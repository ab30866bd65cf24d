"""Detection: annotations in COCO's format."""

import json
import os.path as osp
from collections import Counter
from functools import partial
from math import isinf
from typing import Dict, List, Tuple

from torch.utils.data import Dataset

from mmbiformer.utils.text import one_line

from .checked_pipeline import CheckedPipeline
from .images import inspect_all, inspect_image, step_of
from .reference_counts import REFERENCE_COUNTS, compare_counts
from .report import SplitReport

# What each record must have for mmdet.
_KEYS = {
    'images': ('id', 'file_name', 'height', 'width'),
    'annotations': ('id', 'image_id', 'category_id', 'bbox', 'area'),
    'categories': ('id', 'name'),
}


def check_coco(dataset: Dataset, report: SplitReport, workers: int) -> None:
    """Look at a COCO annotation file, its objects and its images.

    Args:
        dataset (Dataset): mmdet's CocoDataset or one derived from it, built
            with ``lazy_init=True``.
        report (SplitReport): Gets what there is, and what is wrong.
        workers (int): Processes that read images.
    """
    path = dataset.ann_file
    try:
        with open(path, encoding='utf-8') as file:
            content = json.load(file)
        tables = {key: _records(content, key, report) for key in _KEYS}
    except (OSError, RecursionError, ValueError) as error:
        report.add('data set cannot be read', f'{path}: {one_line(error)}')
        return
    classes = tuple(dataset.metainfo['classes'])
    names = _check_names(tables, classes, report)
    images = {}
    for image in tables['images']:
        if image['id'] in images:
            report.add(
                'image id twice',
                f'{image["id"]}: {images[image["id"]]["file_name"]}, '
                f'{image["file_name"]}',
            )
        images[image['id']] = image
    objects = _check_objects(tables, images, names, report)
    with_mask = any(
        getattr(step, 'with_mask', False)
        for step in dataset.pipeline.transforms
    )
    _count(dataset, tables, images, objects, names, report)
    look = partial(
        inspect_image,
        loader=step_of(dataset, 'LoadImage'),
        pipeline=CheckedPipeline(dataset.pipeline),
    )
    tasks = []
    for key, image in images.items():
        info = dict(
            img_path=osp.join(dataset.data_prefix['img'], image['file_name']),
            img_id=key,
            height=image['height'],
            width=image['width'],
            instances=[],
        )
        masks = [
            (f'object {one["id"]}', one['bbox'], one.get('segmentation'))
            for one in objects.get(key, ())
            if with_mask
        ]
        tasks.append((info, masks))
    for findings, _ in inspect_all(look, tasks, workers):
        report.extend(findings)
    full = getattr(type(dataset), 'METAINFO', {}).get('classes')
    if osp.basename(path) in REFERENCE_COUNTS and classes == full:
        compare_counts(report, osp.basename(path))


def annotation_problems(path: str) -> List[str]:
    """Find the records of a COCO annotation file that mmdet cannot read.

    Args:
        path (str): The file.

    Returns:
        list[str]: What is wrong, such as a key that is missing.
    """
    report = SplitReport('')
    try:
        with open(path, encoding='utf-8') as file:
            content = json.load(file)
        tables = {key: _records(content, key, report) for key in _KEYS}
    except (OSError, RecursionError, ValueError) as error:
        return [one_line(error)]
    seen = set()
    for one in tables['annotations']:
        if one['id'] in seen:
            report.add('object id twice', f'object {one["id"]}')
        seen.add(one['id'])
    return [
        f'{kind}: {where}'
        for kind, found in report.problems.items()
        for where in found
    ]


def _records(content: object, key: str, report: SplitReport) -> List[dict]:
    """Return those records of a table that mmdet could read."""
    table = content.get(key, []) if isinstance(content, dict) else None
    if not isinstance(table, list) or (not table and key != 'annotations'):
        raise ValueError(f'there is no list of {key!r}, or an empty one')
    good = []
    for index, record in enumerate(table):
        where = f'{key}[{index}]'
        if not isinstance(record, dict):
            report.add('record with a wrong value', f'{where} is {record!r}')
            continue
        missing = [name for name in _KEYS[key] if name not in record]
        if missing:
            report.add('record without a key', f'{where}: {missing}')
            continue
        wrong = [
            f'{name}={record[name]!r}'
            for name in _KEYS[key]
            if not _is_right(name, record[name])
        ]
        if wrong:
            report.add(
                'record with a wrong value', f'{where}: {", ".join(wrong)}'
            )
        else:
            good.append(record)
    return good


def _is_right(name: str, value: object) -> bool:
    """Tell whether a value of a record is of its kind."""
    if name in ('file_name', 'name'):
        return isinstance(value, str) and bool(value)
    if name == 'bbox':
        return (
            isinstance(value, list)
            and len(value) == 4
            and all(_is_right('area', one) for one in value)
            and not any(map(isinf, value[2:]))
        )
    if name in ('height', 'width'):
        return isinstance(value, int) and value > 0
    if name == 'area':
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, (int, str))


def _check_names(
    tables: Dict[str, List[dict]],
    classes: Tuple[str, ...],
    report: SplitReport,
) -> Dict[object, str]:
    """Compare classes and categories; return the class of each category."""
    categories = tables['categories']
    for key in ('id', 'name'):
        amounts = Counter(one[key] for one in categories)
        report.extend(
            ('category twice', f'{key}={value!r}')
            for value, amount in amounts.items()
            if amount > 1
        )
    numbered = [one['name'] for one in categories if one['name'] in classes]
    missing = [name for name in classes if name not in numbered]
    report.extend(
        (
            'class without a category',
            f'{name!r}; the categories are '
            f'{[one["name"] for one in categories][:100]}',
        )
        for name in missing
    )
    # Said already where a class is missing, or a category is there twice.
    if sorted(numbered) == sorted(classes) and tuple(numbered) != classes:
        report.add('classes in another order', tuple(numbered))
    amounts = Counter(one['category_id'] for one in tables['annotations'])
    report.extend(
        (
            'category that is no class',
            f'{one["name"]!r}, of {amounts[one["id"]]:,} objects',
        )
        for one in categories
        if one['name'] not in classes
    )
    return {
        one['id']: one['name'] for one in categories if one['name'] in classes
    }


def _check_objects(
    tables: Dict[str, List[dict]],
    images: Dict[object, dict],
    names: Dict[object, str],
    report: SplitReport,
) -> Dict[object, List[dict]]:
    """Look at the objects; return those that mmdet takes, of each image."""
    kept: Dict[object, List[dict]] = {}
    categories = {one['id'] for one in tables['categories']}
    seen = set()
    for one in tables['annotations']:
        where = f'object {one["id"]}'
        if one['id'] in seen:
            report.add('object id twice', where)
        seen.add(one['id'])
        image = images.get(one['image_id'])
        if image is None:
            report.add(
                'object of an unknown image',
                f'{where}: image_id={one["image_id"]!r}',
            )
            continue
        where = f'{image["file_name"]}, {where}'
        if one['category_id'] not in categories:
            report.add(
                'object of an unknown category',
                f'{where}: category_id={one["category_id"]!r}',
            )
        if one['category_id'] not in names or one.get('ignore'):
            continue
        x, y, width, height = one['bbox']
        right, bottom = x + width, y + height
        where = f'{where}: bbox={one["bbox"]}'
        # As mmdet's CocoDataset decides; nothing is above or below NaN.
        if width < 1 or height < 1 or one['area'] <= 0:
            report.add('box without area', f'{where}, area={one["area"]}')
        elif not (
            min(right, image['width']) > max(x, 0)
            and min(bottom, image['height']) > max(y, 0)
        ):
            report.add('box outside the image', where)
        else:
            kept.setdefault(one['image_id'], []).append(one)
            # Rounding is no mistake.
            if (
                min(x, y) < -1
                or right > image['width'] + 1
                or bottom > image['height'] + 1
            ):
                report.add('box partly outside the image', where)
    return kept


def _count(
    dataset: Dataset,
    tables: Dict[str, List[dict]],
    images: Dict[object, dict],
    objects: Dict[object, List[dict]],
    names: Dict[object, str],
    report: SplitReport,
) -> None:
    """Count images and objects, and find what the data set leaves out."""
    # As mmdet counts: objects that are left out for their boxes, too.
    with_objects = {
        one['image_id']
        for one in tables['annotations']
        if one['category_id'] in names and one['image_id'] in images
    }
    kept = [one for some in objects.values() for one in some]
    crowds = sum(bool(one.get('iscrowd')) for one in kept)
    report.counts.update(
        {
            'images': len(tables['images']),
            'images with objects': len(with_objects),
            'objects': len(tables['annotations']),
            'objects used': len(kept) - crowds,
            'crowds used': crowds,
        }
    )
    for name in dataset.metainfo['classes']:
        report.classes.setdefault(name, (0, 0))
    for some in objects.values():
        amounts = Counter(
            names[one['category_id']] for one in some if not one.get('iscrowd')
        )
        for name, amount in amounts.items():
            before, pictures = report.classes[name]
            report.classes[name] = before + amount, pictures + 1
    filter_cfg = dataset.filter_cfg or {}
    smallest = 0 if dataset.test_mode else filter_cfg.get('min_size', 0)
    for key, image in images.items():
        if key not in with_objects:
            report.add('image without objects', image['file_name'])
        elif min(image['height'], image['width']) < smallest:
            report.add('image below filter_cfg.min_size', image['file_name'])
