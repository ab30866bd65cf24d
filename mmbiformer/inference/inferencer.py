"""The inferencers of mmdet and mmseg, with weights and classes that fit."""

import contextlib
import logging
import warnings
from copy import deepcopy
from typing import Iterable, Iterator, List, Optional, Tuple, Union

import numpy as np
from mmengine.config import Config
from mmengine.infer import BaseInferencer
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, DefaultScope
from mmengine.structures import BaseDataElement

from mmbiformer.utils.config import task_of
from mmbiformer.utils.files import check_checkpoint
from mmbiformer.utils.inference import (
    check_device,
    image_dataset,
    load_weights,
)

from .media import MediaImage, Problem
from .prediction_files import PredictionFolder


def build_inferencer(
    cfg: Config, checkpoint: str, device: str
) -> BaseInferencer:
    """Build the inferencer of a config.

    By themselves, mmdet's and mmseg's go on with random weights where a
    checkpoint lacks some, and call the classes of one that does not name them
    COCO's or Cityscapes'.

    Args:
        cfg (Config): Config of a run.
        checkpoint (str): Path or URL of the model's weights.
        device (str): Where to predict.

    Returns:
        BaseInferencer: ``mmdet.apis.DetInferencer`` or
        ``mmseg.apis.MMSegInferencer``.

    Raises:
        FileNotFoundError: If the checkpoint is not there.
        RuntimeError: If it cannot be read, or the device not be used.
        ValueError: If it is of another model, the config has no test data
            set, or neither of them names the classes.
    """
    check_checkpoint(checkpoint)
    check_device(device)
    cfg = deepcopy(cfg)
    cfg.test_dataloader.dataset = image_dataset(cfg)
    # What is drawn is written elsewhere.
    visualizer = dict(detection='DetLocal', segmentation='SegLocal')
    cfg.setdefault(
        'visualizer', dict(type=f'{visualizer[task_of(cfg)]}Visualizer')
    )
    cfg.visualizer.vis_backends = None
    with _quiet():
        inferencer = _build_without_weights(cfg, device)
        meta = load_weights(inferencer.model, cfg, checkpoint)
    meta = _dataset_meta(cfg, meta, checkpoint)
    inferencer.model.dataset_meta = meta
    inferencer.visualizer.dataset_meta = meta
    return inferencer


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what mmengine tells of each file and empty registry."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(level)


def _build_without_weights(cfg: Config, device: str) -> BaseInferencer:
    """Build an inferencer; a user may have installed one framework only."""
    if task_of(cfg) == 'detection':
        from mmdet.apis import DetInferencer

        return DetInferencer(cfg, device=device, palette='random')
    from mmseg.apis import MMSegInferencer

    return MMSegInferencer(cfg, device=device)


def _dataset_meta(cfg: Config, meta: dict, checkpoint: str) -> dict:
    """Return names and colours of the classes, the checkpoint's if it can."""
    found = {
        key.lower(): value
        for key, value in (meta.get('dataset_meta') or {}).items()
    }
    if not found.get('classes'):
        dataset = dict(cfg.test_dataloader.dataset, lazy_init=True)
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            found = DATASETS.build(dataset).metainfo
    classes = found.get('classes')
    if not classes:
        raise ValueError(
            f'neither checkpoint={checkpoint!r} nor the test data set of '
            f'{cfg.filename} names the classes; by --cfg-options '
            'test_dataloader.dataset.metainfo.classes="(NAME,NAME)"'
        )
    palette = found.get('palette') or ()
    if isinstance(palette, str) or len(palette) < len(classes):
        random = np.random.RandomState(42)
        palette = random.randint(0, 256, (len(classes), 3)).tolist()
    return dict(classes=tuple(classes), palette=palette[: len(classes)])


Prepared = Tuple[MediaImage, dict]
Predicted = Tuple[MediaImage, BaseDataElement]


def predict_images(
    inferencer: BaseInferencer,
    images: Iterable[Union[MediaImage, Problem]],
    batch_size: int = 1,
) -> Iterator[Union[Predicted, Problem]]:
    """Predict images, whatever happens to some.

    Neighbours make a batch where they are of the same size once they are
    prepared. Then none is padded because of another, and each gets the
    prediction that it would get alone, up to rounding.

    Args:
        inferencer (BaseInferencer): See :func:`build_inferencer`.
        images (Iterable[MediaImage | Problem]): The images.
        batch_size (int): Images in a batch at most. Default: 1.

    Yields:
        tuple[MediaImage, BaseDataElement] | Problem: Each image with its
        prediction, or why there is none, in order.
    """
    batch: List[Prepared] = []

    def flush() -> Iterator[Union[Predicted, Problem]]:
        yield from _predict_batch(inferencer, batch)
        batch.clear()

    for image in images:
        if isinstance(image, Problem):
            yield from flush()
            yield image
            continue
        try:
            prepared = inferencer.pipeline(image.source)
        except Exception as error:  # of any transform
            yield from flush()
            yield image.problem('prepared', error)
            continue
        if batch and batch[0][1]['inputs'].shape != prepared['inputs'].shape:
            yield from flush()
        batch.append((image, prepared))
        if len(batch) == batch_size:
            yield from flush()
    yield from flush()


