"""Image files, one by one and in many processes."""

import os.path as osp
from copy import deepcopy
from typing import Callable, Iterator, List, Optional, Sequence, Tuple

import cv2
from mmengine.utils import track_parallel_progress, track_progress
from PIL import Image
from torch.utils.data import Dataset

from mmbiformer.utils.errors import DataError, PipelineError
from mmbiformer.utils.text import one_line

from .checked_pipeline import CheckedPipeline, check_jpeg
from .masks import inspect_mask
from .report import Finding

# Pipelines may fail on an image with a side below this, in pixels, or with
# one so many times the other.
_SMALL_SIDE = 32
_LONG = 20


def step_of(dataset: Dataset, name: str) -> Optional[Callable]:
    """Return the step of a data set's pipeline with such a name.

    Args:
        dataset (Dataset): A data set, built.
        name (str): Part of the name of the step's class.

    Returns:
        Callable, optional: The first such step, or None.
    """
    for step in dataset.pipeline.transforms:
        if name in type(step).__name__:
            return step
    return None


def inspect_all(look: Callable, tasks: Sequence, workers: int) -> list:
    """Look at each of many images, with a progress bar.

    Args:
        look (Callable): What to call for each task.
        tasks (Sequence): What to call it with.
        workers (int): Processes that do it.

    Returns:
        list: What the calls return, in the order of the tasks.
    """
    if workers < 2 or len(tasks) < 2:
        return track_progress(look, tasks) if tasks else []
    # The processes are as many threads as are wanted.
    return track_parallel_progress(
        look,
        tasks,
        workers,
        initializer=cv2.setNumThreads,
        initargs=(0,),
        chunksize=8,
    )


def inspect_image(
    task: Tuple[dict, list], loader: Callable, pipeline: CheckedPipeline
) -> Tuple[List[Finding], Optional[Tuple[int, int]]]:
    """Look at an image file, and the masks of its objects.

    Args:
        task (tuple): What the data set knows of the image, and for each mask
            its name, its box and itself.
        loader (Callable): The pipeline's step that loads images.
        pipeline (CheckedPipeline): The whole pipeline.

    Returns:
        tuple: What is wrong, and height and width as loaded, or None where it
        cannot be.
    """
    info, masks = task
    path = info['img_path']
    if not osp.isfile(path):
        return [('missing image', path)], None
    findings = []
    try:
        check_jpeg(path)
        loaded = loader(dict(img_path=path))['img'].shape[:2]
    except Exception as error:
        return [('broken image', f'{path}: {one_line(error)}')], None
    findings += [(kind, path) for kind in _traits(path)]
    size = info.get('height', loaded[0]), info.get('width', loaded[1])
    if size != loaded:
        turned = take(findings, ('image turned by EXIF', path))
        findings.append(
            (
                'image of another size',
                f'{path}: {loaded[1]} x {loaded[0]} px as loaded'
                f'{" and turned by EXIF" * turned}, {size[1]} x {size[0]} px '
                'in the annotations',
            )
        )
    elif min(loaded) < _SMALL_SIDE or max(loaded) > _LONG * min(loaded):
        try:
            pipeline(deepcopy(info))
        except (DataError, PipelineError) as error:
            findings.append(
                ('image that the pipeline cannot take', one_line(error))
            )
    for name, box, mask in masks:
        problem = inspect_mask(mask, box, size)
        if problem:
            kind, detail = problem
            findings.append((kind, f'{path}, {name}{detail}'))
    return findings, loaded


def take(findings: List[Finding], finding: Finding) -> bool:
    """Remove a finding, and tell whether it was there.

    Args:
        findings (list[tuple]): Findings, of which the one is removed.
        finding (tuple): The one: a kind of problem, and where it is.

    Returns:
        bool: Whether it was there.
    """
    there = finding in findings
    if there:
        findings.remove(finding)
    return there


def _traits(path: str) -> Iterator[str]:
    """Yield what is unusual about an image file."""
    with open(path, 'rb') as file:
        head = file.read(26)
    try:
        with Image.open(path) as image:
            mode, info = image.mode, image.info
            # Where PNGs keep it behind the picture, OpenCV does not look.
            turned = 'exif' in info and image.getexif().get(274, 1) != 1
    except Exception:
        # OpenCV reads some formats that Pillow does not know.
        return
    if turned:
        yield 'image turned by EXIF'
    if mode in ('1', 'L', 'LA') or mode.startswith(('I', 'F')):
        yield 'grey image'
    if mode in ('RGBA', 'LA', 'PA', 'RGBa', 'La') or 'transparency' in info:
        yield 'image with transparency'
    if mode == 'CMYK':
        yield 'CMYK image'
    # Pillow reduces some 16-bit PNGs by itself; their header tells.
    deep_png = head[1:4] == b'PNG' and head[24:25] == b'\x10'
    if deep_png or mode.startswith('I'):
        yield '16-bit image'
