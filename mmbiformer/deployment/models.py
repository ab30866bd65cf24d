"""Exported files in the place of models, for the frameworks' tools."""

import importlib.util
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import InstanceData, PixelData
from torch import Tensor

from mmbiformer.utils.errors import ConfigError

from .runtime import Session
from .verify import split_outputs

TASKS = {
    'object detection': 'mmdet',
    'instance segmentation': 'mmdet',
    'semantic segmentation': 'mmseg',
    'image classification': 'mmpretrain',
}
"""dict[str, str]: The framework of each task that tools can test."""


@MODELS.register_module()
class ExportedModel(BaseModel):
    """An exported file that predicts as the model does that it was made of.

    It takes what the test pipeline makes, and returns data samples.

    Args:
        file (str): The file, see ``tools/deployment/export.py``.
        runtime (str, optional): What runs it, ``'onnxruntime'`` or
            ``'openvino'``. Default: None, which means the first.
        threads (int, optional): Threads of the CPU. Default: None, which
            leaves them to the runtime.

    Raises:
        UserError: If the file cannot be opened, or is of a backbone.
    """

    def __init__(
        self,
        file: str,
        runtime: Optional[str] = None,
        threads: Optional[int] = None,
    ) -> None:
        super().__init__()
        self.session = Session(file, runtime, threads)
        self.metadata = self.session.metadata
        check_task(self.session)
        self.dataset_meta = dataset_meta_of(self.metadata)

    def forward(
        self,
        inputs: Sequence[Tensor],
        data_samples: Optional[list] = None,
        mode: str = 'predict',
    ) -> list:
        """Predict.

        Args:
            inputs (Sequence[Tensor]): Images of shape (3, H, W).
            data_samples (list, optional): Their data samples; predictions are
                added to them.
            mode (str): Only ``'predict'``. Default: ``'predict'``.

        Returns:
            list: The data samples.

        Raises:
            ConfigError: If ``mode`` is another.
        """
        if mode != 'predict':
            raise ConfigError(
                f'an exported file can only predict, got mode={mode!r}'
            )
        outputs = self.run([np.asarray(image.cpu()) for image in inputs])
        add = dict(
            mmdet=self._add_instances,
            mmseg=self._add_pixels,
            mmpretrain=self._add_scores,
        )[TASKS[self.metadata['task']]]
        for sample, output in zip(data_samples or [], outputs, strict=True):
            add(sample, output)
        return data_samples

    def run(self, images: Sequence[np.ndarray]) -> List[dict]:
        """Run the file on images, those of one size together.

        Args:
            images (Sequence[np.ndarray]): Images of shape (3, H, W).

        Returns:
            list[dict]: Outputs of each image by name.
        """
        groups: Dict[tuple, List[int]] = {}
        for index, image in enumerate(images):
            groups.setdefault(image.shape, []).append(index)
        fixed = self.metadata['input']['batch']
        outputs: Dict[int, dict] = {}
        for members in groups.values():
            size = fixed or len(members)
            for start in range(0, len(members), size):
                some = members[start : start + size]
                # A file of a fixed batch is given the last image again.
                filled = some + some[-1:] * ((fixed or 0) - len(some))
                results = split_outputs(
                    self.session(np.stack([images[i] for i in filled]))
                )
                outputs.update(zip(some, results, strict=False))
        return [outputs[i] for i in range(len(images))]

    def _add_scores(self, sample: Any, output: dict) -> None:
        """Add the probabilities of the classes, and the most probable one."""
        scores = torch.from_numpy(output['scores'])
        sample.set_pred_score(scores)
        sample.set_pred_label(scores.argmax(dim=0, keepdim=True))

    def _add_pixels(self, sample: Any, output: dict) -> None:
        """Add classes and logits of pixels, in the size of the file."""
        post = self.metadata['postprocessing']
        logits = F.interpolate(
            torch.from_numpy(output['logits'])[None],
            size=tuple(sample.metainfo['ori_shape'][:2]),
            mode='bilinear',
            align_corners=post['align_corners'] or None,
        )[0]
        if 'threshold' in post:
            logits = logits.sigmoid()
            labels = (logits > post['threshold']).to(logits)
        else:
            labels = logits.argmax(dim=0, keepdim=True)
        sample.set_data(
            dict(
                seg_logits=PixelData(data=logits),
                pred_sem_seg=PixelData(data=labels),
            )
        )

    def _add_instances(self, sample: Any, output: dict) -> None:
        """Add boxes, and masks in the size of the file."""
        meta = sample.metainfo
        scale = np.tile(np.asarray(meta['scale_factor'], np.float32), 2)
        boxes = torch.from_numpy(output['boxes'] / scale)
        instances = InstanceData(
            bboxes=boxes,
            scores=torch.from_numpy(output['scores']),
            labels=torch.from_numpy(output['labels']),
        )
        if 'masks' in output:
            instances.masks = self._paste(
                torch.from_numpy(output['masks']), boxes, meta['ori_shape'][:2]
            )
        sample.pred_instances = instances

    def _paste(self, masks: Tensor, boxes: Tensor, shape: tuple) -> Tensor:
        """Draw masks of 28 x 28 into their boxes, as mmdet does."""
        from mmdet.models.roi_heads.mask_heads import fcn_mask_head

        height, width = shape
        threshold = self.metadata['postprocessing']['mask_threshold']
        pasted = torch.zeros(len(masks), height, width, dtype=torch.bool)
        for i in range(len(masks)):
            mask, where = fcn_mask_head._do_paste_mask(
                masks[i : i + 1, None], boxes[i : i + 1], height, width
            )
            pasted[(slice(i, i + 1), *where)] = mask >= threshold
        return pasted