def _predict_batch(
    inferencer: BaseInferencer, batch: List[Prepared]
) -> Iterator[Union[Predicted, Problem]]:
    """Predict a batch; if that fails, such as for memory, one by one."""
    if not batch:
        return
    try:
        data = inferencer.collate_fn([prepared for _, prepared in batch])
        predictions = inferencer.forward(data)
    except Exception as error:  # of any model
        if len(batch) == 1:
            yield batch[0][0].problem('predicted', error)
            return
        for one in batch:
            yield from _predict_batch(inferencer, [one])
        return
    for (image, _), prediction in zip(batch, predictions, strict=True):
        yield image, prediction


def describe(
    inferencer: BaseInferencer, prediction: BaseDataElement
) -> Tuple[Optional[dict], Optional[np.ndarray]]:
    """Turn a prediction into plain data.

    Args:
        inferencer (BaseInferencer): See :func:`build_inferencer`.
        prediction (BaseDataElement): A prediction of it.

    Returns:
        tuple[dict | None, np.ndarray | None]: What JSON can hold, and what a
        PNG can. For a detector the first: size of the image and, as mmdet
        names them, labels with names, scores, boxes as (x1, y1, x2, y2) in
        pixels and masks as COCO's RLE; and the second, if it is a panoptic
        one, COCO's panoptic picture. For a segmentor only the second, the
        label map of shape (H, W).
    """
    classes = inferencer.model.dataset_meta['classes']
    if 'pred_sem_seg' in prediction and task_of(inferencer.cfg) != 'detection':
        labels = prediction.pred_sem_seg.data[0].cpu().numpy()
        small = len(classes) <= 256
        return None, labels.astype(np.uint8 if small else np.uint16)
    height, width = prediction.ori_shape[:2]
    record = dict(height=height, width=width)
    record.update(inferencer.pred2dict(prediction))
    panoptic = record.pop('panoptic_seg', None)
    if 'labels' in record:
        names = [classes[label] for label in record['labels']]
        record['label_names'] = names
    return record, None if panoptic is None else panoptic[..., ::-1]


def draw(
    inferencer: BaseInferencer,
    image: MediaImage,
    prediction: BaseDataElement,
    score_thr: float = 0.3,
) -> np.ndarray:
    """Draw a prediction as mmdet or mmseg does.

    Args:
        inferencer (BaseInferencer): See :func:`build_inferencer`.
        image (MediaImage): The image.
        prediction (BaseDataElement): Its prediction.
        score_thr (float): For a detector, the score from which instances are
            drawn. Default: 0.3.

    Returns:
        np.ndarray: BGR, uint8, of shape (H, W, 3).
    """
    options = {}
    if 'pred_score_thr' in inferencer.visualize_kwargs:
        options['pred_score_thr'] = score_thr
    with warnings.catch_warnings():
        # Such as of boxes that reach to the edge.
        warnings.simplefilter('ignore')
        (drawn,) = inferencer.visualize(
            [image.pixels[..., ::-1]], [prediction], return_vis=True, **options
        )
    return drawn[..., ::-1]


def infer(
    inferencer: BaseInferencer,
    images: Iterable[Union[MediaImage, Problem]],
    folder: PredictionFolder,
    batch_size: int = 1,
    score_thr: float = 0.3,
) -> Iterator[Union[MediaImage, Problem]]:
    """Predict images and write the results.

    Args:
        inferencer (BaseInferencer): See :func:`build_inferencer`.
        images (Iterable[MediaImage | Problem]): The images, as
            :func:`mmbiformer.inference.media.read_media` reads them.
        folder (PredictionFolder): Where to write.
        batch_size (int): Images in a batch at most. Default: 1.
        score_thr (float): For a detector, the score from which instances are
            drawn. Default: 0.3.

    Yields:
        MediaImage | Problem: Each image once its results are written, or why
        there are none.

    Raises:
        OSError: If results cannot be written.
    """
    for outcome in predict_images(inferencer, images, batch_size):
        if not isinstance(outcome, Problem):
            image, prediction = outcome
            record = labels = picture = None
            try:
                if folder.predictions:
                    record, labels = describe(inferencer, prediction)
                if folder.pictures:
                    picture = draw(inferencer, image, prediction, score_thr)
            except Exception as error:  # of any visualizer
                outcome = image.problem('described or drawn', error)
            else:
                folder.add(image, record, labels, picture)
                outcome = image
        if isinstance(outcome, Problem):
            folder.problems.append(outcome)
        yield outcome
