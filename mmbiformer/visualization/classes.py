"""Draw the predicted classes of images."""

import os.path as osp
from typing import Any, Optional, Sequence

import mmcv
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer

from mmbiformer.utils.datasets import leaf_datasets

# The shorter side of a picture, in pixels, on which the text can be read.
_MIN_SIDE = 320


def draw_classes(
    visualizer: Visualizer, path: str, sample: BaseDataElement, **settings: Any
) -> None:
    """Draw the classes of an image file on it.

    Args:
        visualizer (Visualizer): mmpretrain's ``UniversalVisualizer``.
        path (str): The image. A small one is enlarged.
        sample (BaseDataElement): Its data sample with predictions.
        **settings (Any): As those of ``visualize_cls``, such as ``out_file``
            or ``draw_gt``.
    """
    image = mmcv.imread(path, channel_order='rgb')
    side = max(_MIN_SIDE, min(image.shape[:2]))
    visualizer.visualize_cls(image, sample, resize=side, **settings)


@HOOKS.register_module()
class ClassVisualizationHook(Hook):
    """Draw the images of a test with their classes, each under its own name.

    mmpretrain's hook names a picture by the file alone, so that images of
    the same name in the folders of several classes would overwrite each other.

    Args:
        out_dir (str, optional): Folder for the pictures. They lie in folders
            as the images do. Default: None, which writes none.
        show (bool): Whether to show them in a window. Default: False.
        wait_time (float): Seconds that each window stays. Default: 2.
    """

    def __init__(
        self,
        out_dir: Optional[str] = None,
        show: bool = False,
        wait_time: float = 2.0,
    ) -> None:
        self.out_dir = out_dir
        self.show = show
        self.wait_time = wait_time

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Optional[dict] = None,
        outputs: Optional[Sequence[BaseDataElement]] = None,
    ) -> None:
        """Draw the images of a batch."""
        datasets = leaf_datasets(runner.test_dataloader.dataset)
        folders = [getattr(one, 'img_prefix', '') for one in datasets]
        for sample in outputs or ():
            out_file = None
            if self.out_dir is not None:
                name = _name_below(sample.img_path, folders)
                out_file = osp.join(self.out_dir, name)
            draw_classes(
                runner.visualizer,
                sample.img_path,
                sample,
                show=self.show,
                wait_time=self.wait_time,
                out_file=out_file,
            )


def _name_below(path: str, folders: Sequence[str]) -> str:
    """Return the path of an image below the folder that it lies in."""
    for folder in folders:
        name = osp.relpath(path, folder) if folder else osp.pardir
        if not name.startswith(osp.pardir):
            return name
    return osp.basename(path)
