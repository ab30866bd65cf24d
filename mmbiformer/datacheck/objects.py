"""The objects of a detection data set: those that training skips, and why."""

import json
import logging
import os.path as osp
from collections import Counter
from itertools import compress
from typing import Dict, Iterator, List, Optional, Sequence, Set, Tuple

import numpy as np
from mmengine.logging import print_log
from torch.utils.data import Dataset

from mmbiformer.utils.datasets import leaf_datasets
from mmbiformer.utils.errors import DataError
from mmbiformer.utils.text import list_some

from .polygons import polygon_problem
from .report import Finding

MOST = 0.5
"""float: Share of the objects above which it is an error that they are
skipped."""
FEW_OBJECTS = 10
FEW_SHARE = 0.01
"""int, float: A class with fewer objects than this number, and than this
share of all objects, may have none that is used."""

# Images of a COCO data set that are looked at, if that suffices.
_SAMPLE = 1000

# Reasons to skip an object, as the report names them.
NO_AREA = 'box without area'
OUTSIDE = 'box outside the image'
ZERO_AREA = 'area=0 in the annotations'
CROWD = 'crowd or ignored'
SMALL_IMAGE = 'in an image below filter_cfg.min_size'
OTHER_TYPE = 'id of another type'

_HINTS = {
    ZERO_AREA: 'write the area of each box or mask in pixels',
    CROWD: 'iscrowd=1, difficult=1 or ignore=1 mark what is neither an object '
    'nor background: set it to 0 for objects',
    SMALL_IMAGE: 'set filter_cfg.min_size lower',
    OTHER_TYPE: 'ids must be numbers, or text, everywhere',
}


class ObjectTally:
    """How many objects of each class training uses and skips."""

    def __init__(self) -> None:
        self.total: Dict[str, int] = Counter()
        self.used: Dict[str, int] = Counter()
        self.skipped: Dict[str, Dict[str, int]] = {}
        self.normalized = 0

    def add(
        self,
        name: str,
        reason: Optional[str] = None,
        box: Sequence[float] = (),
    ) -> None:
        """Count an object.

        Args:
            name (str): Its class.
            reason (str, optional): Why it is skipped. Default: None, which
                means that it is used.
            box (Sequence[float]): Its four coordinates, to recognize relative
                ones. Default: ``()``.
        """
        self.total[name] += 1
        if reason is None:
            self.used[name] += 1
            return
        self.skipped.setdefault(name, Counter())[reason] += 1
        if reason == NO_AREA and all(0 <= value <= 1 for value in box):
            self.normalized += bool(box)

    @classmethod
    def merge(cls, tallies: Sequence['ObjectTally']) -> 'ObjectTally':
        """Add up the objects of several data sets.

        Args:
            tallies (Sequence[ObjectTally]): A tally of each.

        Returns:
            ObjectTally: That of all.
        """
        merged = cls()
        for tally in tallies:
            merged.total.update(tally.total)
            merged.used.update(tally.used)
            merged.normalized += tally.normalized
            for name, reasons in tally.skipped.items():
                merged.skipped.setdefault(name, Counter()).update(reasons)
        return merged

    def findings(self) -> Iterator[Finding]:
        """Yield what is skipped to an extent that nobody wants.

        Yields:
            tuple: A kind of problem, and the class or the numbers.
        """
        amount = sum(self.total.values())
        for name, count in self.total.items():
            few = count < FEW_OBJECTS and count < FEW_SHARE * amount
            if not self.used[name] and not few:
                yield (
                    'class whose objects are all skipped',
                    f'{name!r}, {self._reasons([name])}',
                )
        bad = sum(
            sum(reasons.values()) - reasons[CROWD]
            for reasons in self.skipped.values()
        )
        if bad > MOST * amount:
            yield (
                'most objects are skipped',
                f'{bad:,} of {amount:,}, {self._reasons(self.skipped)}',
            )

    def _reasons(self, names: Sequence[str]) -> str:
        """List the reasons why objects of some classes are skipped."""
        reasons = Counter()
        for name in names:
            reasons.update(self.skipped[name])
        hints = [_HINTS[reason] for reason in reasons if reason in _HINTS]
        if 2 * self.normalized > reasons[NO_AREA] > 0:
            hints.append(
                'the boxes lie between 0 and 1, and must be in pixels'
            )
        text = ', '.join(
            f'{reason}: {count:,}' for reason, count in reasons.most_common()
        )
        return '; '.join([text, *hints])


