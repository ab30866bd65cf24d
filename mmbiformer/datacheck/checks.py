"""Checks of data sets and classes before a run starts."""

import json
import os.path as osp
from collections import Counter
from contextlib import suppress
from mmap import ACCESS_READ, mmap
from typing import Iterable, Iterator, List, Optional, Sequence, Tuple

from mmengine.config import Config
from mmengine.fileio import list_from_file
from mmengine.registry import DATASETS, Registry
from torch import Tensor
from torch.utils.data import Dataset

from mmbiformer.utils.datasets import leaf_datasets, leaf_settings
from mmbiformer.utils.errors import ConfigError, DataError, MissingFileError
from mmbiformer.utils.files import is_local
from mmbiformer.utils.text import list_some, suggest

from .checked_pipeline import reads_masks
from .image_labels import check_image_labels

# Guides of the two frameworks to the layout of their data sets.
_GUIDES = {
    'mmdet': 'https://mmdetection.readthedocs.io/en/latest/user_guides/'
    'dataset_prepare.html',
    'mmpretrain': 'https://mmpretrain.readthedocs.io/en/latest/user_guides/'
    'dataset_prepare.html',
    'mmseg': 'https://mmsegmentation.readthedocs.io/en/latest/user_guides/'
    '2_dataset_prepare.html',
}


# Heads that predict the classes of the data set.
_HEADS = ('bbox_head', 'mask_head', 'decode_head', 'auxiliary_head')
# Types among them that predict something else: boundaries of objects.
_OTHER_HEADS = ('STDCHead',)
# Heads of panoptic models, which have numbers of things and of stuff.
_PANOPTIC_HEADS = ('panoptic_head', 'semantic_head', 'panoptic_fusion_head')
# Parts of models whose classes are texts.
_TEXT_ENCODERS = ('language_model', 'text_encoder')


def _dataset_paths(dataset: dict) -> Iterator[Tuple[str, str]]:
    """Yield the path settings of a data set, and their paths."""
    for leaf in leaf_settings(dataset):
        if leaf.get('backend_args'):
            continue
        root = leaf.get('data_root') or ''
        settings = {'ann_file': leaf.get('ann_file')}
        prefix = leaf.get('data_prefix', {})
        if isinstance(prefix, dict):
            settings.update(
                {f'data_prefix.{key}': one for key, one in prefix.items()}
            )
        else:
            # In mmpretrain it is a path; ImageNet takes its split for one.
            settings['data_prefix'] = prefix or leaf.get('split')
        for key, path in settings.items():
            if path and is_local(osp.join(root, path)):
                yield key, osp.join(root, path)


def check_data(cfg: Config, dataloaders: Sequence[str]) -> None:
    """Check that the files of the data sets exist.

    Args:
        cfg (Config): Config of a run. Its optional ``data_preparation`` says
            how to prepare the data set.
        dataloaders (Sequence[str]): Keys of the dataloaders to check; those
            that the config sets to None are skipped.

    Raises:
        MissingFileError: If anything is missing; the message lists the
            missing paths and how to prepare the data.
        ConfigError: If the config has no such dataloader.
    """
    missing = []
    for name in dataloaders:
        if name not in cfg:
            raise ConfigError(f'{cfg.filename} has no {name!r}')
        if cfg[name] is None:
            continue
        missing += [
            f'  {name}.dataset.{key}: {osp.abspath(path)}'
            for key, path in _dataset_paths(cfg[name].dataset)
            if not osp.exists(path)
        ]
    if missing:
        how = cfg.get('data_preparation', f'see {_GUIDES[cfg.default_scope]}')
        raise MissingFileError(
            'the data set is not there. Looked for\n'
            + '\n'.join(missing)
            + f'\nTo prepare it: {how}'
        )