def check_task(session: Session) -> None:
    """Refuse a file whose outputs no tool can draw or evaluate.

    Args:
        session (Session): The file.

    Raises:
        ConfigError: If it is of a backbone, or the framework of its task is
            not installed.
    """
    task = session.metadata['task']
    if task not in TASKS:
        raise ConfigError(
            f'model={session.path!r} is of the task {task!r}; one of '
            f'{tuple(TASKS)} is needed'
        )
    framework = TASKS[task]
    if importlib.util.find_spec(framework) is None:
        raise ConfigError(
            f'model={session.path!r} is for {task}: its images are prepared, '
            f'its results drawn and evaluated by {framework}, which is not '
            'installed. Without it, run the file as examples/python does'
        )


def dataset_meta_of(metadata: Dict[str, Any]) -> Dict[str, Any]:
    """Return classes and palette of a file, as data sets have them."""
    return dict(
        classes=tuple(metadata['classes']),
        palette=[tuple(color) for color in metadata['palette']],
    )


def config_of(
    path: str,
    runtime: Optional[str] = None,
    cfg_options: Optional[dict] = None,
) -> Config:
    """Return the config to test a file with, which the file holds.

    Args:
        path (str): The file.
        runtime (str, optional): What runs it. Default: None, which means
            ``'onnxruntime'``.
        cfg_options (dict, optional): Values that replace the file's. Default:
            None.

    Returns:
        Config: Data set, pipeline, metrics and visualizer of the config that
        was exported, and :class:`ExportedModel` as the model.

    Raises:
        UserError: If the file cannot be opened, or overrides do not fit.
    """
    session = Session(path, runtime)
    check_task(session)
    settings = _tuples(session.metadata['config'])
    settings['model'] = dict(type='ExportedModel', file=path, runtime=runtime)
    # A run writes its config under this name.
    cfg = Config(settings, cfg_text='{}', filename=f'{path}.py')
    try:
        cfg.merge_from_dict(cfg_options or {})
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f'--cfg-options do not fit model={path!r}: {error}'
        ) from error
    return cfg


def _tuples(value: Any) -> Any:
    """Turn lists of numbers into tuples, which mmcv asks for."""
    if isinstance(value, dict):
        return {key: _tuples(one) for key, one in value.items()}
    if not isinstance(value, list):
        return value
    numbers = value and all(
        isinstance(one, (int, float)) and not isinstance(one, bool)
        for one in value
    )
    return tuple(value) if numbers else [_tuples(one) for one in value]