def box_problem(
    box: Sequence[float], height: Optional[float], width: Optional[float]
) -> Optional[str]:
    """Tell why a detector cannot be trained on a box.

    Args:
        box (Sequence[float]): Left, top, right and bottom, in pixels.
        height (float, optional): Height of the image in pixels, if known.
        width (float, optional): Its width.

    Returns:
        str, optional: :data:`NO_AREA` or :data:`OUTSIDE`, or None for a box
        that it can be trained on.
    """
    left, top, right, bottom = box
    # Comparisons with NaN are false.
    if not (right > left and bottom > top):
        return NO_AREA
    if (
        height
        and width
        and not (
            min(right, width) > max(left, 0)
            and min(bottom, height) > max(top, 0)
        )
    ):
        return OUTSIDE
    return None


def instance_problem(instance: dict, info: dict) -> Optional[str]:
    """Tell why a detector cannot be trained on an object of a data set.

    Args:
        instance (dict): The object, one of ``info['instances']``.
        info (dict): Data information of its image.

    Returns:
        str, optional: As of :func:`box_problem`; None also for an object
        without a box, or with a box that is rotated.
    """
    box = instance.get('bbox')
    if box is None or len(box) != 4:
        return None
    return box_problem(box, info.get('height'), info.get('width'))


def check_category_ids(dataset: Dataset, name: str) -> None:
    """Check that no category has two ids.

    mmdet would number each id as a class of its own, so that the objects of
    all later classes would get the wrong label.

    Args:
        dataset (Dataset): The data set, fully initialized.
        name (str): Name of the data set, for messages.

    Raises:
        DataError: If one has.
    """
    for leaf in leaf_datasets(dataset):
        if not _has_file(leaf):
            continue
        classes = leaf.metainfo.get('classes') or ()
        if len(leaf.cat_ids) <= len(classes):
            continue
        with open(leaf.ann_file, encoding='utf-8') as file:
            categories = json.load(file)['categories']
        ids: Dict[str, list] = {}
        for category in categories:
            ids.setdefault(category['name'], []).append(category['id'])
        several = [
            f'{one!r} has the ids {", ".join(map(repr, keys))}'
            for one, keys in ids.items()
            if len(keys) > 1
        ]
        if several:
            raise DataError(
                f'{name}: the category {list_some(several)}; merge them into '
                'one in the annotations'
            )


def _is_of_coco(kind: type, method: str) -> bool:
    """Tell whether a class inherits a method of CocoDataset unchanged."""
    function = getattr(kind, method, None)
    return getattr(function, '__module__', '') == 'mmdet.datasets.coco'


def reads_coco(kind: type) -> bool:
    """Tell whether a data set reads files in COCO's format.

    Args:
        kind (type): Class of the data set.

    Returns:
        bool: Whether it does. LVIS and others have keys of their own, and so
        has the panoptic format.
    """
    api = getattr(getattr(kind, 'COCOAPI', None), '__name__', '')
    return api == 'COCO' and _is_of_coco(kind, 'load_data_list')


def _has_file(dataset: Dataset) -> bool:
    """Tell whether the annotations are a local file in COCO's format."""
    return reads_coco(type(dataset)) and osp.isfile(dataset.ann_file)


