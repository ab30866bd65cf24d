"""The classes of images, written as mmdet's inferencer writes objects."""

import json
from pathlib import Path
from typing import List, Sequence

import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import VISUALIZERS
from mmengine.structures import BaseDataElement

from mmbiformer.utils.config import build_model
from mmbiformer.visualization.classes import draw_classes

_TOP = 5


class FileClassifier:
    """Predicts image files as in testing.

    It is called as the inferencers of mmdet and mmseg are. That of mmpretrain
    returns its results, loads images otherwise than the config says, and
    names pictures by the file alone.

    Args:
        cfg (Config): Config of a run. The pipeline of its test data set loads
            no annotations.
        device (str): Where to predict.
    """

    def __init__(self, cfg: Config, device: str) -> None:
        self.cfg = cfg
        self.model = build_model(cfg).to(device)
        self.pipeline = Compose(cfg.test_dataloader.dataset.pipeline)
        # Under this name no other run in the process has one.
        self.visualizer = VISUALIZERS.build(
            dict(cfg.visualizer, name=f'classifier-{id(self)}')
        )

    @torch.no_grad()
    def __call__(
        self,
        images: Sequence[str],
        batch_size: int,
        out_dir: str,
        no_save_vis: bool = False,
        no_save_pred: bool = False,
    ) -> None:
        """Predict images, and write pictures and predictions.

        Args:
            images (Sequence[str]): Paths of the images.
            batch_size (int): How many go through the model together.
            out_dir (str): Folder for the results.
            no_save_vis (bool): Whether to write no pictures. Default: False.
            no_save_pred (bool): Whether to write no predictions. Default:
                False.
        """
        for start in range(0, len(images), batch_size):
            paths = images[start : start + batch_size]
            data = [self.pipeline(dict(img_path=path)) for path in paths]
            samples = self.model.test_step(pseudo_collate(data))
            for path, sample in zip(paths, samples, strict=True):
                if not no_save_pred:
                    self._write(Path(out_dir, 'preds'), path, sample)
                if not no_save_vis:
                    draw_classes(
                        self.visualizer,
                        path,
                        sample,
                        draw_gt=False,
                        out_file=f'{out_dir}/vis/{Path(path).name}',
                    )

    def _write(self, folder: Path, path: str, sample: BaseDataElement) -> None:
        """Write the prediction of an image, with mmpretrain's keys."""
        scores = sample.pred_score.cpu()
        classes = self.model.dataset_meta['classes']
        labels: List[int] = scores.argsort(descending=True).tolist()
        top = [
            dict(label=label, score=scores[label].item(), name=classes[label])
            for label in labels[:_TOP]
        ]
        record = dict(
            pred_label=labels[0],
            pred_score=top[0]['score'],
            pred_class=top[0]['name'],
            top5=top,
            pred_scores=scores.tolist(),
        )
        folder.mkdir(exist_ok=True)
        (folder / f'{Path(path).stem}.json').write_text(json.dumps(record))
