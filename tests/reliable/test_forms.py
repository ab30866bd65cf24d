"""Every form of argument that mmengine's Runner documents."""

import uuid

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.hooks import CheckpointHook, EMAHook, LoggerHook
from mmengine.optim import (
    ExponentialLR,
    MultiStepLR,
    OptimWrapper,
    OptimWrapperDict,
)
from mmengine.registry import MODELS
from mmengine.runner import (
    EpochBasedTrainLoop,
    IterBasedTrainLoop,
    LogProcessor,
    Runner,
    ValLoop,
)
from mmengine.visualization import Visualizer
from torch import nn
from torch.optim import SGD
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset
from toy import ToyDataset, ToyMetric, ToyModel

from mmbiformer.reliable.runner import CheckedRunner


def loader(**settings):
    dataset = dict(type='ToyDataset')
    sampler = dict(type='DefaultSampler', shuffle=False)
    return {
        **dict(dataset=dataset, sampler=sampler, batch_size=2, num_workers=0),
        **settings,
    }


def built_loader(dataset=None, **settings):
    return DataLoader(
        dataset or ToyDataset(), batch_size=2, collate_fn=pseudo_collate,
        **settings,
    )  # fmt: skip


def settings(work_dir):
    """All arguments of a run of one epoch, in their plainest form."""
    return dict(
        model=dict(type='ToyModel'),
        work_dir=str(work_dir),
        train_dataloader=loader(),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        val_dataloader=loader(),
        val_cfg=dict(),
        val_evaluator=dict(type='ToyMetric'),
        test_dataloader=loader(),
        test_cfg=dict(),
        test_evaluator=dict(type='ToyMetric'),
        experiment_name=uuid.uuid4().hex,
    )


def optimizer(model):
    return SGD(model.parameters(), lr=0.1)


class Twice(EpochBasedTrainLoop):
    """A loop of a user's own, which changes the settings of its data."""

    def __init__(self, runner, dataloader, **kwargs):
        dataloader['batch_size'] = 4
        super().__init__(runner, dataloader, **kwargs)


class Stream(IterableDataset):
    def __len__(self):
        return 4

    def __iter__(self):
        return (ToyDataset()[index] for index in range(4))


class Preprocessed(ToyModel):
    def __init__(self, data_preprocessor):
        super().__init__()
        self.data_preprocessor = MODELS.build(data_preprocessor)


class WithoutNorm(ToyModel):
    def __init__(self):
        super().__init__()
        self.norm = nn.Identity()


class TwoOptimizers(ToyModel):
    """Steps two optimizers itself, as a GAN does."""

    def train_step(self, data, optim_wrapper):
        loss = self(**self.data_preprocessor(data, True), mode='loss')['loss']
        loss.backward()
        for wrapper in optim_wrapper.values():
            wrapper.step()
            wrapper.zero_grad()
        return dict(loss=loss)


def two_optimizers(model):
    return dict(
        norm=OptimWrapper(optimizer(model.norm)),
        linear=OptimWrapper(optimizer(model.linear)),
    )