def learns_boxes(dataset: Dataset) -> bool:
    """Tell whether a data set is one that a detector learns boxes from.

    Args:
        dataset (Dataset): A data set without wrappers.

    Returns:
        bool: Whether it is for training, and its pipeline loads boxes.
    """
    steps = getattr(getattr(dataset, 'pipeline', None), 'transforms', ())
    return (
        not getattr(dataset, 'test_mode', True)
        and hasattr(dataset, 'load_data_list')
        and any(getattr(step, 'with_bbox', False) for step in steps)
    )


def needs_objects(dataset: Dataset) -> bool:
    """Tell whether a detector learns nothing from a data set without objects.

    Args:
        dataset (Dataset): A data set without wrappers.

    Returns:
        bool: Whether it is so; a panoptic one may have stuff only.
    """
    return learns_boxes(dataset) and not is_panoptic(dataset)


def is_panoptic(dataset: Dataset) -> bool:
    """Tell whether a data set has objects and stuff in maps of segments.

    Args:
        dataset (Dataset): A data set without wrappers.

    Returns:
        bool: Whether it is mmdet's CocoPanopticDataset or derived from it.
    """
    api = getattr(getattr(dataset, 'COCOAPI', None), '__name__', '')
    return api == 'COCOPanoptic'


def check_objects(dataset: Dataset, name: str) -> None:
    """Skip the objects that a detector cannot be trained on.

    A box without area, or outside its image, makes the loss infinite.
    CocoDataset skips them when it reads the annotations; here it is done for
    all other data sets, and logged. Data sets for testing stay as they are.

    Args:
        dataset (Dataset): The data set, fully initialized; modified in place.
        name (str): Name of the data set, for messages.

    Raises:
        DataError: If all objects of a class are skipped, or more than
            :data:`MOST` of all, or a detector would get no object at all.
    """
    leaves = [leaf for leaf in leaf_datasets(dataset) if learns_boxes(leaf)]
    counted = [_count_leaf(leaf) for leaf in leaves]
    tally = ObjectTally.merge([tally for tally, _, _ in counted])
    if any(doubtful for _, _, doubtful in counted):
        tally = ObjectTally.merge([_recount(leaf) for leaf in leaves])
    # A few images, for a trial, need not have all classes.
    trial = any(leaf._indices is not None for leaf in leaves)
    findings = [f'{kind}: {where}' for kind, where in tally.findings()]
    if findings and not trial:
        raise DataError(f'{name}: {". ".join(findings)}')
    needed = leaves and all(map(needs_objects, leaves))
    if needed and not tally.total and not trial:
        raise DataError(
            f'{name} has no object; check that the names in metainfo.classes '
            'are those of the annotations'
        )
    for leaf, (_, bad, _) in zip(leaves, counted, strict=True):
        _drop(leaf, {index for index, _ in bad})
    where = [place for _, bad, _ in counted for _, place in bad]
    if where:
        print_log(
            f'{name}: {len(where):,} of {sum(tally.total.values()):,} objects '
            f'are skipped: {list_some(where)}',
            logger='current',
            level=logging.WARNING,
        )


def _count_leaf(
    dataset: Dataset,
) -> Tuple[ObjectTally, List[Tuple[int, str]], bool]:
    """Count the objects of a data set without wrappers.

    Returns:
        tuple: The tally, index and name of the objects to skip, and whether
        the annotations must be read again, as the data set has skipped some.
    """
    if _is_of_coco(type(dataset), 'parse_data_info'):
        tally, doubtful = _sample_coco(dataset)
        return tally, [], doubtful and dataset._indices is None
    tally, bad = _count(dataset)
    return tally, bad, False


def _recount(dataset: Dataset) -> ObjectTally:
    """Count all objects in the annotations, those that were skipped too."""
    if _has_file(dataset):
        # It imports pycocotools.
        from .coco import tally_file

        return tally_file(dataset)
    return _count(dataset)[0]


def _count(dataset: Dataset) -> Tuple[ObjectTally, List[Tuple[int, str]]]:
    """Count the objects; return also the index and name of bad ones."""
    tally, bad = ObjectTally(), []
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        for name, instance, problem in labeled_instances(dataset, info):
            box = instance['bbox'] if problem == NO_AREA else ()
            tally.add(name, problem, box)
            if problem in (NO_AREA, OUTSIDE):
                bad.append((index, f'{image_name(info)} ({problem})'))
    return tally, bad


