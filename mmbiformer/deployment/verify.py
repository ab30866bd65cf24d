"""A file against the frameworks' own predictions, number by number."""

import contextlib
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Optional,
    Sequence,
    Tuple,
)

import numpy as np
import torch
from torch import Tensor, nn

from mmbiformer.utils.errors import ConfigError, UserError
from mmbiformer.utils.text import describe_briefly

from .scenes import scene
from .table import TOLERANCES, Row

_NOISE = 2e-4
"""float: Change of pixels, from 0 to 255, that float32 hardly resolves."""
_ROUNDING = 1e-6
"""float: Change of weights, in units of theirs, as large as rounding."""
_TRIES = 8
"""int: Images to draw until one is stable."""

Runner = Callable[[np.ndarray], Dict[str, np.ndarray]]
"""What runs a file: images to outputs by name."""


def stable_scene(
    model: nn.Module,
    kind: str,
    batch: int,
    height: int,
    width: int,
    seed: int = 0,
) -> np.ndarray:
    """Draw images on which a right file can be told from a wrong one.

    Top-k routing and NMS are decisions: where two candidates are nearly
    equal, rounding decides, and all that follows differs.

    Args:
        model (nn.Module): The model.
        kind (str): Task, as in the metadata of the file.
        batch (int): Images.
        height (int): Their height.
        width (int): Their width.
        seed (int): Of the random numbers. Default: 0.

    Returns:
        np.ndarray: The images, see :func:`scene`; of eight, the first that
        are stable, if need be with the weights as they are, or the first.
    """
    drawn = [
        scene(batch, height, width, seed + 100 * i) for i in range(_TRIES)
    ]
    for rounding in (_ROUNDING, 0.0):
        for images in drawn:
            if is_stable(model, kind, images, rounding):
                return images
    return drawn[0]


def is_stable(
    model: nn.Module,
    kind: str,
    images: np.ndarray,
    rounding: float = _ROUNDING,
) -> bool:
    """Tell whether rounding leaves the predictions for images as they are.

    Args:
        model (nn.Module): The model.
        kind (str): Task, as in the metadata of the file.
        images (np.ndarray): Images of shape (N, 3, H, W).
        rounding (float): Change of the weights, in units of theirs. Default:
            1e-6.

    Returns:
        bool: Whether the model predicts the same, within the tolerances, if
        all pixels and all weights change a little, and no two detections have
        the same score, as saturated ones have: nothing says which of them is
        first, and is kept. Changes of pixels vanish in the means of regions,
        those of weights do not.
    """
    noise = np.random.default_rng(0).normal(0, _NOISE, images.shape)
    changed = (images + noise).astype(np.float32)
    expected = predict(model, images, kind)
    if any(_has_ties(one) for one in expected):
        return False
    with _other_weights(model, rounding):
        pairs = zip(expected, predict(model, changed, kind), strict=True)
    return not any(compare(one, other)[1] for one, other in pairs)


def _has_ties(outputs: dict) -> bool:
    """Tell whether detections of an image have equal scores."""
    if 'labels' not in outputs:
        return False
    scores = outputs['scores']
    return len(np.unique(scores)) < len(scores)


@contextlib.contextmanager
@torch.no_grad()
def _other_weights(model: nn.Module, rounding: float) -> Iterator[None]:
    """Change all weights at random by as much as rounding does."""
    generator = torch.Generator().manual_seed(0)
    kept = [one.detach().clone() for one in model.parameters()]
    try:
        for one in model.parameters():
            noise = torch.randn(one.shape, generator=generator)
            one.mul_(1 + rounding * noise)
        yield
    finally:
        for one, before in zip(model.parameters(), kept, strict=True):
            one.copy_(before)


