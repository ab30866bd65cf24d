"""Read the records of a data set, and name the one that cannot be read."""

import gc
from contextlib import contextmanager
from typing import Iterator, List

from mmengine.registry import DATASETS
from torch.utils.data import Dataset

from mmbiformer.utils.text import one_line

# What reading a record may raise: also xml's ParseError, a SyntaxError.
RECORD_ERRORS = (
    AssertionError,
    AttributeError,
    LookupError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
)


@contextmanager
def collection_paused() -> Iterator[None]:
    """Pause Python's garbage collection.

    Annotations are millions of small objects without cycles. The collector
    looks at all of them again and again while they are read.

    Yields:
        None: The block.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def load_records(dataset: Dataset) -> List[dict]:
    """Read the annotations of a data set.

    Args:
        dataset (Dataset): mmdet's BaseDetDataset or one derived from it,
            built with ``lazy_init=True``.

    Returns:
        list[dict]: Data information of all images, before any is filtered.

    Raises:
        ValueError: If they cannot be read; the message names the record, as
            far as the data set reads them one by one.
    """
    current = []
    parse = dataset.parse_data_info

    def parse_and_note(raw: dict) -> dict:
        current[:] = [raw]
        return parse(raw)

    dataset.parse_data_info = parse_and_note
    try:
        return dataset.load_data_list()
    except (ImportError, *RECORD_ERRORS) as error:
        where = _record_name(current[0]) if current else dataset.ann_file
        raise ValueError(
            f'{where}: {type(error).__name__}: {one_line(error)}'
        ) from error
    finally:
        del dataset.parse_data_info


def _record_name(raw: object) -> str:
    """Return what names a record in a message."""
    raw = raw.get('raw_img_info', raw) if isinstance(raw, dict) else {}
    for key in ('xml_path', 'file_name', 'filename', 'img_id', 'ID'):
        if raw.get(key) is not None:
            return str(raw[key])
    return 'a record'


def unreadable_record(settings: dict) -> List[str]:
    """Tell which record of a data set cannot be read.

    Args:
        settings (dict): Settings of a data set without wrappers.

    Returns:
        list[str]: The record and the error, or nothing if there is none, or
        the data set reads no records one by one.
    """
    try:
        dataset = DATASETS.build(dict(settings, lazy_init=True))
        if hasattr(dataset, 'parse_data_info'):
            load_records(dataset)
    except RECORD_ERRORS as error:
        return [one_line(error)]
    return []
