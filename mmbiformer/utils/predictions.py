"""What a test does with its predictions, from the command line."""

import logging
from copy import deepcopy
from pathlib import Path
from typing import List, Optional, Sequence

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from .config import task_of, type_name
from .datasets import leaf_settings
from .errors import ConfigError
from .files import check_writable

# The metrics of mmseg that take output_dir and keep_results.
_WRITES_LABEL_MAPS = ('IoUMetric', 'CityscapesMetric')


def enable_drawing(
    cfg: Config, show: bool, show_dir: Optional[str], wait_time: float
) -> None:
    """Draw the predictions, for ``--show`` and ``--show-dir``.

    Args:
        cfg (Config): Config of a run; changed in place.
        show (bool): Whether to show them in a window.
        show_dir (str, optional): Folder to write them to: below
            ``work_dir/<time>`` for detection, as mmdet does, and as it is
            else, as mmseg and mmpretrain do.
        wait_time (float): Seconds that each window stays.

    Raises:
        ConfigError: If the config has no visualization hook.
    """
    hook = cfg.get('default_hooks', {}).get('visualization')
    task = task_of(cfg)
    if task == 'classification':
        cfg.setdefault('default_hooks', {})
        cfg.default_hooks.visualization = ConfigDict(
            type='ClassVisualizationHook',
            show=show,
            wait_time=wait_time,
            out_dir=show_dir,
        )
        return
    if hook is None:
        raise ConfigError(
            '--show and --show-dir need a visualization hook in '
            'the config, e.g. default_hooks = '
            "dict(visualization=dict(type='DetVisualizationHook'"
            '))'
        )
    hook.draw = True
    if show:
        hook.show = True
        hook.wait_time = wait_time
    if show_dir and task == 'detection':
        hook.test_out_dir = show_dir
    elif show_dir:
        hook.interval = 1
        cfg.visualizer.save_dir = show_dir


def keep_predictions(cfg: Config, out: str) -> None:
    """Write the predictions to disk, for ``--out``.

    Args:
        cfg (Config): Config of a run; changed in place.
        out (str): For segmentation the folder for label maps, which is
            created; else the pickle file to dump to.

    Raises:
        ConfigError: If the name does not fit the task.
        OutputError: If the folder cannot be created.
    """
    task = task_of(cfg)
    if task == 'segmentation':
        metric = _writing_metric(cfg)
        check_writable(Path(out), '--out')
        # mmseg creates it in the first process only, which another one that
        # already writes to it may be ahead of.
        Path(out).mkdir(parents=True, exist_ok=True)
        metric.update(output_dir=out, keep_results=True)
        return
    if not out.endswith(('.pkl', '.pickle')):
        raise ConfigError(
            f'--out must end in .pkl or .pickle for {task}, got --out={out!r}'
        )
    kind = 'DumpDetResults' if task == 'detection' else 'DumpResults'
    dump = dict(type=kind, out_file_path=out)
    metrics = [*_as_list(cfg.test_evaluator), dump]
    if (
        isinstance(cfg.test_evaluator, dict)
        and 'metrics' in cfg.test_evaluator
    ):
        cfg.test_evaluator.metrics = metrics
    else:
        cfg.test_evaluator = metrics


def _writing_metric(cfg: Config) -> ConfigDict:
    """Return the settings of the metric that writes label maps."""
    metrics = _as_list(cfg.test_evaluator)
    for metric in metrics:
        known = type_name(metric.get('type')) in _WRITES_LABEL_MAPS
        if known or len(metrics) == 1:
            return metric
    raise ConfigError(
        '--out needs a metric in test_evaluator that writes label maps: '
        f'{" or ".join(_WRITES_LABEL_MAPS)}'
    )


def _as_list(evaluators: object) -> list:
    """Return the metrics of a config, which has them in one of three forms."""
    if isinstance(evaluators, dict) and 'metrics' in evaluators:
        evaluators = evaluators['metrics']
    if isinstance(evaluators, (list, tuple)):
        return list(evaluators)
    return [evaluators]


def enable_tta(cfg: Config) -> None:
    """Test with augmentation, for ``--tta``.

    The config's ``tta_model`` and ``tta_pipeline`` are used. Without them,
    detection and classification get the defaults of mmdet and mmpretrain: the
    image and its mirror image. mmdet merges boxes only, so a mask head is
    left out.

    Args:
        cfg (Config): Config of a run; changed in place.

    Raises:
        ConfigError: If a segmentation config has no ``tta_model`` or
            ``tta_pipeline``.
    """
    dataset = next(leaf_settings(cfg.test_dataloader.dataset))
    task = task_of(cfg)
    if task == 'detection':
        _add_detection_tta(cfg, dataset)
    elif task == 'classification':
        cfg.setdefault('tta_model', dict(type='AverageClsScoreTTA'))
        cfg.setdefault('tta_pipeline', _flip_pipeline(dataset.pipeline))
    for key in ('tta_model', 'tta_pipeline'):
        if key not in cfg:
            raise ConfigError(f'--tta needs {key} in the config')
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline


def _add_detection_tta(cfg: Config, dataset: ConfigDict) -> None:
    """Fill in mmdet's defaults, and leave out what mmdet cannot merge."""
    if 'tta_model' not in cfg:
        cfg.tta_model = dict(
            type='DetTTAModel',
            tta_cfg=dict(
                nms=dict(type='nms', iou_threshold=0.5), max_per_img=100
            ),
        )
    if 'tta_pipeline' not in cfg:
        meta_keys = (
            'img_id',
            'img_path',
            'ori_shape',
            'img_shape',
            'scale_factor',
            'flip',
            'flip_direction',
        )
        pack = dict(type='PackDetInputs', meta_keys=meta_keys)
        cfg.tta_pipeline = _flip_pipeline([*dataset.pipeline[:-1], pack])
    roi_head = cfg.model.get('roi_head', {})
    if roi_head.get('mask_head') is not None:
        print_log(
            'mmdet merges boxes only: with --tta the masks are neither '
            'predicted nor evaluated',
            level=logging.WARNING,
        )
        roi_head.mask_head = None
        roi_head.mask_roi_extractor = None
    for evaluator in _as_list(cfg.test_evaluator):
        if 'segm' in evaluator.get('metric', ()):
            evaluator.metric = 'bbox'


def _flip_pipeline(pipeline: Sequence[dict]) -> List[dict]:
    """Return a pipeline for an image and its mirror image.

    Args:
        pipeline (Sequence[dict]): That of the image, whose last step packs.
    """
    *steps, pack = deepcopy(list(pipeline))
    flips = [
        dict(type='RandomFlip', prob=1.0),
        dict(type='RandomFlip', prob=0.0),
    ]
    return [*steps, dict(type='TestTimeAug', transforms=[flips, [pack]])]
