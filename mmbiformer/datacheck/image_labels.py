"""Check the labels of images: folders of classes, and lists of images.

They are of mmpretrain's ``CustomDataset`` and types derived from it, such as
``ImageNet``.
"""

import itertools
import os
import os.path as osp
from contextlib import contextmanager
from functools import partial
from typing import Iterator, List, Optional, Sequence, Tuple

import numpy as np
from mmengine.config import Config
from mmengine.fileio import list_from_file
from mmengine.registry import DATASETS, DefaultScope
from torch.utils.data import Dataset

from mmbiformer.utils.building import config_errors
from mmbiformer.utils.datasets import leaf_settings
from mmbiformer.utils.errors import ConfigError, DataError
from mmbiformer.utils.files import is_local
from mmbiformer.utils.text import list_some, one_line, suggest

from .checked_pipeline import CheckedPipeline
from .images import find_transform, inspect_all, inspect_image
from .label_maps import IMAGE_SUFFIXES
from .records import RECORD_ERRORS
from .report import Finding, SplitReport

# How many images of a list are looked for before training.
_SAMPLE = 1000
_RULE = (
    'the label of a class is the number of its folder in alphabetical order, '
    'so every data set needs the folders of all classes, and no other; for a '
    'class without images, an empty one'
)


def is_labeled(dataset: Dataset) -> bool:
    """Tell whether a data set has one label per image, by folder or list.

    Args:
        dataset (Dataset): A data set of mmpretrain.

    Returns:
        bool: False for other types, and without labels.
    """
    return (
        any(
            one.__module__ == 'mmpretrain.datasets.custom'
            for one in type(dataset).__mro__
        )
        and dataset.with_label
    )


def class_folders(dataset: Dataset) -> Optional[List[str]]:
    """Return the folders that are the classes of a data set.

    Args:
        dataset (Dataset): A data set that :func:`is_labeled`.

    Returns:
        list[str], optional: Their names in the order of the labels, or None
        if the labels are those of a list, or nothing is there.
    """
    if dataset.ann_file or not osp.isdir(dataset.img_prefix):
        return None
    # Only who has such a data set needs it.
    from mmpretrain.datasets.custom import find_folders

    return find_folders(dataset.img_prefix)[0]


def check_image_labels(cfg: Config, dataloaders: Sequence[str]) -> None:
    """Check that labels, folders and heads fit one another.

    Args:
        cfg (Config): Config of a run of classification.
        dataloaders (Sequence[str]): Keys of the dataloaders to check; those
            that the config sets to None are skipped.

    Raises:
        DataError: If folders or lists are wrong, or the folders are not those
            of the training.
        ConfigError: If a head has another number of classes.
    """
    with _scope(cfg):
        for loader in dataloaders:
            check_class_numbers(cfg, loader)
            for dataset in _datasets(cfg, loader):
                if not is_labeled(dataset):
                    continue
                problems = itertools.chain(
                    find_label_problems(
                        dataset,
                        _num_classes(cfg, dataset),
                        trained=loader == 'train_dataloader',
                    ),
                    compare_folders(cfg, dataset),
                    _missing_images(dataset),
                )
                for kind, where in problems:
                    raise DataError(
                        f'{loader}: {kind}: {where} (python '
                        'tools/misc/check_dataset.py CONFIG finds all '
                        'problems of the data)'
                    )


@contextmanager
def _scope(cfg: Config) -> Iterator[None]:
    """Build from mmpretrain's registries, and name what is not in them."""
    with (
        DefaultScope.overwrite_default_scope(cfg.default_scope),
        config_errors(cfg),
    ):
        yield


def _datasets(cfg: Config, loader: str) -> Iterator[Dataset]:
    """Yield the data sets of a dataloader; their files are not read."""
    if cfg.get(loader) is None:
        return
    for settings in leaf_settings(cfg[loader].dataset):
        try:
            dataset = DATASETS.build(dict(settings, lazy_init=True))
        except TypeError:
            # Not all types take lazy_init. Of wrong arguments, the runner
            # tells.
            continue
        yield dataset