# What each form changes in the settings of a run, given its model.
FORMS = dict(
    module=lambda model: dict(model=model),
    preprocessor=lambda _: dict(
        model=dict(type=Preprocessed),
        data_preprocessor=dict(type='BaseDataPreprocessor'),
    ),
    config_dict=lambda _: dict(train_dataloader=ConfigDict(loader())),
    dataset_object=lambda _: dict(
        train_dataloader=loader(dataset=ToyDataset()),
        val_dataloader=loader(dataset=ToyDataset()),
    ),
    dataset_objects_in_a_wrapper=lambda _: dict(
        train_dataloader=loader(
            dataset=dict(
                type=ConcatDataset,
                datasets=[ToyDataset(size=4), ToyDataset(size=2)],
            )
        )
    ),
    dataset_list=lambda _: dict(
        train_dataloader=loader(dataset=[ToyDataset()[i] for i in range(8)])
    ),
    iterable_dataset=lambda _: dict(
        train_dataloader=loader(dataset=Stream(), sampler=None),
        train_cfg=dict(by_epoch=False, max_iters=2),
    ),
    sampler_object=lambda _: dict(
        train_dataloader=loader(sampler=DefaultSampler(ToyDataset()))
    ),
    sampler_class=lambda _: dict(
        train_dataloader=loader(sampler=dict(type=DefaultSampler))
    ),
    batch_sampler=lambda _: dict(
        train_dataloader=loader(
            batch_sampler=dict(
                type=torch.utils.data.BatchSampler, drop_last=True
            )
        )
    ),
    no_batch_size=lambda _: dict(
        model=dict(type=WithoutNorm),
        train_dataloader=dict(
            dataset=dict(type='ToyDataset', size=2),
            sampler=dict(type='DefaultSampler'),
        ),
    ),
    num_batch_per_epoch=lambda _: dict(
        train_dataloader=loader(num_batch_per_epoch=2)
    ),
    collate_fn=lambda _: dict(
        train_dataloader=loader(collate_fn=pseudo_collate),
        val_dataloader=loader(collate_fn=dict(type='pseudo_collate')),
        test_dataloader=loader(collate_fn=dict(type=pseudo_collate)),
    ),
    dataloader_objects=lambda _: dict(
        train_dataloader=built_loader(),
        val_dataloader=built_loader(),
        test_dataloader=built_loader(),
    ),
    optimizer_object=lambda model: dict(
        model=model, optim_wrapper=dict(optimizer=optimizer(model))
    ),
    optim_wrapper_object=lambda model: dict(
        model=model, optim_wrapper=OptimWrapper(optimizer(model))
    ),
    optim_wrapper_type=lambda _: dict(
        optim_wrapper=dict(
            type=OptimWrapper,
            optimizer=dict(type=SGD, lr=0.1),
            clip_grad=dict(max_norm=1.0),
        )
    ),
    optim_wrapper_dict=lambda _: dict(
        model=(model := TwoOptimizers()),
        optim_wrapper=OptimWrapperDict(**two_optimizers(model)),
        param_scheduler=dict(
            norm=dict(type='ExponentialLR', gamma=0.5),
            linear=[dict(type='ExponentialLR', gamma=0.5)],
        ),
    ),
    several_optim_wrappers=lambda _: dict(
        model=(model := TwoOptimizers()),
        optim_wrapper=two_optimizers(model),
        param_scheduler=[dict(type='ExponentialLR', gamma=0.5)],
    ),
    scheduler=lambda _: dict(
        param_scheduler=dict(type='ExponentialLR', gamma=0.5)
    ),
    scheduler_class=lambda _: dict(
        param_scheduler=[dict(type=MultiStepLR, milestones=[1])]
    ),
    scheduler_object=lambda model: dict(
        model=model,
        optim_wrapper=(wrapper := OptimWrapper(optimizer(model))),
        param_scheduler=[ExponentialLR(wrapper, gamma=0.5)],
    ),
    loop_types=lambda _: dict(
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=1),
        val_cfg=dict(type=ValLoop),
        test_cfg=dict(type='TestLoop'),
    ),
    loop_class=lambda _: dict(
        train_cfg=dict(type=IterBasedTrainLoop, max_iters=4),
        default_hooks=dict(
            checkpoint=dict(type=CheckpointHook, by_epoch=False)
        ),
    ),
    loop_of_the_user=lambda _: dict(train_cfg=dict(type=Twice, max_epochs=1)),
    metric_objects=lambda _: dict(
        val_evaluator=[ToyMetric()], test_evaluator=dict(metrics=ToyMetric())
    ),
    evaluator_objects=lambda _: dict(
        val_evaluator=Evaluator(ToyMetric()),
        test_evaluator=Evaluator([ToyMetric()]),
    ),
    hook_objects=lambda _: dict(
        default_hooks=dict(
            checkpoint=CheckpointHook(interval=1), logger=LoggerHook(1)
        ),
        custom_hooks=[EMAHook()],
    ),
    hooks_left_out=lambda _: dict(
        default_hooks=dict(
            checkpoint=None, logger=None, runtime_info=None, timer=None
        )
    ),
    scoped_hook=lambda _: dict(
        default_hooks=dict(checkpoint=dict(type='mmengine.CheckpointHook'))
    ),
    objects_for_logs=lambda _: dict(
        log_processor=LogProcessor(window_size=2),
        visualizer=Visualizer.get_instance(uuid.uuid4().hex),
        log_level=30,
    ),
    config=lambda _: dict(cfg=dict(a=1)),
    numbers_of_the_run=lambda _: dict(
        randomness=dict(seed=3, diff_rank_seed=True, deterministic=False),
        env_cfg=dict(mp_cfg=dict(mp_start_method='fork')),
        default_scope='mmengine',
        auto_scale_lr=dict(base_batch_size=2, enable=True),
    ),
)


@pytest.fixture(autouse=True)
def no_description_of_the_machine(monkeypatch):
    """It takes longer than the runs."""
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)


def finished(kind, work_dir, form):
    torch.manual_seed(0)
    options = {**settings(work_dir), **FORMS[form](ToyModel())}
    runner = kind(**options)
    model = runner.train()
    return runner, model, runner.val(), runner.test()


@pytest.mark.parametrize('form', FORMS)
def test_our_runner_takes_what_mmengines_takes(tmp_path, form):
    theirs, *_ = finished(Runner, tmp_path / 'theirs', form)
    ours, model, metrics, tested = finished(
        CheckedRunner, tmp_path / 'ours', form
    )
    assert (ours.epoch, ours.iter) == (theirs.epoch, theirs.iter)
    assert model is ours.model
    assert 'acc' in metrics and 'acc' in tested
    files = [
        {path.name for path in folder.glob('*.pth')}
        for folder in (tmp_path / 'theirs', tmp_path / 'ours')
    ]
    assert files[0] == files[1]
