"""A run of mmengine's own Runner, with all that its hooks add."""

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner


class Model(BaseModel):
    """The smallest model that a Runner trains."""

    def __init__(self, init_cfg=None):
        super().__init__(init_cfg=init_cfg)
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, inputs, mode='tensor'):
        loss = self.layer(inputs).mean()
        return dict(loss=loss) if mode == 'loss' else [loss]


class Metric(BaseMetric):
    """A score in the type of mmseg's mIoU."""

    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        return dict(mIoU=np.float32(0.5))


def make_runner(work_dir, runner=Runner, scheduler=None, **settings):
    """Build a run of one epoch of two iterations."""
    data = torch.utils.data.TensorDataset(torch.ones(4, 1))
    loader = dict(
        dataset=data,
        batch_size=2,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=lambda batch: dict(
            inputs=torch.stack([b[0] for b in batch])
        ),
    )
    return runner(
        model=settings.pop('model', None) or Model(),
        work_dir=str(work_dir),
        train_dataloader=loader,
        val_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=1),
        val_cfg=dict(),
        val_evaluator=dict(type=Metric),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1)),
        param_scheduler=scheduler or dict(type='CosineAnnealingLR', T_max=2),
        default_hooks=dict(
            checkpoint=dict(
                type='CheckpointHook', interval=1, save_best='mIoU'
            )
        ),
        custom_hooks=[dict(type='EMAHook')],
        experiment_name=f'test_{work_dir.name}',
        **settings,
    )