def check_classes(cfg: Config, dataloaders: Sequence[str]) -> None:
    """Check that heads and data sets have the same number of classes.

    Models with a text encoder take the classes as text, in any number.

    Args:
        cfg (Config): Config of a run.
        dataloaders (Sequence[str]): Keys of the dataloaders to check; those
            that the config sets to None are skipped.

    Raises:
        ConfigError: If they do not, or the classes are not a list of names.
        DataError: If the folders of classes, or lists of images with their
            labels, are wrong.
    """
    if cfg.default_scope == 'mmpretrain':
        check_image_labels(cfg, dataloaders)
        return
    has_text = any(cfg.model.get(key) for key in _TEXT_ENCODERS)
    for loader in dataloaders:
        if cfg.get(loader) is None:
            continue
        with DATASETS.switch_scope_and_registry(cfg.default_scope) as registry:
            named = list(
                _dataset_classes(cfg[loader].dataset, loader, registry)
            )
        for where, metainfo, kind in named:
            classes = metainfo['classes']
            if isinstance(classes, str):
                raise ConfigError(
                    f'{where} must be a tuple of names, or an existing file '
                    f'with a name in each line, got {classes!r}; one class '
                    f'is written ({classes!r},)'
                )
            _check_subset(kind, where, classes)
            if not has_text:
                _check_heads(cfg.model, where, metainfo)


def _check_subset(kind: object, where: str, classes: Sequence[str]) -> None:
    """Check that classes are among those of a type of mmseg, if it has any."""
    known = getattr(kind, 'METAINFO', {}).get('classes')
    if known is None or not hasattr(kind, 'get_label_map'):
        return
    unknown = [one for one in classes if one not in known]
    if unknown:
        listed = list_some(list(map(repr, unknown)))
        raise ConfigError(
            f'{where} has the names {listed}{suggest(unknown[0], known)}, '
            f'which are no classes of {kind.__name__}; classes of your own '
            'need the type BaseSegDataset'
        )


def _check_heads(model: dict, where: str, metainfo: dict) -> None:
    """Compare the heads with the classes of a data set.

    Args:
        model (dict): Settings of the model.
        where (str): The setting that defines the classes.
        metainfo (dict): The ``classes``, and what else the data set has.
    """
    number = len(metainfo['classes'])
    counts = [number]
    things = _count_things(metainfo)
    for key in _PANOPTIC_HEADS:
        head = model.get(key) or {}
        if {'num_things_classes', 'num_stuff_classes'} <= set(head):
            split = head['num_things_classes'], head['num_stuff_classes']
            if sum(split) != number or things not in (None, split[0]):
                is_split = '' if things is None else f', {things} of things'
                raise ConfigError(
                    f'model.{key}.num_things_classes={split[0]} and '
                    f'num_stuff_classes={split[1]}, but {where} has {number} '
                    f'names{is_split}; together they must be as many as the '
                    'data set has'
                )
            if key == 'semantic_head':
                # It predicts the stuff, and the others need only the things.
                counts.append(split[0])
    for head, settings in _heads(model, 'model'):
        count = settings.get('num_classes')
        # One channel tells two classes apart, however they are counted.
        if settings.get('out_channels') == 1 and number == 2:
            continue
        if isinstance(count, int) and count not in counts:
            things_only = f', or as many as it has things ({counts[-1]})'
            raise ConfigError(
                f'{head}.num_classes={count}, but {where} has {number} names; '
                'every head must have as many classes as the data set'
                f'{things_only if len(counts) > 1 else ""}'
            )


def _count_things(metainfo: dict) -> Optional[int]:
    """Return the number of things, if the data set tells all from stuff."""
    things = set(metainfo.get('thing_classes') or ())
    stuff = set(metainfo.get('stuff_classes') or ())
    classes = metainfo['classes']
    if not things or not things | stuff >= set(classes):
        return None
    return sum(name in things for name in classes)


