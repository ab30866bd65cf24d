"""Data sets that cannot be read, or have no image, named by their settings."""

import inspect
import json
import os.path as osp
from contextlib import contextmanager, suppress
from typing import Iterator, List, Optional

from mmengine.registry import DATASETS, FUNCTIONS
from torch.utils.data import DataLoader, Dataset

from mmbiformer.utils.building import config_problem, describe_unregistered
from mmbiformer.utils.datasets import leaf_datasets, leaf_settings
from mmbiformer.utils.errors import ConfigError, DataError, UserError
from mmbiformer.utils.text import list_some, one_line, shorten, suggest

from .checks import check_annotations
from .image_labels import unreadable_labels
from .objects import reads_coco
from .records import RECORD_ERRORS, unreadable_record

# What mmengine takes out of the settings of a dataloader.
_LOADER_SETTINGS = ('num_batch_per_epoch', 'disable_subprocess_warning')


@contextmanager
def loading_errors(dataloader: dict) -> Iterator[None]:
    """Say what is wrong if a dataloader cannot be built.

    Files that cannot be read, data sets without images and settings that a
    dataloader refuses are recognized. Any other error passes unchanged.

    Args:
        dataloader (dict): Config of the dataloader that the block builds.

    Yields:
        None: The block.

    Raises:
        DataError: If a file of the data set cannot be read or has other
            content than is needed, or no image is left.
        ConfigError: If the dataloader's own settings are wrong.
    """
    dataset = settings_of(dataloader)
    try:
        yield
    except UserError:
        raise
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f'a file of this data set cannot be read ({one_line(error)}): '
            f'{describe_dataset(dataset)}'
        ) from error
    except (RuntimeError, *RECORD_ERRORS) as error:
        if config_problem(error, dataloader) is not None:
            raise
        problem = _loader_problem(dataloader)
        if problem is not None:
            raise ConfigError(problem) from error
        problem = _find_problem(dataset)
        if problem is not None:
            raise DataError(problem) from error
        raise


def settings_of(dataloader: dict) -> dict:
    """Return the settings of the data set of a dataloader.

    Args:
        dataloader (dict): Config of the dataloader.

    Returns:
        dict: Nothing if the data set is built already.
    """
    dataset = dataloader.get('dataset')
    return dataset if isinstance(dataset, dict) else {}


def describe_dataset(dataset: dict) -> str:
    """Return the settings that say where a data set lies and what is in it.

    Args:
        dataset (dict): Settings of a data set.

    Returns:
        str: Those of the first data set inside of its wrappers.
    """
    dataset = next(leaf_settings(dataset), {})
    keys = ('data_root', 'ann_file', 'data_prefix', 'metainfo', 'filter_cfg')
    return str(
        {key: shorten(dataset[key]) for key in keys if dataset.get(key)}
    )


def check_not_empty(dataset: Dataset, settings: dict) -> None:
    """Check that a data set has images.

    Args:
        dataset (Dataset): The data set.
        settings (dict): Its settings, for the message.

    Raises:
        DataError: If it has none.
    """
    if not len(dataset):
        raise DataError(_describe_empty(settings))


def check_leaves(dataset: Dataset, settings: dict) -> None:
    """Check the annotations of each data set inside of wrappers.

    Args:
        dataset (Dataset): The data set, fully initialized.
        settings (dict): Its settings, for messages.

    Raises:
        DataError: If the classes are not the categories, or a mask that is
            needed is missing; the message names the inner data set.
    """
    leaves = list(leaf_datasets(dataset))
    described = [describe_dataset(one) for one in leaf_settings(settings)]
    # The settings of a data set that is built already are not known.
    if len(described) != len(leaves):
        described = [describe_dataset(settings)] * len(leaves)
    for leaf, description in zip(leaves, described, strict=True):
        check_annotations(leaf, f'data set {description}')


def _describe_empty(dataset: dict) -> str:
    """Say which data set is empty, and what may have emptied it."""
    root = next(leaf_settings(dataset), {}).get('data_root') or '.'
    return (
        f'the data set in data_root={osp.abspath(root)!r} is empty: no image '
        f'is left. {_skipped(dataset)}Check that the annotations are not '
        'empty, and that their category names are those of metainfo.classes. '
        f'Its settings: {describe_dataset(dataset)}'
    )


def _skipped(dataset: dict) -> str:
    """Say why objects are skipped, if that may have emptied a data set."""
    # pycocotools, which it needs, takes a second to import.
    from .instances import tally_records

    try:
        leaf = dict(next(leaf_settings(dataset)), lazy_init=True)
        tally = tally_records(DATASETS.build(leaf))
    except Exception:
        # A data set of another kind: that it is empty is what is known.
        return ''
    return ''.join(f'{kind}: {where}. ' for kind, where in tally.findings())


def _find_problem(dataset: dict) -> Optional[str]:
    """Say what is wrong with the files of a data set, if anything is."""
    for leaf in leaf_settings(dataset):
        problems = _annotation_problems(leaf)
        if problems:
            return (
                'the annotations of this data set cannot be read '
                f'({problems[0]}): {describe_dataset(leaf)}'
            )
    for leaf in leaf_settings(dataset):
        problem = _why_empty(leaf)
        if problem is not None:
            return problem
    return None


def _annotation_problems(dataset: dict) -> List[str]:
    """Return what is wrong in annotations of objects, or in labels."""
    with suppress(Exception):
        # Of other data sets, and where the settings are wrong, see below.
        problems = unreadable_labels(dataset)
        if problems:
            return problems
    name, kind = dataset.get('ann_file'), dataset.get('type')
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    if not name or kind is None:
        return []
    if not reads_coco(kind):
        return unreadable_record(dataset)
    # pycocotools, which it needs, takes a second to import.
    from .coco import annotation_problems

    return annotation_problems(osp.join(dataset.get('data_root') or '', name))


def _why_empty(dataset: dict) -> Optional[str]:
    """Say why a data set that could be read has no image, if it has none.

    mmengine's data sets cannot serialize an empty list, and say only that
    nothing can be concatenated.
    """
    try:
        built = DATASETS.build(dict(dataset, serialize_data=False))
        if len(built):
            return None
        check_leaves(built, dataset)
    except DataError as error:
        return str(error)
    except Exception:
        # What was raised before is the error to show.
        return None
    return _describe_empty(dataset)


def _loader_problem(dataloader: dict) -> Optional[str]:
    """Say which settings torch's DataLoader refuses, if any."""
    if dataloader.get('persistent_workers') and not dataloader.get(
        'num_workers'
    ):
        return (
            'a dataloader with persistent_workers=True needs num_workers of '
            f'at least 1, got num_workers={dataloader.get("num_workers", 0)}'
        )
    collate = dataloader.get('collate_fn')
    if isinstance(collate, dict) and isinstance(collate.get('type'), str):
        with FUNCTIONS.switch_scope_and_registry(None) as registry:
            if registry.get(collate['type']) is None:
                return describe_unregistered(
                    collate['type'], registry, 'collate_fn.type'
                )
    accepted = {*inspect.signature(DataLoader).parameters, *_LOADER_SETTINGS}
    unknown = sorted(set(dataloader) - accepted)
    if not unknown:
        return None
    return (
        f'a dataloader has no argument {list_some(unknown)!r}'
        f'{suggest(unknown[0], accepted)}. Its arguments: '
        f'{list_some(sorted(accepted), 30)}'
    )
