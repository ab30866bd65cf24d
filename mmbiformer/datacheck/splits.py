"""Check all data of a config, before training."""

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from mmbiformer.utils.datasets import leaf_settings
from mmbiformer.utils.errors import ConfigError
from mmbiformer.utils.text import one_line

from .checks import check_classes, check_data
from .coco import check_coco
from .coco_evaluation import check_evaluator_files
from .image_labels import check_class_numbers, check_labeled_images, is_labeled
from .instances import check_instances
from .label_maps import check_label_maps
from .objects import ObjectTally, is_panoptic, needs_objects, reads_coco
from .panoptic import check_panoptic
from .report import SplitReport

SPLITS = ('train', 'val', 'test')
"""tuple[str]: Prefixes of the dataloaders of a config."""


def check_split(cfg: Config, split: str, workers: int = 2) -> SplitReport:
    """Check all data of a split.

    Args:
        cfg (Config): Config of a run.
        split (str): One of :data:`SPLITS`.
        workers (int): Number of processes that read images. Default: 2.

    Returns:
        SplitReport: Counts and problems.

    Raises:
        ConfigError: If the config has no such dataloader, or a data set of an
            unsupported type.
    """
    loader = f'{split}_dataloader'
    if cfg.get(loader) is None:
        raise ConfigError(f'{cfg.filename} has no {loader!r}')
    report = SplitReport(split)
    classifies = cfg.default_scope == 'mmpretrain'
    try:
        if classifies:
            check_class_numbers(cfg, loader)
        else:
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
    needed = not classifies
    for settings in leaf_settings(cfg[loader].dataset):
        try:
            dataset = DATASETS.build(dict(settings, lazy_init=True))
        except (AssertionError, LookupError, TypeError, ValueError) as error:
            report.add('data set cannot be read', one_line(error))
            continue
        needed = needed and needs_objects(dataset)
        if classifies and is_labeled(dataset):
            check_labeled_images(cfg, dataset, report, workers)
        elif is_panoptic(dataset):
            check_panoptic(dataset, report, workers)
        elif reads_coco(type(dataset)):
            check_coco(dataset, report, workers)
        elif cfg.default_scope == 'mmseg' and hasattr(dataset, 'label_map'):
            check_label_maps(dataset, report, workers)
        elif not classifies and hasattr(dataset, 'parse_data_info'):
            check_instances(dataset, report, workers)
        else:
            raise ConfigError(
                f'{loader}: data sets of type {type(dataset).__name__} are '
                "not supported; supported are mmdet's BaseDetDataset, mmseg's "
                "BaseSegDataset, mmpretrain's CustomDataset and types derived "
                'from them'
            )
    if not report.counts['images'] and not report.fatal:
        report.add('no image', cfg[loader].dataset.get('data_root') or split)
    report.extend(ObjectTally.merge(report.tallies).findings())
    if split != 'train':
        check_evaluator_files(cfg.get(f'{split}_evaluator') or [], report)
    amounts = [amount for amount, _ in report.classes.values()]
    if needed and not any(amounts) and not report.fatal:
        report.add('no object', f'the classes are {list(report.classes)}')
    report.extend(
        (f'class without {"images" if classifies else "objects"}', name)
        for name, (amount, _) in report.classes.items()
        if not amount
    )
    return report
