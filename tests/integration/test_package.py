"""The installed package: what it carries, and what it needs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    """The package as `pip install .` leaves it, in a folder of its own."""
    folder = tmp_path_factory.mktemp('site-packages')
    subprocess.run(
        [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps']
        + ['--no-build-isolation', '--target', folder, ROOT],
        check=True,
        capture_output=True,
    )
    return folder


def run_python(code, installed, cwd):
    return subprocess.run(
        [sys.executable, '-c', code],
        cwd=cwd,
        env=dict(os.environ, PYTHONPATH=str(installed)),
        capture_output=True,
        text=True,
    )


def test_it_carries_configs_tools_and_model_index(installed):
    mim = installed / 'mmbiformer/.mim'
    for folder in ('configs', 'tools'):
        ours = {
            path.relative_to(ROOT)
            for path in (ROOT / folder).rglob('*')
            if path.is_file() and '__pycache__' not in path.parts
        }
        theirs = {
            path.relative_to(mim)
            for path in (mim / folder).rglob('*')
            if path.is_file() and '__pycache__' not in path.parts
        }
        assert ours == theirs
    assert (mim / 'model-index.yml').is_file()


@pytest.mark.parametrize('where', ['installed', 'environment'])
def test_its_configs_resolve_by_name(installed, tmp_path, where):
    """For the environment's own install too, which may be an editable one."""
    (tmp_path / 'config.py').write_text(
        "_base_ = 'mmbiformer::detection/maskrcnn_biformer_tiny.py'\n"
    )
    result = run_python(
        'import mmbiformer\n'
        'from mmengine.config import Config\n'
        'from mmengine.hub import get_config\n'
        'print(mmbiformer.__file__)\n'
        "name = 'mmbiformer::detection/maskrcnn_biformer.py'\n"
        'print(get_config(name).model.backbone.arch)\n'
        "print(Config.fromfile('config.py').model.backbone.arch)\n",
        installed if where == 'installed' else '',
        tmp_path,
    )
    assert result.returncode == 0, result.stderr
    file, *archs = result.stdout.splitlines()[-3:]
    assert archs == ['small', 'tiny']
    if where == 'installed':
        assert file == str(installed / 'mmbiformer/__init__.py')


def test_it_never_asks_for_a_package_of_openmmlab(installed):
    (metadata,) = installed.glob('mmbiformer-*.dist-info/METADATA')
    required = [
        line.split()[1].lower()
        for line in metadata.read_text().splitlines()
        if line.startswith('Requires-Dist:') and 'extra ==' not in line
    ]
    assert required
    assert not [name for name in required if 'mm' in name or 'torch' in name]


@pytest.mark.parametrize('module', ['torch', 'mmengine', 'mmcv'])
def test_an_old_version_is_refused_by_name(installed, tmp_path, module):
    result = run_python(
        f"import {module}\n{module}.__version__ = '0.0.1'\nimport mmbiformer",
        installed,
        tmp_path,
    )
    assert result.returncode == 1
    assert f'{module} 0.0.1 is installed' in result.stderr.splitlines()[-1]


def test_inferencers_take_its_configs_by_name(installed, tmp_path):
    result = run_python(
        'import numpy as np\n'
        'import mmbiformer\n'
        'from mmdet.apis import DetInferencer\n'
        'from mmengine.hub import get_config\n'
        'from mmseg.apis import MMSegInferencer\n'
        'image = np.zeros((64, 64, 3), np.uint8)\n'
        "name = 'mmbiformer::detection/retinanet_biformer_tiny.py'\n"
        'inferencer = DetInferencer(get_config(name))\n'
        "print(len(inferencer(image)['predictions']))\n"
        "name = 'mmbiformer::segmentation/sfpn_biformer_tiny.py'\n"
        'inferencer = MMSegInferencer(get_config(name))\n'
        "print(inferencer(image)['predictions'].shape)\n",
        installed,
        tmp_path,
    )
    assert result.returncode == 0, result.stderr
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert '1' in lines
    assert '(64, 64)' in lines


def test_the_model_index_names_every_recipe():
    """In the format that mim and the package model-index read."""
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    collections, models = [], []
    for path in index['Import']:
        content = yaml.safe_load((ROOT / path).read_text())
        collections += [c['Name'] for c in content.get('Collections', [])]
        models += content['Models']
    configs = {
        str(path.relative_to(ROOT))
        for path in (ROOT / 'configs').glob('*/*.py')
        if '_base_' not in path.parts
    }
    assert sorted(model['Config'] for model in models) == sorted(configs)
    for model in models:
        assert model['Name'] == Path(model['Config']).stem
        assert model['In Collection'] in collections
        # None that this project could vouch for.
        assert 'Weights' not in model
        if 'Results' in model:
            reported = model['Metadata']['Results Reported By']
            assert reported == 'the authors'
            for result in model['Results']:
                assert set(result) == {'Task', 'Dataset', 'Metrics'}