def _heads(node: object, where: str) -> Iterator[Tuple[str, dict]]:
    """Yield each head that predicts the classes, and its settings."""
    if isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _heads(value, f'{where}.{index}')
    elif isinstance(node, dict):
        for key, value in node.items():
            if key in ('roi_head', *_HEADS):
                yield from _heads(value, f'{where}.{key}')
        is_head = where.rstrip('.0123456789').endswith(_HEADS)
        if is_head and node.get('type') not in _OTHER_HEADS:
            yield where, node


def _dataset_classes(
    dataset: dict, loader: str, registry: Registry
) -> Iterator[Tuple[str, dict, object]]:
    """Yield what defines the classes, the meta information, and the type.

    As in mmengine, a file stands for its lines.
    """
    for leaf in leaf_settings(dataset):
        kind = leaf.get('type')
        where = f"{loader}.dataset's type {kind}"
        kind = registry.get(kind) if isinstance(kind, str) else kind
        given = leaf.get('metainfo') or {}
        if given.get('classes') is not None:
            where = f'{loader}.dataset.metainfo.classes'
        metainfo = {**getattr(kind, 'METAINFO', {}), **given}
        for key in ('classes', 'thing_classes', 'stuff_classes'):
            if isinstance(metainfo.get(key), str):
                with suppress(FileNotFoundError, TypeError):
                    metainfo[key] = list_from_file(metainfo[key])
        if metainfo.get('classes') is not None:
            yield where, metainfo, kind


def check_annotations(dataset: Dataset, name: str, images: int = 100) -> None:
    """Check that a detection data set has what its pipeline needs.

    Args:
        dataset (Dataset): The data set, fully initialized.
        name (str): Name of the data set, for messages.
        images (int): Number of images to check. Default: 100.

    Raises:
        DataError: If the classes are not the categories in the same order,
            so that objects would get the labels of other classes, or if a
            required mask is missing.
    """
    for leaf in leaf_datasets(dataset):
        _check_categories(leaf, name)
        steps = getattr(getattr(leaf, 'pipeline', None), 'transforms', ())
        if any(map(reads_masks, steps)):
            _check_masks_are_there(leaf, name, images)


def _check_categories(dataset: Dataset, name: str) -> None:
    """Check that classes and categories have the same order.

    mmdet labels the categories in the order of the annotation file, and does
    not compare it with the order of the classes.
    """
    found = getattr(dataset, 'cat_ids', None)
    if found is None:
        return
    classes = tuple(dataset.metainfo.get('classes') or ())
    categories = {one['id']: one for one in _read_categories(dataset)}
    used = [categories[one] for one in found if one in categories]
    names = tuple(one['name'] for one in used)
    if names == classes:
        problem = None
    elif len(found) < len(classes):
        everything = [one['name'] for one in categories.values()]
        problem = _describe_missing(classes, len(found), everything)
    elif len(found) > len(classes) or len(set(names)) < len(names):
        problem = _describe_surplus(classes, len(found), names)
    else:
        problem = _describe_order(classes, names)
    api = getattr(getattr(dataset, 'COCOAPI', None), '__name__', '')
    things = [bool(one.get('isthing')) for one in used]
    if api == 'COCOPanoptic' and things != sorted(things, reverse=True):
        # mmdet's panoptic heads take the first labels for those of things.
        late = names[len(things) - 1 - things[::-1].index(True)]
        problem = problem or (
            'all things (isthing=1) must precede all stuff in the categories '
            f'of the annotations, and the thing {late!r} follows stuff'
        )
    if problem is not None:
        raise DataError(f'{name}: {problem}')


def _describe_missing(
    classes: Tuple[str, ...], found: int, names: List[str]
) -> str:
    """Say which classes are no categories; ``names`` are of all of these."""
    unknown = [one for one in classes if one not in names]
    which = there = ''
    if names and unknown:
        others = [repr(one) for one in names if one not in classes]
        there = f' ({list_some(others)})' if others else ''
        similar = suggest(unknown[0], set(names) - set(classes))
        which = f', not {list_some(list(map(repr, unknown)))}{similar}'
    return (
        f'only {found} of the {len(classes)} names in metainfo.classes are '
        f'categories of the annotations{which}; they must be written as there'
        f'{there}'
    )