@torch.no_grad()
def predict(model: nn.Module, images: np.ndarray, kind: str) -> List[dict]:
    """Predict by mmdet, mmseg or mmpretrain.

    Args:
        model (nn.Module): The model, on the CPU.
        images (np.ndarray): Images of shape (N, 3, H, W), from 0 to 255.
        kind (str): Task, as in the metadata of the file.

    Returns:
        list[dict]: For each image the outputs by name.

    Raises:
        ConfigError: If the model does not take images of that size.
    """
    inputs = [torch.from_numpy(image.copy()) for image in images]
    height, width = images.shape[2:]
    meta = dict(
        img_shape=(height, width),
        ori_shape=(height, width),
        pad_shape=(height, width),
        scale_factor=(1.0, 1.0),
    )
    if kind == 'backbone':
        data = model.data_preprocessor(dict(inputs=inputs), False)
        maps = model.backbone(data['inputs'])
        return [
            {f'map{i}': one[n].numpy() for i, one in enumerate(maps)}
            for n in range(len(images))
        ]
    samples = _samples(kind, meta, len(images))
    logits: List[Tensor] = []
    head = hook = None
    if kind == 'instance segmentation':
        head = model.roi_head.mask_head
    elif kind == 'image classification':
        head = model.head
    if head is not None:
        hook = head.register_forward_hook(
            lambda module, _, out: logits.append(out)
        )
    try:
        results = model.test_step(dict(inputs=inputs, data_samples=samples))
    except RuntimeError as error:
        raise ConfigError(
            f'{type(model).__name__} itself cannot predict images of '
            f'{height}x{width} ({describe_briefly(error)}): set a size that '
            'it takes by --shape'
        ) from error
    finally:
        if hook is not None:
            hook.remove()
    if kind == 'image classification':
        return [
            dict(scores=one.pred_score.numpy(), logits=some.numpy())
            for one, some in zip(results, torch.cat(logits), strict=True)
        ]
    if kind == 'semantic segmentation':
        # mmseg turns the logits of one class into its probability.
        found = [one.seg_logits.data for one in results]
        if model.out_channels == 1:
            found = [one.logit() for one in found]
        return [dict(logits=one.numpy()) for one in found]
    found = []
    # The masks of all images went through the head together.
    masks = torch.cat(logits) if logits else None
    start = 0
    for one in results:
        instances = one.pred_instances
        outputs = dict(
            boxes=instances.bboxes,
            scores=instances.scores,
            labels=instances.labels,
        )
        if kind == 'instance segmentation':
            number = len(instances)
            if number:
                some = masks[start : start + number]
                if some.shape[1] > 1:
                    some = some[range(number), instances.labels][:, None]
                outputs['masks'] = some[:, 0].sigmoid()
            else:
                outputs['masks'] = instances.bboxes.new_zeros(0, 28, 28)
            start += number
        found.append({key: one.numpy() for key, one in outputs.items()})
    return found


def _samples(kind: str, meta: dict, number: int) -> list:
    """Return data samples of images without annotations."""
    if kind == 'semantic segmentation':
        from mmseg.structures import SegDataSample as DataSample
    elif kind == 'image classification':
        from mmpretrain.structures import DataSample
    else:
        from mmdet.structures import DetDataSample as DataSample
    return [DataSample(metainfo=meta) for _ in range(number)]


def split_outputs(outputs: Dict[str, np.ndarray]) -> List[dict]:
    """Return the outputs of each image, without unused places.

    Args:
        outputs (dict[str, np.ndarray]): Outputs of a file.

    Returns:
        list[dict]: Outputs of each image by name.
    """
    number = len(next(iter(outputs.values())))
    images = [
        {key: value[i] for key, value in outputs.items()}
        for i in range(number)
    ]
    if 'labels' not in outputs:
        return images
    return [
        {key: value[one['labels'] >= 0] for key, value in one.items()}
        for one in images
    ]


def _class_of(outputs: dict) -> Optional[int]:
    """Return the class of an image; None if the outputs are not of one."""
    if 'scores' not in outputs or 'labels' in outputs:
        return None
    return int(outputs['scores'].argmax())


