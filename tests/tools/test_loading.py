"""Every tool that loads weights refuses those that would run code."""

import pytest
import tiny_run
import torch
from payload import Payload


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """A config, an image and a checkpoint that makes the folder ``trap``."""
    folder = tmp_path_factory.mktemp('tiny')
    evil = folder / 'evil.pth'
    weights = dict(state_dict=dict(weight=Payload(folder / 'trap')))
    torch.save(weights, evil)
    return dict(
        config=tiny_run.write(folder, dict(train=4, val=1)),
        image=folder / 'val/images/0.png',
        evil=evil,
        trap=folder / 'trap',
        out=folder / 'out.pth',
        work=folder / 'work',
    )


def slow(command):
    """Leave a command to the tests that take minutes."""
    return pytest.param(command, marks=pytest.mark.slow)


def pretrained(where):
    """Options that start a part of the model from the checkpoint."""
    return (
        f'--cfg-options {where}.init_cfg.type=Pretrained '
        f'{where}.init_cfg.checkpoint={{evil}}'
    )


@pytest.mark.parametrize(
    'command',
    [
        'train.py {config} --work-dir {work} --cfg-options load_from={evil}',
        'train.py {config} --work-dir {work} --resume {evil}',
        slow('train.py {config} --work-dir {work} ' + pretrained('model')),
        'train.py {config} --work-dir {work} ' + pretrained('model.backbone'),
        slow(
            'train.py {config} --work-dir {work} '
            + pretrained('model.decode_head')
        ),
        'test.py {config} {evil} --work-dir {work}',
        'infer.py {image} {config} {evil} --out-dir {work} --device cpu',
        'model_converters/biformer_to_mmbiformer.py {config} {evil} {out}',
        'model_converters/publish_model.py {evil} {out}',
        'visualization/routing.py {image} {config} --checkpoint {evil}',
        slow(
            'visualization/routing.py {image} {config} '
            + pretrained('model.backbone')
        ),
    ],
)
def test_a_payload_is_refused(files, command, run_tool):
    script, *arguments = command.format(**files).split()
    result = run_tool(script, *arguments, check=False)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert 'was not loaded: it holds more than weights' in last
    assert str(files['evil']) in last
    assert not files['trap'].exists()
    assert not files['out'].exists()