def _describe_surplus(
    classes: Tuple[str, ...], found: int, names: Tuple[str, ...]
) -> str:
    """Say which categories have no class of their own."""
    twice = [one for one, count in Counter(names).items() if count > 1]
    if twice:
        twice = list_some(list(map(repr, twice)))
        return (
            f'several categories of the annotations have the name {twice}; '
            'each makes a class of its own'
        )
    return (
        f'{found} categories of the annotations are classes of this data '
        f'set, and metainfo.classes has {len(classes)} names'
    )


def _describe_order(
    classes: Tuple[str, ...], names: Tuple[str, ...]
) -> Optional[str]:
    """Say which classes have the labels of others, if any have.

    LVIS takes all categories in the order of their ids, and not by name: a
    name that is corrected does not matter.
    """
    place = {one: label for label, one in enumerate(names)}
    moved = [
        f'{one!r} is class {label} and category {place[one]}'
        for label, one in enumerate(classes)
        if place.get(one, label) != label
    ]
    if not moved:
        return None
    order = f', which is {names}' if len(names) <= 8 else ''
    return (
        'metainfo.classes must name each class once, in the order of the '
        f'categories in the annotations: {list_some(moved, 4)}{order}'
    )


def _read_categories(dataset: Dataset) -> List[dict]:
    """Read only the categories of an annotation file.

    A file of COCO's size takes many seconds to parse. mmdet has parsed it
    before, but does not keep the names.
    """
    path = getattr(dataset, 'ann_file', None)
    if not isinstance(path, str) or not osp.isfile(path):
        return []
    with (
        open(path, 'rb') as file,
        mmap(file.fileno(), 0, access=ACCESS_READ) as content,
    ):
        at = content.rfind(b'"categories"')
        while at >= 0:
            start = content.find(b'[', at)
            try:
                text = content[start : start + 2**24].decode(errors='replace')
                found, _ = json.JSONDecoder().raw_decode(text)
                if found and all({'id', 'name'} <= set(one) for one in found):
                    return found
            except (TypeError, ValueError):
                pass
            at = content.rfind(b'"categories"', 0, at)
    return []


def _check_masks_are_there(dataset: Dataset, name: str, images: int) -> None:
    """Check that all objects have masks."""
    for index in range(min(images, len(dataset))):
        info = dataset.get_data_info(index)
        for instance in info.get('instances', ()):
            if 'mask' not in instance and not instance.get('ignore_flag'):
                raise DataError(
                    f'{name}: an instance of {info["img_path"]} has no mask '
                    "('segmentation' is missing or empty in the "
                    'annotations); a detector with masks, such as Mask R-CNN, '
                    'needs one for each, others, such as RetinaNet, do without'
                )


def check_labels(
    labels: Tensor, classes: int, ignored: Iterable[int], name: str
) -> None:
    """Check that a label map contains only labels of the classes.

    Args:
        labels (Tensor): Label map of any shape.
        classes (int): Number of classes.
        ignored (Iterable[int]): The labels that are ignored, besides 255.
        name (str): Name of the label map, for messages.

    Raises:
        DataError: If it contains any other value.
    """
    outside = (labels < 0) | (labels >= classes)
    for value in {255, *ignored}:
        outside &= labels != value
    if outside.any():
        values = labels[outside].unique().tolist()
        ignored = ' and '.join(map(str, sorted(set(ignored) or {255})))
        raise DataError(
            f'{name} holds the label values {values[:10]}, and the '
            f'{classes} classes are 0 to {classes - 1} ({ignored} is '
            'ignored). Should 0 be ignored and 1 be the first class: '
            'reduce_zero_label=True'
        )