def compare(expected: dict, got: dict) -> Tuple[Dict[str, float], str]:
    """Compare the outputs of an image.

    Detections are compared one to one: those of scores that differ by less
    than is accepted may have changed places.

    Args:
        expected (dict): Outputs of PyTorch.
        got (dict): Outputs of the file.

    Returns:
        tuple[dict, str]: Largest difference of each output, and what is wrong
        or ``''``.
    """
    if 'labels' in expected:
        number = len(expected['labels'])
        if number != len(got['labels']):
            return {}, f'{len(got["labels"])} detections, not {number}'
        order = _match(expected, got)
        if order is None:
            return {}, 'other labels, or boxes far from those expected'
        got = {key: value[order] for key, value in got.items()}
    differences, problems = {}, []
    for name, value in expected.items():
        if name == 'labels':
            continue
        if value.shape != got[name].shape:
            return {}, f'{name} of {got[name].shape}, not {value.shape}'
        difference = np.abs(value.astype(np.float64) - got[name])
        largest = float(difference.max(initial=0.0))
        kind = 'maps' if name.startswith('map') else name
        kind = 'masks' if name == 'masks' else kind
        if kind in ('logits', 'maps'):
            largest /= max(1.0, float(np.abs(value).max(initial=0.0)))
        differences[kind] = max(differences.get(kind, 0.0), largest)
        if not largest <= TOLERANCES[kind]:
            problems.append(f'{name} differ by {largest:.1e}')
    label, other = _class_of(expected), _class_of(got)
    if label != other:
        problems.append(f'class {other}, not {label}')
    return differences, ', '.join(problems)


def _match(expected: dict, got: dict) -> Any:
    """Return the detection of the file for each of PyTorch, None if lacking.

    Each is given the nearest of those of its label and score that are left.
    """
    left = list(range(len(got['labels'])))
    order = []
    for label, score, box in zip(
        expected['labels'], expected['scores'], expected['boxes'], strict=True
    ):
        fits = [
            i
            for i in left
            if got['labels'][i] == label
            and abs(got['scores'][i] - score) <= 10 * TOLERANCES['scores']
        ]
        if not fits:
            return None
        best = min(fits, key=lambda i: np.abs(got['boxes'][i] - box).max())
        order.append(best)
        left.remove(best)
    return order


def verify(
    run: Runner,
    model: nn.Module,
    kind: str,
    batches: Sequence[Tuple[str, np.ndarray]],
) -> List[Row]:
    """Compare a file with PyTorch on batches of images.

    Args:
        run (Callable): Runs the file.
        model (nn.Module): The model.
        kind (str): Task, as in the metadata.
        batches (Sequence[tuple[str, np.ndarray]]): Names and images, uint8.

    Returns:
        list[Row]: A line for each batch.
    """
    rows = []
    for name, images in batches:
        expected = predict(model, images, kind)
        try:
            got = split_outputs(run(images.astype(np.float32)))
        except UserError:
            raise
        except Exception as error:  # Each runtime has its own types.
            problem = f'the file fails: {describe_briefly(error)}'
            rows.append(Row(name, images.shape, {}, '', problem))
            continue
        differences: Dict[str, float] = {}
        problems, numbers = [], []
        if len(got) != len(expected):
            problems.append(f'{len(got)} images, not {len(expected)}')
        for one, other in zip(expected, got, strict=False):
            some, problem = compare(one, other)
            for key, value in some.items():
                differences[key] = max(differences.get(key, 0.0), value)
            if problem:
                problems.append(problem)
            label = _class_of(one)
            if label is not None:
                numbers.append(str(label))
            if 'labels' in one:
                numbers.append(str(len(one['labels'])))
        rows.append(
            Row(
                name, images.shape, differences, '+'.join(numbers),
                '; '.join(problems),
                bool(problems) and not is_stable(model, kind, images),
            )
        )  # fmt: skip
    return rows
