"""The routing hook in real trainings of two iterations."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.visualization import Visualizer

from mmbiformer import RoutingVisualizationHook
from mmbiformer.reliable.runner import build_runner
from mmbiformer.visualization import drawing
from mmbiformer.visualization.drawing import QUERY_COLOR, draw_routing
from mmbiformer.visualization.geometry import RegionGrid
from mmbiformer.visualization.hook import _merge_records, _stage_means
from mmbiformer.visualization.recording import LayerRecord, RoutingRecords

CONFIG = 'configs/detection/maskrcnn_biformer_digits.py'
QUERY = [int(QUERY_COLOR[i : i + 2], 16) for i in (5, 3, 1)]  # BGR


@pytest.fixture
def make_runner(digits, tmp_path, request):
    """Build runs on four scenes, each in a folder of its own."""
    root = request.config.rootpath

    def make(name, hooks=(), by_epoch=True, **options):
        cfg = Config.fromfile(root / CONFIG)
        for split in ('train', 'val', 'test'):
            loader = cfg[f'{split}_dataloader']
            loader.num_workers = 0
            loader.persistent_workers = False
            loader.dataset.data_root = f'{digits}/'
        cfg.train_dataloader.dataset.indices = 4
        for key in ('val_evaluator', 'test_evaluator'):
            cfg[key].ann_file = f'{digits}/annotations/instances_val.json'
        cfg.train_cfg = dict(
            type='EpochBasedTrainLoop', max_epochs=1, val_interval=9
        )
        if not by_epoch:
            cfg.train_cfg = dict(
                type='IterBasedTrainLoop', max_iters=2, val_interval=9
            )
        cfg.param_scheduler = None
        cfg.work_dir = str(tmp_path / name)
        cfg.experiment_name = f'{tmp_path.name}-{name}'
        cfg.launcher = 'none'
        cfg.custom_hooks = list(hooks)
        cfg.merge_from_dict(options)
        # Visualizers are global, by name.
        cfg.visualizer.name = cfg.experiment_name
        return build_runner(cfg)

    yield make
    Visualizer._instance_dict.clear()


def weights(runner):
    return runner.model.state_dict()


def scalars(runner):
    """Return what was logged of the routing, by step."""
    path = Path(runner.log_dir) / 'vis_data/scalars.json'
    entries = map(json.loads, path.read_text().splitlines())
    return {
        entry['step']: entry
        for entry in entries
        if any(key.startswith('routing/') for key in entry)
    }


def pictures(runner):
    folder = Path(runner.log_dir) / 'vis_data/vis_image'
    return {path.name: cv2.imread(str(path)) for path in folder.iterdir()}


def test_every_epoch_and_training_stays_the_same(make_runner):
    plain = make_runner('plain')
    plain.train()
    hooked = make_runner('hooked', [dict(type='RoutingVisualizationHook')])
    hooked.train()
    for name, value in weights(plain).items():
        assert torch.equal(value, weights(hooked)[name]), name

    images = pictures(hooked)
    assert set(images) == {
        'routing_0_2.png', 'routing_1_2.png', 'routing_usage_2.png',
    }  # fmt: skip
    for name in ('routing_0_2.png', 'routing_1_2.png'):
        distance = np.abs(images[name].astype(int) - QUERY).max(axis=-1)
        assert (distance < 10).sum() > 500
    (entry,) = scalars(hooked).values()
    assert entry['step'] == 2
    for stage in (1, 2, 3):
        for key in ('entropy', 'unused', 'most_used', 'far'):
            assert 0 <= entry[f'routing/stage{stage}/{key}'] <= 1
    # 16 of 25 regions cannot all be near; 1 of 25 leaves 0 to 24 unused.
    assert entry['routing/stage3/far'] > 0.2


@pytest.fixture
def wide(digits, tmp_path):
    """Options of a run whose images of validation are wider than high."""
    name = 'annotations/instances_val.json'
    content = json.loads((digits / name).read_text())
    content['annotations'] = []
    for image in content['images']:
        pixels = cv2.imread(str(digits / 'images/val' / image['file_name']))
        image['height'] = pixels.shape[0] // 2
        cv2.imwrite(
            str(tmp_path / image['file_name']), pixels[: image['height']]
        )
    (tmp_path / 'val.json').write_text(json.dumps(content))
    dataset = 'val_dataloader.dataset.'
    return {
        dataset + 'data_root': str(tmp_path),
        dataset + 'ann_file': 'val.json',
        dataset + 'data_prefix': dict(img=''),
    }


def test_every_iteration(make_runner, wide, monkeypatch):
    drawn = []

    def draw(image, record, points, geometry):
        drawn.append((image.shape[:2], points))
        return draw_routing(image, record, points, geometry)

    monkeypatch.setattr(drawing, 'draw_routing', draw)
    hook = dict(
        type='RoutingVisualizationHook', by_epoch=False, indices=[1], stage=2,
        points=[(0.1, 0.9)],
    )  # fmt: skip
    plain = make_runner('plain', by_epoch=False)
    plain.train()
    runner = make_runner('hooked', [hook], by_epoch=False, **wide)
    runner.train()
    # The hook's pass in evaluation mode lies between the two steps.
    for name, value in weights(plain).items():
        assert torch.equal(value, weights(runner)[name]), name
    assert {1, 2} == set(scalars(runner))
    assert set(pictures(runner)) == {
        f'routing_{what}_{step}.png'
        for what in ('1', 'usage')
        for step in (1, 2)
    }
    for (height, width), points in drawn:
        assert height < width
        assert points == [(0.1 * width, 0.9 * height)]
    assert len(drawn) == 2


@pytest.mark.parametrize(
    ('hook', 'options', 'message'),
    [
        (dict(by_epoch=False), {}, 'by_epoch=False.*EpochBasedTrainLoop'),
        (dict(stage=4), {}, 'stage=4 has global attention'),
        (dict(indices=[0, 2]), {}, r'between 0 and 1.*indices=\(0, 2\)'),
        (
            {},
            dict(val_dataloader=None, val_evaluator=None, val_cfg=None),
            'no val_dataloader',
        ),
    ],
)
def test_runs_that_it_cannot_serve(make_runner, hook, options, message):
    hook = dict(type='RoutingVisualizationHook', **hook)
    runner = make_runner('bad', [hook], **options)
    with pytest.raises(ValueError, match=message):
        runner.train()


def record_of(stage, block, *routes):
    """A layer of four regions, each routed to one; one image."""
    grid = RegionGrid(2, (2, 2), 4)
    return LayerRecord(
        stage, block, 2, grid, routing=torch.tensor(routes).view(1, 4, 1)
    )


def test_statistics_are_means_over_images_and_blocks():
    same, all_ = (3, 3, 3, 3), (0, 1, 2, 3)
    images = [
        RoutingRecords({
            (1, 1): record_of(1, 1, *all_),
            (2, 1): record_of(2, 1, *same),
            (2, 2): record_of(2, 2, *second),
        })
        for second in (same, all_)
    ]  # fmt: skip
    means = _stage_means(_merge_records(images))
    assert means['routing/stage1/unused'] == 0
    # Three quarters, of three of the four maps.
    assert means['routing/stage2/unused'] == pytest.approx(0.75 * 3 / 4)


def test_bad_arguments():
    with pytest.raises(ValueError, match='interval=0'):
        RoutingVisualizationHook(interval=0)
    with pytest.raises(ValueError, match=r'in \[0, 1\)'):
        RoutingVisualizationHook(points=[(0.5, 1)])
