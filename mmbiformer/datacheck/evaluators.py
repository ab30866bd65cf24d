"""Check that metrics can evaluate, and evaluate the data set that is read."""

import json
import logging
import os.path as osp
from typing import Iterator, List, Optional, Sequence, Union

import numpy as np
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.logging import print_log
from mmengine.runner import BaseLoop
from torch.utils.data import Dataset

from mmbiformer.utils.datasets import leaf_datasets
from mmbiformer.utils.errors import ConfigError
from mmbiformer.utils.text import list_some

from .coco_evaluation import check_metric

# How many images have their boxes compared.
_COMPARED = 500
_RULE = 'a metric needs the annotations of the data set that it evaluates'


def check_evaluator(
    loop: BaseLoop, settings: Union[dict, Sequence[dict], None], name: str
) -> None:
    """Check the annotations that metrics have of their own.

    pycocotools must be able to evaluate them, and their images must be those
    of the data set. Those of mmdet's ``CocoMetric``, ``LVISMetric``,
    ``CocoPanopticMetric`` and ``CrowdHumanMetric`` are compared with it: these
    find the annotations of an image by its id, and would use those of another
    image. That the annotations have more images is only logged.

    Args:
        loop (BaseLoop): Loop of validation or testing, with its ``dataloader``
            and ``evaluator``.
        settings (dict | Sequence[dict], optional): Settings of the metrics.
        name (str): Name of these in the config, such as ``'val_evaluator'``.

    Raises:
        DataError: If pycocotools cannot evaluate with the annotations.
        ConfigError: If an image of the data set is not among the annotations,
            or is another one there, or the categories have another order.
    """
    settings = settings if isinstance(settings, (list, tuple)) else [settings]
    evaluator = getattr(loop, 'evaluator', None)
    for metric in getattr(evaluator, 'metrics', ()):
        check_metric(metric)
    # Other evaluators give each metric a part of the data set.
    if type(evaluator) is not Evaluator:
        return
    dataset = loop.dataloader.dataset
    leaves = list(leaf_datasets(dataset))
    files = {_real_path(getattr(leaf, 'ann_file', None)) for leaf in leaves}
    for metric, setting in zip(evaluator.metrics, settings, strict=False):
        path = setting.get('ann_file') if isinstance(setting, dict) else None
        if not path or files == {_real_path(path)}:
            continue
        where = f'{name}.ann_file={path!r}'
        api = _annotations(metric)
        if api is not None:
            _check_images(api, leaves, where)
            classes = dataset.metainfo.get('classes') or ()
            _check_labels(api, metric, classes, where)
        elif _is_a(metric, 'CrowdHumanMetric'):
            _check_order(metric, leaves, where)


def _real_path(path: Optional[str]) -> Optional[str]:
    """Return a path that is equal for all names of a file."""
    return osp.realpath(path) if isinstance(path, str) and path else None


def _is_a(metric: BaseMetric, name: str) -> bool:
    """Tell whether a metric is of a class of this name or derived from it."""
    return any(one.__name__ == name for one in type(metric).__mro__)


def _annotations(metric: BaseMetric) -> Optional[object]:
    """Return the COCO or LVIS API of a metric that has annotations."""
    if _is_a(metric, 'LVISMetric'):
        return metric._lvis_api
    if _is_a(metric, 'CocoMetric') or _is_a(metric, 'CocoPanopticMetric'):
        return metric._coco_api
    return None


def _infos(leaves: List[Dataset]) -> Iterator[dict]:
    """Yield what the data sets know of each image."""
    for leaf in leaves:
        if hasattr(leaf, 'get_data_info'):
            for index in range(len(leaf)):
                info = leaf.get_data_info(index)
                # Videos are grouped otherwise.
                if 'img_id' in info:
                    yield info


def _check_images(api: object, leaves: List[Dataset], where: str) -> None:
    """Check that each image of a data set is the same in the annotations."""
    seen = set()
    found = boxes = 0
    for info in _infos(leaves):
        number = info['img_id']
        if number not in api.imgs:
            raise ConfigError(
                f'{where} has no image with the id {number!r}, which is '
                f'{info["img_path"]} in the data set; {_RULE}'
            )
        if len(seen) < _COMPARED:
            matches = _match_boxes(info, api)
            found += sum(matches)
            boxes += len(matches)
            example = number, info['img_path'], _file_name(api.imgs[number])
        seen.add(number)
    if found < boxes / 4:
        raise ConfigError(
            f'{where} has the objects of other images: only {found} of '
            f'{boxes} boxes of the data set are near a box there. The image '
            f'with the id {example[0]!r} is {example[1]} in the data set, and '
            f'{example[2]} there; {_RULE}'
        )
    more = len(set(api.imgs) - seen)
    if seen and more:
        print_log(
            f'{where} has {more} images that the data set does not have; '
            'their objects count as missed',
            logger='current',
            level=logging.WARNING,
        )


def _match_boxes(info: dict, api: object) -> List[bool]:
    """Tell for each box of an image whether it is in the annotations.

    Boxes of other images rarely overlap; those of the same image do, if other
    people drew them, too.
    """
    # Segmentors have no need of it.
    from pycocotools import mask as mask_utils

    own = [one['bbox'] for one in info.get('instances', ()) if 'bbox' in one]
    known = getattr(api, 'imgToAnns', None) or api.img_ann_map
    known = [one['bbox'] for one in known.get(info['img_id'], ())]
    if not own or not known:
        return []
    own = np.array(own, np.float64)
    own[:, 2:] -= own[:, :2]
    known = np.array(known, np.float64)
    ious = mask_utils.iou(own, known, [0] * len(known))
    return (ious.max(axis=1) >= 0.5).tolist()


def _file_name(record: dict) -> str:
    """Return the name of the file of an image; LVIS has only its address."""
    return str(record.get('file_name') or record.get('coco_url'))


def _check_labels(
    api: object, metric: BaseMetric, classes: Sequence[str], where: str
) -> None:
    """Check that each label is the same category in the annotations."""
    if set(getattr(metric, 'metrics', ())) & {'proposal', 'proposal_fast'}:
        return
    if _is_a(metric, 'LVISMetric'):
        # It takes all categories, whatever their names.
        names = [api.cats[one]['name'] for one in api.get_cat_ids()]
        wrong = len(names) != len(classes)
    else:
        ids = api.get_cat_ids(cat_names=list(classes))
        names = [api.cats[one]['name'] for one in ids]
        wrong = tuple(names) != tuple(classes)
    if wrong:
        missing = [one for one in classes if one not in names] or names
        raise ConfigError(
            f'{where} must have the categories of the data set in the order '
            f'of its {len(classes)} classes; it has {len(names)} of them, and '
            f'these are missing or in another order: '
            f'{list_some(list(map(repr, missing)))}'
        )


def _check_order(
    metric: BaseMetric, leaves: List[Dataset], where: str
) -> None:
    """Check that annotations and images have the same order."""
    with open(metric.ann_file, encoding='utf-8') as file:
        ids = [json.loads(line)['ID'] for line in file if line.strip()]
    for number, info in zip(ids, _infos(leaves), strict=False):
        if number != info['img_id']:
            raise ConfigError(
                f'{where} has the image {number!r} where the data set has '
                f'{info["img_id"]!r}; {_RULE}'
            )
