"""Check the annotations and files of a panoptic data set."""

import os.path as osp
from collections import Counter
from copy import deepcopy
from functools import partial
from typing import Callable, List

from mmengine.dataset import Compose
from torch.utils.data import Dataset

from mmbiformer.utils.text import one_line

from .checks import check_annotations
from .images import find_transform, inspect_all, inspect_image
from .instances import count_objects
from .records import load_records
from .report import Finding, SplitReport


def check_panoptic(
    dataset: Dataset, report: SplitReport, workers: int
) -> None:
    """Check a panoptic annotation file in COCO's format, and its files.

    Args:
        dataset (Dataset): mmdet's CocoPanopticDataset, built with
            ``lazy_init=True``.
        report (SplitReport): Report to add counts and problems to.
        workers (int): Number of processes that read images.
    """
    try:
        infos = load_records(dataset)
        check_annotations(dataset, dataset.ann_file)
    except ValueError as error:
        report.add('data set cannot be read', error)
        return
    count_objects(dataset, infos, report)
    for info in infos:
        stuff = Counter(
            dataset.metainfo['classes'][segment['category']]
            for segment in info['segments_info']
            if not segment['is_thing']
        )
        for name, amount in stuff.items():
            total, images = report.classes[name]
            report.classes[name] = total + amount, images + 1
    inspect = partial(
        _inspect,
        loader=find_transform(dataset, 'LoadImage'),
        pipeline=dataset.pipeline,
    )
    for findings in inspect_all(inspect, infos, workers):
        report.extend(findings)


def _inspect(info: dict, loader: Callable, pipeline: Compose) -> List[Finding]:
    """Check an image and its map of segments.

    Args:
        info (dict): Data information of the image.
        loader (Callable): The transform that loads images.
        pipeline (Compose): The whole pipeline.

    Returns:
        list: The findings.
    """
    findings, size = inspect_image((info, []), loader, Compose([]))
    path = info['seg_map_path']
    if path is None or size is None:
        return findings
    if not osp.isfile(path):
        return [*findings, ('missing label map', path)]
    data = deepcopy(info)
    try:
        for step in pipeline.transforms:
            data = step(data)
            if data is None or 'gt_seg_map' in data:
                break
    except Exception as error:
        return [*findings, ('broken label map', f'{path}: {one_line(error)}')]
    things = [one for one in info['segments_info'] if one['is_thing']]
    masks = getattr((data or {}).get('gt_masks'), 'masks', ())
    findings += [
        ('empty mask', f'{path}: segment {thing["id"]}')
        for thing, mask in zip(things, masks, strict=False)
        if not mask.any()
    ]
    return findings
