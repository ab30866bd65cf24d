import pickle

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.infer import BaseInferencer
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import (
    CheckpointLoader,
    _load_checkpoint_with_prefix,
    load_checkpoint,
)
from payload import Payload
from plain_runner import Model, make_runner

from mmbiformer.checkpoints.strict import strict_loading


def loaders():
    """What the block replaces."""
    return {
        **vars(mmengine_checkpoint),
        **vars(CheckpointLoader),
        **vars(BaseInferencer),
    }


def test_mmengine_is_as_before_after_the_block():
    before = loaders()
    with strict_loading():
        with strict_loading():
            pass
        changed = {k for k, v in loaders().items() if v is not before[k]}
        assert changed >= {'load_checkpoint', '_init_model', 'load_from_http'}
    assert loaders() == before
    with pytest.raises(ZeroDivisionError), strict_loading():
        1 / 0  # noqa: B018
    assert loaders() == before


def test_what_other_code_replaces_meanwhile_stays(monkeypatch):
    theirs = classmethod(lambda *_: 'theirs')
    before = vars(CheckpointLoader)['load_checkpoint']
    with strict_loading():
        CheckpointLoader.load_checkpoint = theirs
    assert vars(CheckpointLoader)['load_checkpoint'] is theirs
    CheckpointLoader.load_checkpoint = before


class TestPayload:
    """It does not run, whichever function of mmengine loads it."""

    @pytest.fixture(autouse=True)
    def trap(self, tmp_path):
        path = tmp_path / 'trap'
        with strict_loading():
            yield path
        assert not path.exists()

    @pytest.fixture
    def evil(self, tmp_path, trap):
        path = tmp_path / 'evil.pth'
        torch.save(dict(state_dict=dict(weight=Payload(trap))), path)
        return path

    @pytest.fixture
    def refused(self):
        return pytest.raises(RuntimeError, match='could run code')

    def test_the_fork_does_not_fall_back(self, evil):
        # onedl-mmengine's loaders of stores end in this function, which loads
        # unsafely where the safe load fails.
        load = getattr(mmengine_checkpoint, '_safe_torch_load', None)
        if load is None:
            pytest.skip('only the fork has this function')
        with pytest.raises(pickle.UnpicklingError):
            load(evil)

    def test_functions_of_mmengine(self, evil, tmp_path):
        calls = [
            lambda: load_checkpoint(Model(), str(evil)),
            lambda: _load_checkpoint_with_prefix('layer', str(evil)),
            lambda: Model(
                init_cfg=dict(type='Pretrained', checkpoint=str(evil))
            ).init_weights(),
            lambda: make_runner(tmp_path, load_from=str(evil)).train(),
            lambda: make_runner(
                tmp_path, load_from=str(evil), resume=True
            ).train(),
        ]
        for call in calls:
            with pytest.raises(RuntimeError, match='could run code'):
                call()

    @pytest.mark.parametrize('package', ['mmdet', 'mmseg'])
    def test_inferencers(self, evil, trap, tmp_path, package, refused):
        if package == 'mmdet':
            from mmdet.apis import DetInferencer as Inferencer
        else:
            from mmseg.apis import MMSegInferencer as Inferencer
        model = dict(model=dict(type=Model))
        with refused:
            Inferencer(Config(model), str(evil), device='cpu')
        # Without a config, they would run the one in the checkpoint.
        text = f"import os\nos.mkdir('{trap}')\nmodel = dict()\n"
        path = tmp_path / 'text.pth'
        checkpoint = dict(
            state_dict=Model().state_dict(),
            meta=dict(cfg=text),
            message_hub=dict(runtime_info=dict(cfg=text)),
        )
        torch.save(checkpoint, path)
        message = f'weights={str(path)!r} without.*configs are code'
        with pytest.raises(ValueError, match=message):
            Inferencer(None, str(path), device='cpu')

    def test_resuming(self, trained, trap, tmp_path):
        checkpoint = CheckpointLoader.load_checkpoint(
            str(trained / 'epoch_1.pth')
        )
        victim = tmp_path / 'victim'
        victim.mkdir()
        checkpoint['meta']['config'] = f"import os\nos.mkdir('{trap}')\n"
        info = checkpoint['message_hub']['runtime_info']
        info.update(best_ckpt=str(victim), best_score=np.float32(0))
        torch.save(checkpoint, tmp_path / 'a.pth')
        runner = make_runner(
            tmp_path / 'work', load_from=str(tmp_path / 'a.pth'), resume=True
        )
        runner.train_loop._max_epochs = 2
        runner.train()
        assert runner.epoch == 2
        # A better score came, and with it the deletion of the best before.
        assert (tmp_path / 'work/best_mIoU_epoch_2.pth').is_file()
        assert victim.is_dir()