def check_class_numbers(cfg: Config, loader: str) -> None:
    """Check that the heads have as many classes as the data.

    Args:
        cfg (Config): Config of a run of classification.
        loader (str): Key of the dataloader.

    Raises:
        ConfigError: If they have not.
    """
    with _scope(cfg):
        for dataset in _datasets(cfg, loader):
            where, names = _class_names(dataset, loader)
            if names is None:
                continue
            if isinstance(names, str):
                raise ConfigError(
                    f'{where} must be a tuple of names, got {names!r}; one '
                    f'class is written ({names!r},)'
                )
            for setting, count in _class_counts(cfg):
                if count != len(names):
                    raise ConfigError(
                        f'{setting}.num_classes={count}, but {where} has '
                        f'{len(names)} names; they must be as many: '
                        f'{_quoted(names)}'
                    )
            for setting, most in _top_counts(cfg, loader):
                if most > len(names):
                    raise ConfigError(
                        f'{setting}.topk must be at most the number of '
                        f'classes, got {most}, and {where} has {len(names)} '
                        f'names; use {setting}.topk=1'
                    )


def _class_names(
    dataset: Dataset, loader: str
) -> Tuple[str, Optional[Sequence[str]]]:
    """Return what defines the classes, and their names if they are known."""
    names = dataset.metainfo.get('classes')
    if names is None and is_labeled(dataset):
        names = class_folders(dataset)
        return f'the folder {dataset.img_prefix!r} of {loader}', names
    kind = type(dataset)
    own = getattr(kind, 'METAINFO', {}).get('classes')
    where = f"{loader}.dataset's type {kind.__name__}"
    if names is not None and own != names:
        where = f'{loader}.dataset.metainfo.classes'
    return where, names


def _class_counts(cfg: Config) -> Iterator[Tuple[str, int]]:
    """Yield the settings that hold a number of classes, and the number."""
    for where, settings in (
        ('model.head', cfg.model.get('head')),
        ('model.data_preprocessor', cfg.model.get('data_preprocessor')),
        ('data_preprocessor', cfg.get('data_preprocessor')),
    ):
        count = (settings or {}).get('num_classes')
        if isinstance(count, int):
            yield where, count


def _top_counts(cfg: Config, loader: str) -> Iterator[Tuple[str, int]]:
    """Yield the metrics of a data set, and of how many classes they look."""
    name = loader.replace('dataloader', 'evaluator')
    metrics = cfg.get(name) or []
    several = isinstance(metrics, (list, tuple))
    for index, metric in enumerate(metrics if several else [metrics]):
        top = metric.get('topk', 1)
        most = max(top) if isinstance(top, (list, tuple)) else top
        yield f'{name}.{index}' if several else name, most


def _num_classes(cfg: Config, dataset: Dataset) -> Optional[int]:
    """Return the number of classes: that of the names or of the head."""
    names = dataset.metainfo.get('classes')
    if names is not None:
        return len(names)
    return next((count for _, count in _class_counts(cfg)), None)


def compare_folders(cfg: Config, dataset: Dataset) -> Iterator[Finding]:
    """Compare the folders of classes with those that are trained on.

    Args:
        cfg (Config): Config of a run of classification.
        dataset (Dataset): A data set of it that :func:`is_labeled`.

    Yields:
        tuple: A kind of problem, and the folders.
    """
    found = class_folders(dataset)
    for train in _datasets(cfg, 'train_dataloader'):
        if found is None or not is_labeled(train):
            return
        expected = class_folders(train)
        # Who tests a model may not have what it was trained on.
        if expected is None:
            return
        surplus = [one for one in found if one not in expected]
        if surplus:
            yield (
                'class that is not trained on',
                f'{dataset.img_prefix!r} has {_quoted(surplus)}'
                f'{suggest(surplus[0], expected)}, which is not in '
                f'{train.img_prefix!r}; {_RULE}',
            )
        missing = [one for one in expected if one not in found]
        if missing:
            yield (
                'class without a folder',
                f'{dataset.img_prefix!r} has no {_quoted(missing)}, which is '
                f'in {train.img_prefix!r}; {_RULE}',
            )


def _quoted(names: Sequence[str]) -> str:
    return list_some([repr(name) for name in names])


def find_label_problems(
    dataset: Dataset, num_classes: Optional[int], trained: bool
) -> Iterator[Finding]:
    """Find what is wrong in the folders of classes, or in the list of images.

    Args:
        dataset (Dataset): A data set that :func:`is_labeled`.
        num_classes (int, optional): Number of classes, or None if it is not
            known.
        trained (bool): Whether it is to train on.

    Yields:
        tuple: A kind of problem, and its location.
    """
    if dataset.ann_file:
        yield from _find_in_list(dataset, num_classes)
        return
    root = dataset.img_prefix
    folders = class_folders(dataset)
    if not folders:
        yield 'no class folder', f'{root!r} has no folder'
        return
    names = dataset.metainfo.get('classes')
    if names is not None and len(names) != len(folders):
        yield (
            'folders do not fit the classes',
            f'{root!r} has {len(folders)} folders ({_quoted(folders)}), and '
            f'there are {len(names)} classes; for classes of your own, '
            "type='CustomDataset' takes the names of the folders",
        )
    elif set(names or ()) == set(folders) and list(names) != folders:
        yield (
            'folders in a different order',
            'metainfo.classes must be in the order of the folders of '
            f'{root!r}, which is alphabetical: {_quoted(folders)}',
        )
    paths = [osp.join(root, folder) for folder in folders]
    empty = [
        path
        for path in paths
        if not any(map(dataset.is_valid_file, _files_in(path)))
    ]
    if trained or empty == paths:
        for path in empty:
            yield 'class folder without images', path


