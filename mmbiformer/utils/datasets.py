"""The data sets inside of wrappers such as RepeatDataset or ConcatDataset."""

from typing import Iterator

from mmengine.runner.runner import _SlicedDataset
from torch.utils.data import Dataset


def leaf_datasets(dataset: Dataset) -> Iterator[Dataset]:
    """Yield the data sets that read files themselves.

    Args:
        dataset (Dataset): A data set, built.

    Yields:
        Dataset: Each one inside of its wrappers, or ``dataset`` itself if it
        wraps none.
    """
    # What num_batch_per_epoch wraps a data set in passes reads of attributes
    # on, but not writes.
    if isinstance(dataset, _SlicedDataset):
        dataset = dataset._dataset
    inner = getattr(dataset, 'datasets', [getattr(dataset, 'dataset', None)])
    for one in inner:
        if one is None:
            yield dataset
        else:
            yield from leaf_datasets(one)


def leaf_settings(settings: dict) -> Iterator[dict]:
    """Yield the settings of the data sets that read files themselves.

    Args:
        settings (dict): Settings of a data set in a config.

    Yields:
        dict: Those of each one inside of its wrappers, or ``settings`` itself
        if it wraps none. They are not copies. Data sets that are built
        already have none.
    """
    if not isinstance(settings, dict):
        return
    inner = settings.get('datasets', settings.get('dataset'))
    if inner is None:
        yield settings
        return
    for one in inner if isinstance(inner, (list, tuple)) else [inner]:
        yield from leaf_settings(one)
