"""Check the annotations that a metric of COCO evaluates with."""

import functools
import json
import os.path as osp
from typing import Iterator, List, Sequence, Union

from mmbiformer.utils.errors import DataError
from mmbiformer.utils.text import list_some, one_line

from .polygons import polygon_problem
from .report import Finding, SplitReport


def check_metric(metric: object) -> None:
    """Check the annotations of a metric before the first iteration.

    Otherwise pycocotools fails after a whole epoch.

    Args:
        metric (object): A metric; other than mmdet's CocoMetric with an
            ``ann_file``, any is accepted.

    Raises:
        DataError: If pycocotools cannot evaluate with the annotations.
    """
    kinds = [kind.__name__ for kind in type(metric).__mro__]
    api = getattr(metric, '_coco_api', None)
    if (
        'CocoMetric' not in kinds
        or 'LVISMetric' in kinds
        or api is None
        or metric.format_only
    ):
        return
    classes = (metric.dataset_meta or {}).get('classes') or ()
    findings = list(evaluation_problems(api.dataset, metric.metrics, classes))
    if findings:
        names = [f'{kind}: {where}' for kind, where in findings]
        raise DataError(
            f'the annotations of {kinds[0]} cannot be evaluated: '
            f'{list_some(names, 3)} (python tools/misc/check_dataset.py '
            'CONFIG finds all)'
        )


def evaluation_problems(
    content: dict, metrics: Sequence[str], classes: Sequence[str]
) -> Iterator[Finding]:
    """Yield what pycocotools cannot evaluate.

    Args:
        content (dict): The annotation file.
        metrics (Sequence[str]): What is evaluated, such as ``'segm'``.
        classes (Sequence[str]): Names of the classes.

    Yields:
        tuple: A kind of problem, and the object.
    """
    if 'info' not in content and needs_info():
        yield (
            'no info in the annotations',
            "add 'info': {} to the file, or update pycocotools",
        )
    images = {image['id'] for image in content.get('images', ())}
    categories = {
        category['id']
        for category in content.get('categories', ())
        if category['name'] in classes
    }
    crowds = amount = 0
    for item in content.get('annotations', ()):
        if (
            item['image_id'] not in images
            or item['category_id'] not in categories
        ):
            continue
        amount += 1
        where = f'object {item["id"]}'
        if item.get('iscrowd') is None:
            null = ': iscrowd=None' if 'iscrowd' in item else ''
            yield 'object without iscrowd', where + null
            continue
        crowds += bool(item['iscrowd'])
        if 'segm' in metrics:
            mask = item.get('segmentation')
            problem = polygon_problem(mask)
            # pycocotools takes four numbers as a box.
            if not mask or (
                isinstance(mask, list)
                and isinstance(mask[0], list)
                and len(mask[0]) < 6
                and not problem
            ):
                yield 'object that has no mask to evaluate', where
            elif problem:
                yield 'polygons in another form', f'{where}: {problem}'
    if amount and crowds == amount:
        yield 'no object to evaluate', f'all {amount:,} objects are crowds'


def check_evaluator_files(
    evaluator: Union[dict, List[dict]], report: SplitReport
) -> None:
    """Check the annotation files of the metrics of a config.

    Args:
        evaluator (dict | list[dict]): The ``val_evaluator`` or
            ``test_evaluator``.
        report (SplitReport): Report to add problems to, with the classes.
    """
    metrics = evaluator if isinstance(evaluator, list) else [evaluator]
    for metric in metrics:
        path = metric.get('ann_file')
        if (
            metric.get('type') != 'CocoMetric'
            or metric.get('format_only')
            or not path
            or not osp.isfile(path)
        ):
            continue
        kinds = metric.get('metric', 'bbox')
        try:
            with open(path, encoding='utf-8') as file:
                content = json.load(file)
            if any(item['id'] == 0 for item in content.get('annotations', ())):
                report.add('object with the id 0', path)
            report.extend(
                evaluation_problems(
                    content,
                    [kinds] if isinstance(kinds, str) else kinds,
                    tuple(report.classes),
                )
            )
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            report.add('data set cannot be read', f'{path}: {one_line(error)}')


@functools.cache
def needs_info() -> bool:
    """Tell whether this version of pycocotools needs ``info`` to evaluate.

    Returns:
        bool: Whether it does, as 2.0.9 and 2.0.10 do.
    """
    from pycocotools.coco import COCO

    api = COCO()
    item = dict(id=1, image_id=1, category_id=1, bbox=[0, 0, 1, 1], score=1)
    api.dataset = dict(images=[dict(id=1)], annotations=[], categories=[])
    api.imgs = {1: dict(id=1)}
    try:
        api.loadRes([item])
    except KeyError:
        return True
    return False