def unreadable_labels(settings: dict) -> List[str]:
    """Tell why the labels of a data set cannot be read.

    Args:
        settings (dict): Settings of a data set without wrappers.

    Returns:
        list[str]: The problems; none if there are none, or the data set has
        no labels by folder or list.
    """
    dataset = DATASETS.build(dict(settings, lazy_init=True))
    if not is_labeled(dataset):
        return []
    found = find_label_problems(dataset, None, trained=False)
    return [f'{kind}: {where}' for kind, where in found]


def _files_in(folder: str) -> Iterator[str]:
    """Yield the files in a folder and its subfolders."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        yield from (osp.join(parent, name) for name in sorted(names))


def _find_in_list(
    dataset: Dataset, num_classes: Optional[int]
) -> Iterator[Finding]:
    """Find lines of a list that are no image with the label of a class."""
    for number, line in enumerate(list_from_file(dataset.ann_file), 1):
        where = f'{dataset.ann_file}, line {number}: {line.strip()!r}'
        name, _, label = line.strip().rpartition(' ')
        if not name or not label.lstrip('-').isdecimal():
            yield (
                'line without a label',
                f'{where}; a line is the path of an image, a space and the '
                'number of its class',
            )
        elif num_classes is not None and not 0 <= int(label) < num_classes:
            yield (
                'label outside the classes',
                f'{where}; the {num_classes} classes are 0 to '
                f'{num_classes - 1}',
            )


def _missing_images(dataset: Dataset) -> Iterator[Finding]:
    """Look for some of the images of a list, spread over all of it."""
    if not dataset.ann_file or not is_local(dataset.img_prefix):
        return
    lines = list_from_file(dataset.ann_file)
    for line in lines[:: max(1, len(lines) // _SAMPLE)]:
        path = osp.join(dataset.img_prefix, line.strip().rpartition(' ')[0])
        if not osp.isfile(path):
            yield 'missing image', f'{path}, which {dataset.ann_file} lists'


def check_labeled_images(
    cfg: Config, dataset: Dataset, report: SplitReport, workers: int
) -> None:
    """Check labels and images of a data set.

    Args:
        cfg (Config): Config of a run of classification.
        dataset (Dataset): A data set of it that :func:`is_labeled`.
        report (SplitReport): Report to add counts and problems to.
        workers (int): Number of processes that read images.
    """
    trained = report.name == 'train'
    num_classes = _num_classes(cfg, dataset)
    report.extend(list(find_label_problems(dataset, num_classes, trained)))
    report.extend(list(compare_folders(cfg, dataset)))
    report.extend(list(_find_other_files(dataset)))
    try:
        infos = dataset.load_data_list()
    except (RuntimeError, *RECORD_ERRORS) as error:
        if not report.fatal:
            report.add('data set cannot be read', one_line(error))
        return
    report.counts['images'] += len(infos)
    labels = np.array([info['gt_label'] for info in infos], np.int64)
    names = dataset.metainfo.get('classes') or range(num_classes or 0)
    report.unit = 'share'
    for label, name in enumerate(names):
        count = int((labels == label).sum())
        report.classes[str(name)] = count / max(1, len(infos)), count
    inspect = partial(
        inspect_image,
        loader=find_transform(dataset, 'LoadImage'),
        pipeline=CheckedPipeline(dataset.pipeline),
    )
    tasks = [(info, []) for info in infos]
    for findings, _ in inspect_all(inspect, tasks, workers):
        report.extend(findings)


def _find_other_files(dataset: Dataset) -> Iterator[Finding]:
    """Find images that are not read, beside or in the folders of classes."""
    root = dataset.img_prefix
    if dataset.ann_file:
        return
    for path in _files_in(root):
        if not path.lower().endswith(IMAGE_SUFFIXES):
            continue
        if osp.dirname(path) == root.rstrip('/'):
            yield 'image outside of the class folders', path
        elif not dataset.is_valid_file(path):
            yield 'image with another suffix', path
