"""A model and data that train in milliseconds, in the tests of the runner.

They are registered with ``force`` because pytest may import a module twice,
under two names.
"""

import uuid

import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from mmengine.structures import BaseDataElement
from torch import nn
from torch.utils.data import Dataset

from mmbiformer.reliable.runner import build_runner


@DATASETS.register_module(force=True)
class ToyDataset(Dataset):
    """Random vectors with file names, drawn each time that they are read.

    Args:
        broken (int, optional): Index of a sample that holds NaN.
        size (int): Number of samples.
    """

    metainfo = {}

    def __init__(self, broken=None, size=8):
        self.broken = broken
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        inputs = torch.rand(4) + index
        if index == self.broken:
            inputs[:] = float('nan')
        sample = BaseDataElement(metainfo=dict(img_path=f'{index}.png'))
        return dict(inputs=inputs, data_samples=sample)


@MODELS.register_module(force=True)
class ToyModel(BaseModel):
    """A linear map of normalized inputs, with dropout."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.linear = nn.Linear(4, 1)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        inputs = self.norm(torch.stack(inputs))
        output = self.linear(nn.functional.dropout(inputs, 0.5, self.training))
        if mode == 'loss':
            return dict(loss=(output**2).mean())
        return [float(value) for value in output]


@METRICS.register_module(force=True)
class ToyMetric(BaseMetric):
    """Metrics from a list, one value for each validation."""

    def __init__(self, values=(1, 2, 3, 4, 5, 6)):
        super().__init__()
        self.values = list(values)

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        value = self.values.pop(0)
        return dict(acc=value, mIoU=-value)


def toy_runner(work_dir, **options):
    """Build a run of three epochs of four iterations each."""
    loader = dict(
        batch_size=2,
        num_workers=0,
        dataset=dict(type='ToyDataset'),
        sampler=dict(type='DefaultSampler', shuffle=True),
    )
    cfg = Config(
        dict(
            model=dict(type='ToyModel'),
            work_dir=str(work_dir),
            experiment_name=uuid.uuid4().hex,
            train_dataloader=loader,
            val_dataloader=loader,
            val_evaluator=dict(type='ToyMetric'),
            train_cfg=dict(by_epoch=True, max_epochs=3),
            val_cfg=dict(),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            custom_hooks=[dict(type='EMAHook', momentum=0.1)],
            default_scope='mmengine',
            randomness=dict(seed=0),
        ),
        # As if read from a file, which the Runner copies to its folder.
        cfg_text='# toy',
        filename='toy.py',
    )
    cfg.merge_from_dict(options)
    return build_runner(cfg)


class At(Hook):
    """Do something at an iteration, or in a validation."""

    def __init__(self, iteration, action, mode='train'):
        self.iteration = iteration
        self.action = action
        self.mode = mode

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if self.mode == 'train' and runner.iter + 1 == self.iteration:
            self.action()

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if self.mode == 'val' and runner.iter == self.iteration:
            self.action()