def _sample_coco(dataset: Dataset) -> Tuple[ObjectTally, bool]:
    """Count objects of CocoDataset until each class was seen.

    It has removed the objects that it skips, but kept the images of each
    category. Few images of COCO show that no class is missing, and no more
    than a share of the objects.

    Returns:
        tuple: The tally, and whether there are doubts.
    """
    images = dataset.cat_img_map
    classes = dataset.metainfo.get('classes') or ()
    left = {
        name
        for name, key in zip(classes, dataset.cat_ids, strict=False)
        if images.get(key)
    }
    with_mask = any(
        getattr(step, 'with_mask', False)
        for step in dataset.pipeline.transforms
    )
    tally, seen = ObjectTally(), set()
    order = np.random.default_rng(0).permutation(len(dataset))
    for index in order.tolist():
        info = dataset.get_data_info(index)
        seen.add(info['img_id'])
        for name, instance, problem in labeled_instances(dataset, info):
            tally.add(name, problem)
            form = with_mask and polygon_problem(instance.get('mask'))
            if form:
                raise DataError(f'an object of {image_name(info)}: {form}')
        left -= tally.used.keys()
        if not left and len(seen) >= _SAMPLE:
            break
    written = sum(
        image in seen
        for key in dataset.cat_ids
        for image in images.get(key, ())
    )
    texts = {str(key) for key in dataset.cat_ids}
    other_type = any(
        str(key) in texts and key not in dataset.cat_ids for key in images
    )
    few = sum(tally.total.values()) < (1 - MOST) * written
    return tally, bool(left) or other_type or few


def labeled_instances(
    dataset: Dataset, info: dict
) -> Iterator[Tuple[str, dict, Optional[str]]]:
    """Yield the objects of an image, with their classes.

    Args:
        dataset (Dataset): The data set.
        info (dict): Data information of the image.

    Yields:
        tuple: The name of the class, the object, and why training skips or
        ignores it, or None if it is used.
    """
    names = dataset.metainfo.get('classes') or ()
    for instance in info.get('instances', ()):
        label = instance.get('bbox_label')
        known = isinstance(label, int) and 0 <= label < len(names)
        problem = instance_problem(instance, info)
        if problem is None and is_ignored(dataset, instance):
            problem = CROWD
        yield names[label] if known else str(label), instance, problem


def is_ignored(dataset: Dataset, instance: dict) -> bool:
    """Tell whether the annotations say that an object is to be ignored.

    Those that the config's own ``filter_cfg.bbox_min_size`` ignores count as
    used: it says so on purpose.

    Args:
        dataset (Dataset): The data set.
        instance (dict): One of its objects.

    Returns:
        bool: Whether it is.
    """
    by_size = getattr(dataset, 'bbox_min_size', None) is not None
    return bool(instance.get('ignore_flag')) and not by_size


def _drop(dataset: Dataset, indices: Set[int]) -> None:
    """Remove the objects that cannot be trained on from some images."""
    if not indices:
        return
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    for index in indices:
        info = infos[index]
        instances = info['instances']
        kept = [instance_problem(one, info) is None for one in instances]
        info['instances'] = list(compress(instances, kept))
        # Panoptic: the segments of things and the objects are matched by
        # their order.
        if 'segments_info' in info:
            flags = iter(kept)
            info['segments_info'] = [
                segment
                for segment in info['segments_info']
                if not segment['is_thing'] or next(flags)
            ]
    dataset.data_list = infos
    if dataset.serialize_data:
        dataset.data_bytes, dataset.data_address = dataset._serialize_data()


def image_name(info: dict) -> str:
    """Return what names an image in a message.

    Args:
        info (dict): Data information of the image.

    Returns:
        str: Its path, or its id.
    """
    return str(info.get('img_path') or info.get('img_id'))
