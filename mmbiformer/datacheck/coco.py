"""Check the annotations and images of a COCO data set."""

import json
import os.path as osp
from collections import Counter
from functools import partial
from math import isinf
from typing import Dict, List, Tuple

from torch.utils.data import Dataset

from mmbiformer.utils.text import one_line

from .checked_pipeline import CheckedPipeline
from .images import find_transform, inspect_all, inspect_image
from .objects import (
    CROWD,
    NO_AREA,
    OTHER_TYPE,
    OUTSIDE,
    SMALL_IMAGE,
    ZERO_AREA,
    ObjectTally,
)
from .reference_counts import REFERENCE_COUNTS, compare_counts
from .report import SplitReport

# Keys that mmdet needs in each record.
_KEYS = {
    'images': ('id', 'file_name', 'height', 'width'),
    'annotations': ('id', 'image_id', 'category_id', 'bbox', 'area'),
    'categories': ('id', 'name'),
}


def check_coco(dataset: Dataset, report: SplitReport, workers: int) -> None:
    """Check a COCO annotation file, its objects and its images.

    Args:
        dataset (Dataset): mmdet's CocoDataset or one derived from it, built
            with ``lazy_init=True``.
        report (SplitReport): Report to add counts and problems to.
        workers (int): Number of processes that read images.
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
                'duplicate image id',
                f'{image["id"]}: {images[image["id"]]["file_name"]}, '
                f'{image["file_name"]}',
            )
        images[image['id']] = image
    min_size = _min_size(dataset)
    tally = ObjectTally()
    objects = _check_objects(tables, images, names, min_size, tally, report)
    if not dataset.test_mode:
        report.tallies.append(tally)
    with_mask = any(
        getattr(transform, 'with_mask', False)
        for transform in dataset.pipeline.transforms
    )
    _count(dataset, tables, images, objects, names, min_size, report)
    inspect = partial(
        inspect_image,
        loader=find_transform(dataset, 'LoadImage'),
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
            (f'object {item["id"]}', item['bbox'], item.get('segmentation'))
            for item in objects.get(key, ())
            if with_mask
        ]
        tasks.append((info, masks))
    for findings, _ in inspect_all(inspect, tasks, workers):
        report.extend(findings)
    all_classes = getattr(type(dataset), 'METAINFO', {}).get('classes')
    if osp.basename(path) in REFERENCE_COUNTS and classes == all_classes:
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
    for item in tables['annotations']:
        if item['id'] in seen:
            report.add('duplicate object id', f'object {item["id"]}')
        seen.add(item['id'])
    return [
        f'{kind}: {where}'
        for kind, found in report.problems.items()
        for where in found
    ]


def tally_file(dataset: Dataset) -> ObjectTally:
    """Count the objects that mmdet uses and skips in an annotation file.

    Args:
        dataset (Dataset): mmdet's CocoDataset or one derived from it.

    Returns:
        ObjectTally: The objects of its classes.
    """
    tally, report = ObjectTally(), SplitReport('')
    with open(dataset.ann_file, encoding='utf-8') as file:
        content = json.load(file)
    tables = {key: _records(content, key, report) for key in _KEYS}
    names = _check_names(tables, tuple(dataset.metainfo['classes']), report)
    images = {image['id']: image for image in tables['images']}
    _check_objects(tables, images, names, _min_size(dataset), tally, report)
    return tally


def _min_size(dataset: Dataset) -> float:
    """Return the side in pixels below which images are not trained on."""
    if dataset.test_mode:
        return 0
    return (dataset.filter_cfg or {}).get('min_size', 0)


def _records(content: object, key: str, report: SplitReport) -> List[dict]:
    """Return the records of a table that mmdet can read."""
    table = content.get(key, []) if isinstance(content, dict) else None
    if not isinstance(table, list) or (not table and key != 'annotations'):
        raise ValueError(f'there is no list of {key!r}, or an empty one')
    valid = []
    for index, record in enumerate(table):
        where = f'{key}[{index}]'
        if not isinstance(record, dict):
            report.add(
                'record with an invalid value', f'{where} is {record!r}'
            )
            continue
        missing = [name for name in _KEYS[key] if name not in record]
        if missing:
            report.add('record without a key', f'{where}: {missing}')
            continue
        wrong = [
            f'{name}={record[name]!r}'
            for name in _KEYS[key]
            if not _is_valid(name, record[name])
        ]
        if wrong:
            report.add(
                'record with an invalid value', f'{where}: {", ".join(wrong)}'
            )
        else:
            valid.append(record)
    return valid


def _is_valid(name: str, value: object) -> bool:
    """Return whether a value of a record is of the right type and range."""
    if name in ('file_name', 'name'):
        return isinstance(value, str) and bool(value)
    if name == 'bbox':
        return (
            isinstance(value, list)
            and len(value) == 4
            and all(_is_valid('area', number) for number in value)
            and not any(map(isinf, value[2:]))
        )
    if name in ('height', 'width'):
        # Some tools write 160.0, which mmdet reads like 160.
        return _is_valid('area', value) and value > 0
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
    for key, other in (('id', 'name'), ('name', 'id')):
        same: Dict[object, list] = {}
        for category in categories:
            same.setdefault(category[key], []).append(category[other])
        report.extend(
            (
                'duplicate category',
                f'{key}={value!r} has the {other}s '
                f'{", ".join(map(repr, found))}',
            )
            for value, found in same.items()
            if len(found) > 1
        )
    names = [category['name'] for category in categories]
    numbered = [name for name in names if name in classes]
    missing = [name for name in classes if name not in numbered]
    report.extend(
        (
            'class without a category',
            f'{name!r}; the categories are {names[:100]}',
        )
        for name in missing
    )
    # Missing classes and duplicate categories are reported above.
    if sorted(numbered) == sorted(classes) and tuple(numbered) != classes:
        report.add('classes in a different order', tuple(numbered))
    amounts = Counter(item['category_id'] for item in tables['annotations'])
    report.extend(
        (
            'category that is not a class',
            f'{category["name"]!r}, with {amounts[category["id"]]:,} objects',
        )
        for category in categories
        if category['name'] not in classes
    )
    return {
        category['id']: category['name']
        for category in categories
        if category['name'] in classes
    }


def _check_objects(
    tables: Dict[str, List[dict]],
    images: Dict[object, dict],
    names: Dict[object, str],
    min_size: float,
    tally: ObjectTally,
    report: SplitReport,
) -> Dict[object, List[dict]]:
    """Check the objects; return those that mmdet uses, by image."""
    kept: Dict[object, List[dict]] = {}
    categories = {category['id'] for category in tables['categories']}
    # Ids that only differ in their type.
    texts = {str(key): name for key, name in names.items()}
    image_texts = set(map(str, images))
    seen = set()
    for item in tables['annotations']:
        where = f'object {item["id"]}'
        category = item['category_id']
        name = names.get(category)
        if item['id'] in seen:
            report.add('duplicate object id', where)
        seen.add(item['id'])
        image = images.get(item['image_id'])
        if image is None:
            report.add(
                'object with an unknown image',
                f'{where}: image_id={item["image_id"]!r}',
            )
            if name and str(item['image_id']) in image_texts:
                tally.add(name, OTHER_TYPE)
            continue
        where = f'{image["file_name"]}, {where}'
        if category not in categories:
            report.add(
                'object with an unknown category',
                f'{where}: category_id={category!r}',
            )
            if str(category) in texts:
                tally.add(texts[str(category)], OTHER_TYPE)
        if name is None:
            continue
        if item.get('ignore'):
            tally.add(name, CROWD)
            continue
        x, y, width, height = item['bbox']
        right, bottom = x + width, y + height
        where = f'{where}: bbox={item["bbox"]}'
        # The rule of mmdet's CocoDataset; comparisons with NaN are false.
        if width < 1 or height < 1 or item['area'] <= 0:
            report.add(NO_AREA, f'{where}, area={item["area"]}')
            if width < 1 or height < 1:
                tally.add(name, NO_AREA, item['bbox'])
            else:
                tally.add(name, ZERO_AREA)
            continue
        if not (
            min(right, image['width']) > max(x, 0)
            and min(bottom, image['height']) > max(y, 0)
        ):
            report.add(OUTSIDE, where)
            tally.add(name, OUTSIDE)
            continue
        kept.setdefault(item['image_id'], []).append(item)
        if item.get('iscrowd'):
            tally.add(name, CROWD)
        elif min(image['height'], image['width']) < min_size:
            tally.add(name, SMALL_IMAGE)
        else:
            tally.add(name)
        # Tolerate rounding.
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
    min_size: float,
    report: SplitReport,
) -> None:
    """Count images and objects, and find images that the data set skips."""
    # As mmdet counts: including objects that are skipped for their boxes.
    with_objects = {
        item['image_id']
        for item in tables['annotations']
        if item['category_id'] in names and item['image_id'] in images
    }
    kept = [item for items in objects.values() for item in items]
    crowds = sum(bool(item.get('iscrowd')) for item in kept)
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
    for items in objects.values():
        amounts = Counter(
            names[item['category_id']]
            for item in items
            if not item.get('iscrowd')
        )
        for name, amount in amounts.items():
            total, num_images = report.classes[name]
            report.classes[name] = total + amount, num_images + 1
    for key, image in images.items():
        if key not in with_objects:
            report.add('image without objects', image['file_name'])
        elif min(image['height'], image['width']) < min_size:
            report.add('image below filter_cfg.min_size', image['file_name'])
