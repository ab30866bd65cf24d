"""What is wrong with the data of a config, told before training."""

import json
import os
import os.path as osp
from collections import Counter
from copy import deepcopy
from functools import partial
from math import isinf
from typing import (
    Callable,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DATASETS, init_default_scope
from mmengine.utils import track_parallel_progress, track_progress
from PIL import Image
from pycocotools import mask as mask_utils
from torch.utils.data import Dataset

from mmbiformer.engine.checks import check_classes, check_data
from mmbiformer.engine.samples import (
    CheckedPipeline,
    check_jpeg,
    check_label_map,
    check_mask,
)

SPLITS = ('train', 'val', 'test')
"""tuple[str]: The dataloaders of a config, without ``_dataloader``."""

STOPS = 'stops'
WRONG = 'wrong'
SKIPPED = 'skipped'
NOTE = 'note'
EFFECTS = {
    STOPS: 'training or testing stops with an error',
    WRONG: 'training and testing go on, with wrong results',
    SKIPPED: 'left out',
    NOTE: 'used',
}
"""dict[str, str]: What training and testing do with a problem."""


class Kind(NamedTuple):
    """A kind of problem.

    Args:
        effect (str): One of :data:`EFFECTS`.
        rule (str): What training and testing do with it.
    """

    effect: str
    rule: str


KINDS = {
    # Settings and files as a whole.
    'missing file or folder': Kind(STOPS, 'an error lists what is missing'),
    'heads do not fit the classes': Kind(STOPS, 'an error names the head'),
    'data set cannot be read': Kind(STOPS, 'an error names the data set'),
    'no image': Kind(STOPS, 'an error names the data set'),
    'class without a category': Kind(STOPS, 'an error names the classes'),
    'classes in another order': Kind(
        STOPS, 'an error shows the order of the categories'
    ),
    'category twice': Kind(STOPS, 'an error names the classes'),
    'category that is no class': Kind(SKIPPED, 'its objects are left out'),
    'class without an object': Kind(
        NOTE, 'it is not learned in training, and not counted in testing'
    ),
    # Records of annotations.
    'record without a key': Kind(STOPS, 'an error names the key'),
    'record with a wrong value': Kind(
        STOPS, 'an error names the data set or the image'
    ),
    'image id twice': Kind(WRONG, 'the first of the images is not read'),
    'object id twice': Kind(STOPS, 'an error names the annotations'),
    'object of an unknown image': Kind(SKIPPED, 'the object is left out'),
    'object of an unknown category': Kind(SKIPPED, 'the object is left out'),
    'image without objects': Kind(
        SKIPPED,
        'left out of training where filter_cfg.filter_empty_gt is set, else '
        'used as background',
    ),
    'image below filter_cfg.min_size': Kind(SKIPPED, 'left out of training'),
    'box without area': Kind(
        SKIPPED, 'an object less than a pixel wide or high is left out'
    ),
    'box outside the image': Kind(SKIPPED, 'the object is left out'),
    'box partly outside the image': Kind(NOTE, 'Resize cuts the box'),
    'object without a mask': Kind(STOPS, 'an error names the image'),
    'mask without a polygon': Kind(
        SKIPPED, 'the object counts as crowd: neither object nor background'
    ),
    'mask that does not fit the image': Kind(
        STOPS, 'an error names the image'
    ),
    'mask without a pixel': Kind(
        NOTE, 'the box is learned, with a mask of background'
    ),
    'mask larger than its box': Kind(NOTE, 'the box cuts the mask'),
    'mask outside its box': Kind(WRONG, 'the mask is learned as background'),
    # Image files.
    'missing image': Kind(STOPS, 'an error names the file'),
    'broken image': Kind(STOPS, 'an error names the file'),
    'image of another size': Kind(STOPS, 'an error names the file'),
    'image that the pipeline cannot take': Kind(
        STOPS, 'an error names the file'
    ),
    'image turned by EXIF': Kind(
        NOTE, 'it is turned; boxes and masks must be those of the turned one'
    ),
    'grey image': Kind(NOTE, 'grey values go into all three channels'),
    'image with transparency': Kind(
        NOTE, 'transparency is dropped, hidden colours show'
    ),
    'CMYK image': Kind(NOTE, 'converted to RGB without a colour profile'),
    '16-bit image': Kind(
        NOTE, 'values are divided by 256: 12-bit pictures are nearly black'
    ),
    'picture of another suffix': Kind(
        SKIPPED, 'only files of img_suffix are read'
    ),
    # Label maps.
    'missing label map': Kind(STOPS, 'an error names the file'),
    'broken label map': Kind(STOPS, 'an error names the files'),
    'label map of another size': Kind(STOPS, 'an error names the files'),
    'label map not turned by EXIF': Kind(
        WRONG, 'the image is turned, its label map is not'
    ),
    'label outside the classes': Kind(STOPS, 'an error names the file'),
    'label map without a class': Kind(NOTE, 'all of it is ignored'),
    'label map without an image': Kind(SKIPPED, 'not read'),
}
"""dict[str, Kind]: What can be wrong."""

# Images and objects of the whole data sets. COCO's: github.com/cocodataset/
# cocoapi/issues/117; images with objects are what detectors train on.
# ADE20K's: github.com/CSAILVision/sceneparsing.
_WHOLE = {
    'instances_train2017.json': (
        'COCO 2017 train',
        {'images': 118287, 'images with objects': 117266, 'objects': 860001},
    ),
    'instances_val2017.json': (
        'COCO 2017 val',
        {'images': 5000, 'objects': 36781},
    ),
    'images/training': ('ADE20K SceneParsing train', {'images': 20210}),
    'images/validation': ('ADE20K SceneParsing val', {'images': 2000}),
}

# What each record must have for mmdet.
_KEYS = {
    'images': ('id', 'file_name', 'height', 'width'),
    'annotations': ('id', 'image_id', 'category_id', 'bbox', 'area'),
    'categories': ('id', 'name'),
}

_PICTURES = (
    *('.jpg', '.jpeg', '.jpe', '.png', '.bmp', '.tif', '.tiff'),
    *('.webp', '.gif', '.ppm', '.pgm'),
)

# Pipelines may fail on an image with a side below this, in pixels, or with
# one so many times the other.
_SMALL_SIDE = 32
_LONG = 20

Finding = Tuple[str, str]
"""A kind of problem, and where it is."""


class SplitReport:
    """What is in one data set of a config, and what is wrong with it.

    Args:
        name (str): What to call it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts: Dict[str, int] = Counter()
        self.classes: Dict[str, Tuple[float, int]] = {}
        self.unit = 'objects'
        self.problems: Dict[str, List[str]] = {}
        self.remarks: List[str] = []

    def add(self, kind: str, where: object) -> None:
        """Add a problem.

        Args:
            kind (str): One of :data:`KINDS`.
            where (object): The file, or what else it concerns.
        """
        self.problems.setdefault(kind, []).append(str(where))

    def extend(self, findings: Sequence[Finding]) -> None:
        """Add several problems."""
        for kind, where in findings:
            self.add(kind, where)

    @property
    def fatal(self) -> List[str]:
        """list[str]: Kinds that stop training or make it wrong."""
        return [
            kind
            for kind in self.problems
            if KINDS[kind].effect in (STOPS, WRONG)
        ]

    def text(self, show: int = 3) -> str:
        """Return the report, to be printed.

        Args:
            show (int): Files to name for each kind of problem. Default: 3.

        Returns:
            str: Several lines.
        """
        lines = [self.name]
        lines += [f'  {value:>9,} {key}' for key, value in self.counts.items()]
        if self.classes:
            width = max(map(len, self.classes))
            lines.append(f'  {"class":<{width}}  {self.unit:>10}  images')
        for name, (amount, images) in self.classes.items():
            amount = (
                f'{amount:>10.2%}'
                if isinstance(amount, float)
                else f'{amount:>10,}'
            )
            lines.append(f'  {name:<{width}}  {amount}  {images:>6,}')
        lines += [f'  {remark}' for remark in self.remarks]
        for effect, meaning in EFFECTS.items():
            kinds = [k for k in KINDS if k in self.problems]
            kinds = [k for k in kinds if KINDS[k].effect == effect]
            if kinds:
                lines.append(f'  {effect}: {meaning}')
            for kind in kinds:
                found = self.problems[kind]
                lines.append(
                    f'    {kind}: {len(found):,} ({KINDS[kind].rule})'
                )
                lines += [f'      {where}' for where in found[:show]]
                if len(found) > show:
                    lines.append(f'      and {len(found) - show:,} more')
        if not self.problems:
            lines.append('  nothing is wrong')
        return '\n'.join(lines)


def check_split(cfg: Config, split: str, workers: int = 2) -> SplitReport:
    """Look at all data of a split.

    Args:
        cfg (Config): Config of a run.
        split (str): One of :data:`SPLITS`.
        workers (int): Processes that read images. Default: 2.

    Returns:
        SplitReport: What there is, and what is wrong.

    Raises:
        ValueError: If the config has no such dataloader, or a data set of a
            kind that cannot be looked into.
    """
    loader = f'{split}_dataloader'
    if cfg.get(loader) is None:
        raise ValueError(f'{cfg.filename} has no {loader!r}')
    report = SplitReport(split)
    try:
        check_classes(cfg, [loader])
    except ValueError as error:
        report.add('heads do not fit the classes', error)
    try:
        check_data(cfg, [loader])
    except FileNotFoundError as error:
        report.extend(
            ('missing file or folder', line.strip())
            for line in str(error).splitlines()[1:-1]
        )
        return report
    init_default_scope(cfg.default_scope)
    for settings in _leaf_settings(cfg[loader].dataset):
        try:
            dataset = DATASETS.build(dict(settings, lazy_init=True))
        except (AssertionError, LookupError, TypeError, ValueError) as error:
            report.add('data set cannot be read', _one_line(error))
            continue
        if (
            getattr(getattr(dataset, 'COCOAPI', None), '__name__', '')
            == 'COCO'
        ):
            _check_coco(dataset, report, workers)
        elif cfg.default_scope == 'mmseg' and hasattr(dataset, 'label_map'):
            _check_label_maps(dataset, report, workers)
        else:
            raise ValueError(
                f'{loader}: data sets of type {type(dataset).__name__} cannot '
                'be looked into, only those of COCO annotations (CocoDataset) '
                'and of images and label maps (BaseSegDataset), or types '
                'derived from them'
            )
    if not report.counts['images'] and not report.fatal:
        report.add('no image', cfg[loader].dataset.get('data_root') or split)
    report.extend(
        ('class without an object', name)
        for name, (amount, _) in report.classes.items()
        if not amount
    )
    return report


def _leaf_settings(dataset: dict) -> Iterator[dict]:
    """Yield the settings of the data sets inside of wrappers."""
    inner = dataset.get('datasets', dataset.get('dataset'))
    if inner is None:
        yield dataset
        return
    for one in inner if isinstance(inner, (list, tuple)) else [inner]:
        yield from _leaf_settings(one)


def _one_line(error: Exception) -> str:
    """Return what an error says in one line."""
    return ' '.join(str(error).split()) or type(error).__name__


def _step_of(dataset: Dataset, name: str) -> Optional[Callable]:
    """Return the step of a data set's pipeline with such a name."""
    for step in dataset.pipeline.transforms:
        if name in type(step).__name__:
            return step
    return None


def _map(look: Callable, tasks: Sequence, workers: int) -> list:
    """Call a function for each task, with a progress bar."""
    if workers < 2 or len(tasks) < 2:
        return track_progress(look, tasks) if tasks else []
    # The processes are as many threads as are wanted.
    return track_parallel_progress(
        look,
        tasks,
        workers,
        initializer=cv2.setNumThreads,
        initargs=(0,),
        chunksize=8,
    )


def _compare_to_whole(report: SplitReport, key: str) -> None:
    """Remark where a well-known data set is not whole."""
    name, counts = _WHOLE[key]
    fewer = [
        f'{wanted:,} {what}'
        for what, wanted in counts.items()
        if report.counts[what] != wanted
    ]
    report.remarks.append(
        f'the whole {name} has ' + ', '.join(fewer)
        if fewer
        else f'this is the whole {name}'
    )


# Detection: COCO annotations.


def _check_coco(dataset: Dataset, report: SplitReport, workers: int) -> None:
    """Look at a COCO annotation file, its objects and its images."""
    path = dataset.ann_file
    try:
        with open(path, encoding='utf-8') as file:
            content = json.load(file)
        tables = {key: _records(content, key, report) for key in _KEYS}
    except (OSError, RecursionError, ValueError) as error:
        report.add('data set cannot be read', f'{path}: {_one_line(error)}')
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
    objects = _check_objects(dataset, tables, images, names, report)
    with_mask = any(
        getattr(step, 'with_mask', False)
        for step in dataset.pipeline.transforms
    )
    _count(dataset, tables, images, objects, names, report)
    look = partial(
        _look_at_image,
        loader=_step_of(dataset, 'LoadImage'),
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
    for findings, _ in _map(look, tasks, workers):
        report.extend(findings)
    full = getattr(type(dataset), 'METAINFO', {}).get('classes')
    if osp.basename(path) in _WHOLE and classes == full:
        _compare_to_whole(report, osp.basename(path))


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
    dataset: Dataset,
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


def _look_at_image(
    task: Tuple[dict, list], loader: Callable, pipeline: CheckedPipeline
) -> Tuple[List[Finding], Optional[Tuple[int, int]]]:
    """Look at an image file, and the masks of its objects.

    Args:
        task (tuple): What the data set knows of the image, and for each mask
            its name, its box and itself.
        loader (Callable): The pipeline's step that loads images.
        pipeline (CheckedPipeline): The whole pipeline.

    Returns:
        tuple: What is wrong, and height and width as loaded, or None where it
        cannot be.
    """
    info, masks = task
    path = info['img_path']
    if not osp.isfile(path):
        return [('missing image', path)], None
    findings = []
    try:
        check_jpeg(path)
        loaded = loader(dict(img_path=path))['img'].shape[:2]
    except Exception as error:
        return [('broken image', f'{path}: {_one_line(error)}')], None
    findings += [(kind, path) for kind in _traits(path)]
    size = info.get('height', loaded[0]), info.get('width', loaded[1])
    if size != loaded:
        turned = _take(findings, ('image turned by EXIF', path))
        findings.append(
            (
                'image of another size',
                f'{path}: {loaded[1]} x {loaded[0]} px as loaded'
                f'{" and turned by EXIF" * turned}, {size[1]} x {size[0]} px '
                'in the annotations',
            )
        )
    elif min(loaded) < _SMALL_SIDE or max(loaded) > _LONG * min(loaded):
        try:
            pipeline(deepcopy(info))
        except ValueError as error:
            findings.append(
                ('image that the pipeline cannot take', _one_line(error))
            )
    for name, box, mask in masks:
        problem = _look_at_mask(mask, box, size)
        if problem:
            kind, detail = problem
            findings.append((kind, f'{path}, {name}{detail}'))
    return findings, loaded


def _take(findings: List[Finding], finding: Finding) -> bool:
    """Remove a finding, and tell whether it was there."""
    there = finding in findings
    if there:
        findings.remove(finding)
    return there


def _traits(path: str) -> Iterator[str]:
    """Yield what is unusual about an image file."""
    with open(path, 'rb') as file:
        head = file.read(26)
    try:
        with Image.open(path) as image:
            mode, info = image.mode, image.info
            # Where PNGs keep it behind the picture, OpenCV does not look.
            turned = 'exif' in info and image.getexif().get(274, 1) != 1
    except Exception:
        # OpenCV reads some formats that Pillow does not know.
        return
    if turned:
        yield 'image turned by EXIF'
    if mode in ('1', 'L', 'LA') or mode.startswith(('I', 'F')):
        yield 'grey image'
    if mode in ('RGBA', 'LA', 'PA', 'RGBa', 'La') or 'transparency' in info:
        yield 'image with transparency'
    if mode == 'CMYK':
        yield 'CMYK image'
    # Pillow reduces some 16-bit PNGs by itself; their header tells.
    deep_png = head[1:4] == b'PNG' and head[24:25] == b'\x10'
    if deep_png or mode.startswith('I'):
        yield '16-bit image'


def _look_at_mask(
    mask: object, box: List[float], size: Tuple[int, int]
) -> Optional[Finding]:
    """Return what is wrong with the mask of an object, if anything."""
    if not mask:
        return 'object without a mask', ''
    try:
        check_mask(mask, size)
    except ValueError as error:
        return 'mask that does not fit the image', f': {error}'
    if isinstance(mask, list):
        mask = [one for one in mask if len(one) >= 6 and len(one) % 2 == 0]
        if not mask:
            return 'mask without a polygon', ''
        mask = mask_utils.merge(mask_utils.frPyObjects(mask, *size))
    elif mask.get('counts') is None or mask.get('size') is None:
        return 'mask without a polygon', ''
    elif isinstance(mask['counts'], list):
        mask = mask_utils.frPyObjects(mask, *size)
    if not mask_utils.area(mask):
        return 'mask without a pixel', ''
    left, top, width, height = mask_utils.toBbox(mask).tolist()
    inner = np.array([left, top, left + width, top + height])
    outer = np.array([*box[:2], box[0] + box[2], box[1] + box[3]])
    where = f': the mask lies in {[left, top, width, height]}, bbox={box}'
    if (inner[:2] >= outer[2:]).any() or (inner[2:] <= outer[:2]).any():
        return 'mask outside its box', where
    beyond = np.concatenate([outer[:2] - inner[:2], inner[2:] - outer[2:]])
    if (beyond > np.tile(np.maximum(2, 0.1 * np.array(box[2:])), 2)).any():
        return 'mask larger than its box', where
    return None


# Segmentation: images and label maps.


def _check_label_maps(
    dataset: Dataset, report: SplitReport, workers: int
) -> None:
    """Look at images and their label maps."""
    try:
        infos = dataset.load_data_list()
    except (AssertionError, OSError, ValueError) as error:
        report.add('data set cannot be read', _one_line(error))
        return
    classes = tuple(dataset.metainfo.get('classes') or ())
    label_step = _step_of(dataset, 'LoadAnnotations')
    look = partial(
        _look_at_pair,
        loader=_step_of(dataset, 'LoadImage'),
        pipeline=CheckedPipeline(dataset.pipeline),
        label_step=label_step,
        classes=len(classes),
        ignore_index=dataset.ignore_index,
    )
    report.counts['images'] += len(infos)
    _check_folders(dataset, infos, report)
    pixels = np.zeros(256, np.int64)
    pictures = np.zeros(256, np.int64)
    for findings, amounts in _map(look, infos, workers):
        report.extend(findings)
        if amounts is not None:
            report.counts['label maps'] += 1
            pixels += amounts
            pictures += amounts > 0
    if label_step is not None:
        report.unit = 'pixels'
        total = max(1, pixels.sum())
        for index, name in enumerate(classes):
            share = float(pixels[index] / total)
            report.classes[name] = share, int(pictures[index])
        share = pixels[[255, dataset.ignore_index]].max() / total
        report.remarks.append(f'{share:.2%} of the pixels are ignored')
    folder = dataset.data_prefix.get('img_path', '').rstrip('/')
    if type(dataset).__name__ == 'ADE20KDataset':
        for key in _WHOLE:
            if folder.endswith(f'/{key}'):
                _compare_to_whole(report, key)


def _check_folders(
    dataset: Dataset, infos: List[dict], report: SplitReport
) -> None:
    """Find files that the data set passes over."""
    if dataset.ann_file:
        return
    for key, suffix, kind in (
        ('img_path', _PICTURES, 'picture of another suffix'),
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
    """Yield the files below a folder."""
    for parent, _, names in os.walk(folder):
        for name in names:
            yield osp.normpath(osp.join(parent, name))


def _look_at_pair(
    info: dict,
    loader: Callable,
    pipeline: CheckedPipeline,
    label_step: Optional[Callable],
    classes: int,
    ignore_index: int,
) -> Tuple[List[Finding], Optional[np.ndarray]]:
    """Look at an image and its label map.

    Args:
        info (dict): What the data set knows of them.
        loader (Callable): The pipeline's step that loads images.
        pipeline (CheckedPipeline): The whole pipeline.
        label_step (Callable, optional): The pipeline's step that loads label
            maps; None if it has none.
        classes (int): Number of classes.
        ignore_index (int): The label that stands for no class.

    Returns:
        tuple: What is wrong, and the number of pixels of each label, of shape
        (256, ), or None where there is none.
    """
    labels_path = info.get('seg_map_path')
    problems: List[Finding] = []
    labels = None
    if label_step is not None and labels_path is not None:
        if not osp.isfile(labels_path):
            problems.append(('missing label map', labels_path))
        else:
            try:
                check_label_map(labels_path)
                labels = label_step(deepcopy(info))['gt_seg_map']
            except Exception as error:
                where = f'{labels_path}: {_one_line(error)}'
                problems.append(('broken label map', where))
    broken = label_step is not None and labels is None
    if broken:
        # The pipeline would say the same again.
        pipeline = Compose([])
    findings, size = _look_at_image((info, []), loader, pipeline)
    findings = problems + findings
    # One pixel wide: mmseg has squeezed it, and the pipeline refuses it.
    if labels is None or labels.ndim != 2:
        return findings, None
    where = f'{info["img_path"]} with {labels_path}'
    turned = _take(findings, ('image turned by EXIF', info['img_path']))
    if size is not None and labels.shape != size:
        findings.append(
            (
                'label map of another size',
                f'{where}: {size[1]} x {size[0]} px as loaded'
                f'{" and turned by EXIF" * turned}, {labels.shape[1]} x '
                f'{labels.shape[0]} px',
            )
        )
    elif turned:
        findings.append(('label map not turned by EXIF', where))
    amounts = np.bincount(labels.ravel(), minlength=256)
    values = np.flatnonzero(amounts)
    outside = [
        value
        for value in values.tolist()
        if value >= classes and value not in (255, ignore_index)
    ]
    if classes and outside:
        findings.append(
            (
                'label outside the classes',
                f'{labels_path}: {outside[:10]}, the classes are 0 to '
                f'{classes - 1}',
            )
        )
    elif not amounts[:classes].any():
        findings.append(('label map without a class', labels_path))
    return findings, amounts
