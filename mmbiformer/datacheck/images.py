"""Check image files, in several processes."""

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
from .report import Finding

# Pipelines may fail on images with a side below this size, in pixels, or an
# aspect ratio above this.
_MIN_SIDE = 32
_MAX_ASPECT_RATIO = 20


def find_transform(dataset: Dataset, name: str) -> Optional[Callable]:
    """Return the first transform of a pipeline with a given name.

    Args:
        dataset (Dataset): A data set with a pipeline.
        name (str): Part of the class name.

    Returns:
        Callable, optional: The transform, or None if there is none.
    """
    for transform in dataset.pipeline.transforms:
        if name in type(transform).__name__:
            return transform
    return None


def inspect_all(inspect: Callable, tasks: Sequence, workers: int) -> list:
    """Call a function for each of many tasks, with a progress bar.

    Args:
        inspect (Callable): The function, which takes a task.
        tasks (Sequence): The tasks.
        workers (int): Number of processes.

    Returns:
        list: The results, in the order of the tasks.
    """
    if workers < 2 or len(tasks) < 2:
        return track_progress(inspect, tasks) if tasks else []
    # One thread in each process.
    return track_parallel_progress(
        inspect,
        tasks,
        workers,
        initializer=cv2.setNumThreads,
        initargs=(0,),
        chunksize=8,
    )


def inspect_image(
    task: Tuple[dict, list], loader: Callable, pipeline: CheckedPipeline
) -> Tuple[List[Finding], Optional[Tuple[int, int]]]:
    """Check an image file, and the masks of its objects.

    Args:
        task (tuple): Data information of the image, and a list of masks, each
            as the name of its object, the box and the mask.
        loader (Callable): The transform that loads images.
        pipeline (CheckedPipeline): The whole pipeline.

    Returns:
        tuple: The findings, and height and width of the loaded image, or None
        if it cannot be loaded.
    """
    # It imports pycocotools, which classifiers do not need.
    from .masks import inspect_mask

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
    findings += [(kind, path) for kind in _image_properties(path)]
    size = info.get('height', loaded[0]), info.get('width', loaded[1])
    if size != loaded:
        rotated = pop_finding(findings, ('image rotated by EXIF', path))
        findings.append(
            (
                'image size mismatch',
                f'{path}: {loaded[1]} x {loaded[0]} px as loaded'
                f'{" and rotated by EXIF" * rotated}, {size[1]} x {size[0]} '
                'px in the annotations',
            )
        )
    elif min(loaded) < _MIN_SIDE or max(loaded) > _MAX_ASPECT_RATIO * min(
        loaded
    ):
        try:
            pipeline(deepcopy(info))
        except (DataError, PipelineError) as error:
            findings.append(
                ('image that the pipeline rejects', one_line(error))
            )
    for name, box, mask in masks:
        problem = inspect_mask(mask, box, size)
        if problem:
            kind, detail = problem
            findings.append((kind, f'{path}, {name}{detail}'))
    return findings, loaded


def pop_finding(findings: List[Finding], finding: Finding) -> bool:
    """Remove a finding from a list, if it is in there.

    Args:
        findings (list[tuple]): The list; modified in place.
        finding (tuple): A kind of problem, and its location.

    Returns:
        bool: Whether it was in the list.
    """
    found = finding in findings
    if found:
        findings.remove(finding)
    return found


def _image_properties(path: str) -> Iterator[str]:
    """Yield the unusual properties of an image file, as kinds of problems."""
    with open(path, 'rb') as file:
        head = file.read(26)
    try:
        with Image.open(path) as image:
            mode, info = image.mode, image.info
            # OpenCV ignores EXIF data that follows the pixels of a PNG.
            rotated = 'exif' in info and image.getexif().get(274, 1) != 1
    except Exception:
        # OpenCV reads some formats that Pillow does not support.
        return
    if rotated:
        yield 'image rotated by EXIF'
    if mode in ('1', 'L', 'LA') or mode.startswith(('I', 'F')):
        yield 'grayscale image'
    if mode in ('RGBA', 'LA', 'PA', 'RGBa', 'La') or 'transparency' in info:
        yield 'image with transparency'
    if mode == 'CMYK':
        yield 'CMYK image'
    # Pillow converts some 16-bit PNGs to 8 bits; the header has the depth.
    deep_png = head[1:4] == b'PNG' and head[24:25] == b'\x10'
    if deep_png or mode.startswith('I'):
        yield '16-bit image'
