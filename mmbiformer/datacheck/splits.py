"""What is wrong with the data of a config, told before training."""

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from mmbiformer.utils.datasets import leaf_settings
from mmbiformer.utils.errors import ConfigError
from mmbiformer.utils.text import one_line

from .checks import check_classes, check_data
from .coco import check_coco
from .label_maps import check_label_maps
from .report import SplitReport

SPLITS = ('train', 'val', 'test')
"""tuple[str]: The dataloaders of a config, without ``_dataloader``."""


def check_split(cfg: Config, split: str, workers: int = 2) -> SplitReport:
    """Look at all data of a split.

    Args:
        cfg (Config): Config of a run.
        split (str): One of :data:`SPLITS`.
        workers (int): Processes that read images. Default: 2.

    Returns:
        SplitReport: What there is, and what is wrong.

    Raises:
        ConfigError: If the config has no such dataloader, or a data set of a
            kind that cannot be looked into.
    """
    loader = f'{split}_dataloader'
    if cfg.get(loader) is None:
        raise ConfigError(f'{cfg.filename} has no {loader!r}')
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
    for settings in leaf_settings(cfg[loader].dataset):
        try:
            dataset = DATASETS.build(dict(settings, lazy_init=True))
        except (AssertionError, LookupError, TypeError, ValueError) as error:
            report.add('data set cannot be read', one_line(error))
            continue
        if (
            getattr(getattr(dataset, 'COCOAPI', None), '__name__', '')
            == 'COCO'
        ):
            check_coco(dataset, report, workers)
        elif cfg.default_scope == 'mmseg' and hasattr(dataset, 'label_map'):
            check_label_maps(dataset, report, workers)
        else:
            raise ConfigError(
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
