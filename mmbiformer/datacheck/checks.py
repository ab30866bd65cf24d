"""Checks of data sets and classes before a run starts."""

import json
import os.path as osp
from mmap import ACCESS_READ, mmap
from typing import Iterator, List, Sequence, Tuple, Union

from mmengine.config import Config
from mmengine.registry import DATASETS, Registry
from torch import Tensor
from torch.utils.data import Dataset

from mmbiformer.utils.datasets import leaf_datasets, leaf_settings
from mmbiformer.utils.errors import ConfigError, DataError, MissingFileError
from mmbiformer.utils.files import is_local

# Guides of the two frameworks to the layout of their data sets.
_GUIDES = {
    'mmdet': 'https://mmdetection.readthedocs.io/en/latest/user_guides/'
    'dataset_prepare.html',
    'mmseg': 'https://mmsegmentation.readthedocs.io/en/latest/user_guides/'
    '2_dataset_prepare.html',
}


# Heads that predict the classes of the data set.
_HEADS = ('bbox_head', 'mask_head', 'decode_head', 'auxiliary_head')


def _dataset_paths(dataset: dict) -> Iterator[Tuple[str, str]]:
    """Yield the path settings of a data set, and their paths."""
    for leaf in leaf_settings(dataset):
        if leaf.get('backend_args'):
            continue
        root = leaf.get('data_root') or ''
        settings = {'ann_file': leaf.get('ann_file')}
        settings.update(
            {
                f'data_prefix.{key}': value
                for key, value in leaf.get('data_prefix', {}).items()
            }
        )
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

    Args:
        cfg (Config): Config of a run.
        dataloaders (Sequence[str]): Keys of the dataloaders to check; those
            that the config sets to None are skipped.

    Raises:
        ConfigError: If they do not, or the classes are not a list of names.
    """
    heads = dict(_heads(cfg.model, 'model'))
    for loader in dataloaders:
        if cfg.get(loader) is None:
            continue
        with DATASETS.switch_scope_and_registry(cfg.default_scope) as registry:
            named = list(
                _dataset_classes(cfg[loader].dataset, loader, registry)
            )
        for where, classes in named:
            if isinstance(classes, str):
                raise ConfigError(
                    f'{where} must be a tuple of names, got {classes!r}; one '
                    f'class is written ({classes!r},)'
                )
            for head, count in heads.items():
                if count != len(classes):
                    raise ConfigError(
                        f'{head}.num_classes={count}, but {where} has '
                        f'{len(classes)} names; every head must have as many '
                        'classes as the data set'
                    )


def _heads(node: object, where: str) -> Iterator[Tuple[str, int]]:
    """Yield each head that predicts the classes, and its ``num_classes``."""
    if isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _heads(value, f'{where}.{index}')
    elif isinstance(node, dict):
        for key, value in node.items():
            if key in ('roi_head', *_HEADS):
                yield from _heads(value, f'{where}.{key}')
        if where.rstrip('.0123456789').endswith(_HEADS):
            count = node.get('num_classes')
            if isinstance(count, int):
                yield where, count


def _dataset_classes(
    dataset: dict, loader: str, registry: Registry
) -> Iterator[Tuple[str, Union[str, Sequence[str]]]]:
    """Yield the setting that defines the classes, and the classes."""
    for leaf in leaf_settings(dataset):
        classes = (leaf.get('metainfo') or {}).get('classes')
        where = f'{loader}.dataset.metainfo.classes'
        if classes is None:
            kind = leaf['type']
            kind = registry.get(kind) if isinstance(kind, str) else kind
            classes = getattr(kind, 'METAINFO', {}).get('classes')
            where = f"{loader}.dataset's type {leaf['type']}"
        if classes is not None:
            yield where, classes


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
        if any(getattr(step, 'with_mask', False) for step in steps):
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
    if len(found) < len(classes):
        raise DataError(
            f'{name}: only {len(found)} of the {len(classes)} names in '
            f'metainfo.classes={classes} are categories of the annotations; '
            'they must be written as there'
        )
    names = {one['id']: one['name'] for one in _read_categories(dataset)}
    if not names:
        return
    numbered = tuple(names[one] for one in found)
    if numbered != classes:
        raise DataError(
            f'{name}: metainfo.classes={classes} must name each class once, '
            'in the order of the categories in the annotations, which is '
            f'{numbered}'
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
    labels: Tensor, classes: int, ignore_index: int, name: str
) -> None:
    """Check that a label map contains only labels of the classes.

    Args:
        labels (Tensor): Label map of any shape.
        classes (int): Number of classes.
        ignore_index (int): The label that is ignored.
        name (str): Name of the label map, for messages.

    Raises:
        DataError: If it contains any other value.
    """
    outside = (labels < 0) | (labels >= classes)
    outside &= (labels != ignore_index) & (labels != 255)
    if outside.any():
        values = labels[outside].unique().tolist()
        raise DataError(
            f'{name} holds the label values {values[:10]}, and the '
            f'{classes} classes are 0 to {classes - 1} ({ignore_index} is '
            'ignored). Should 0 be ignored and 1 be the first class: '
            'reduce_zero_label=True'
        )
