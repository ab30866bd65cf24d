"""The package as users get it: the sdist, the wheel, and what it needs.

The wheel is built from the sdist and installed into a fresh environment, which
finds torch and OpenMMLab in the one that runs the tests.
"""

import os
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml

# It builds and installs a wheel.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PIP = [sys.executable, '-m', 'pip', '--disable-pip-version-check']
RETINANET = 'mmbiformer::detection/retinanet_biformer_digits.py'


def run(*command, cwd=None, check=True, **variables):
    """Run a command, without the checkout on the path of a Python."""
    env = dict(os.environ, **variables)
    env.pop('PYTHONPATH', None)
    result = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True
    )
    if check:
        assert result.returncode == 0, f'{result.stdout}\n{result.stderr}'
    return result


def project_files():
    """Return the files of the project, without what git ignores."""
    listing = subprocess.run(
        ['git', 'ls-files', '--cached', '--others', '--exclude-standard'],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    names = listing.stdout
    if listing.returncode:  # the tests run in an unpacked sdist
        names = (ROOT / 'mmbiformer.egg-info/SOURCES.txt').read_text()
    return [name for name in names.splitlines() if (ROOT / name).is_file()]


def build_wheel(sdist, out, **variables):
    """Build a wheel from an sdist; return its path."""
    run(
        *PIP, 'wheel', '--quiet', '--no-deps', '--no-build-isolation',
        '--wheel-dir', out, sdist, **variables,
    )  # fmt: skip
    (wheel,) = out.glob('*.whl')
    return wheel


@pytest.fixture(scope='module')
def sdist(tmp_path_factory):
    """The sdist, built in a copy with the links of an editable install."""
    source = tmp_path_factory.mktemp('source')
    for name in project_files():
        copy = source / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / name).read_bytes())
    for name in ('configs', 'tools', 'model-index.yml'):
        link = source / 'mmbiformer/.mim' / name
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(Path('../..') / name)
    build = (
        "from setuptools.build_meta import build_sdist; build_sdist('dist')"
    )
    run(sys.executable, '-c', build, cwd=source)
    (archive,) = (source / 'dist').glob('*.tar.gz')
    return archive


@pytest.fixture(scope='module')
def wheel(sdist, tmp_path_factory):
    return build_wheel(sdist, tmp_path_factory.mktemp('wheel'))


def fresh_environment(venv):
    """Create an environment that finds torch and OpenMMLab in this one."""
    run(sys.executable, '-m', 'venv', '--without-pip', venv)
    python = venv / 'bin/python'
    paths = sysconfig.get_paths()
    shared = {paths['purelib'], paths['platlib']}
    # Python runs no .pth file in these folders: an editable install of
    # mmbiformer has no effect.
    (site_packages(python) / 'shared.pth').write_text('\n'.join(shared))
    return python


@pytest.fixture(scope='module')
def python(wheel, tmp_path_factory):
    """The Python of a fresh environment with the wheel."""
    python = fresh_environment(tmp_path_factory.mktemp('environment'))
    run(
        *PIP, '--python', python, 'install', '--quiet', '--no-deps',
        '--no-index', wheel,
    )  # fmt: skip
    return python


def site_packages(python):
    (folder,) = python.parents[1].glob('lib/python*/site-packages')
    return folder


def test_the_sdist_has_every_file(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
    assert set(project_files()) <= names


def test_the_wheel_is_for_the_platform_and_any_python(wheel):
    machine = sysconfig.get_platform().replace('-', '_').replace('.', '_')
    assert wheel.name.endswith(f'-py3-none-{machine}.whl')
    names = ZipFile(wheel).namelist()
    assert 'mmbiformer/py.typed' in names
    assert 'mmbiformer/ops/backends/_native.so' in names
    assert not [name for name in names if 'cpython' in name]


def test_without_a_compiler_the_wheel_is_for_any_platform(sdist, tmp_path):
    wheel = build_wheel(sdist, tmp_path, CC='false', CXX='false')
    assert wheel.name.endswith('-py3-none-any.whl')
    assert not [name for name in ZipFile(wheel).namelist() if '.so' in name]


def test_the_sdist_installs_without_network_and_compiler(sdist, tmp_path):
    """With the setuptools of an environment that has torch and OpenMMLab."""
    python = fresh_environment(tmp_path / 'environment')
    run(
        *PIP, '--python', python, 'install', '--quiet', '--no-index',
        '--no-build-isolation', sdist, PIP_FIND_LINKS='', CC='false',
        CXX='false',
    )  # fmt: skip
    result = run(
        python,
        '-c',
        'import mmbiformer, torch\n'
        'from mmbiformer.ops.backends import native\n'
        "model = mmbiformer.BiFormer(arch='tiny', n_win=4)\n"
        'maps = model(torch.rand(1, 3, 64, 64))\n'
        'print(mmbiformer.__file__, native.is_available(), len(maps))\n',
        cwd=tmp_path,
    )
    file, native, maps = result.stdout.split()[-3:]
    assert Path(file).parents[1] == site_packages(python)
    assert (native, maps) == ('False', '4')


def test_a_recipe_trains_by_its_name(python, tmp_path):
    """In an empty folder, by the tools that the wheel carries."""
    tools = site_packages(python) / 'mmbiformer/.mim/tools'
    converter = tools / 'dataset_converters/digits.py'
    run(python, converter, 'data/digits', '--images', '4', cwd=tmp_path)
    run(
        python, tools / 'train.py', RETINANET, '--cfg-options',
        'train_cfg.max_epochs=1', 'train_cfg.val_interval=1', cwd=tmp_path,
    )  # fmt: skip
    work_dir = tmp_path / 'work_dirs/retinanet_biformer_digits'
    assert (work_dir / 'epoch_1.pth').is_file()
    assert (work_dir / 'retinanet_biformer_digits.py').is_file()
    result = run(
        python, tools / 'test.py', RETINANET, work_dir / 'epoch_1.pth',
        cwd=tmp_path,
    )  # fmt: skip
    assert 'Evaluating bbox' in result.stdout + result.stderr


def test_it_carries_configs_tools_and_model_index(python):
    mim = site_packages(python) / 'mmbiformer/.mim'
    carried = {
        str(path.relative_to(mim))
        for path in mim.rglob('*')
        if path.is_file() and '__pycache__' not in path.parts
    }
    assert carried == {
        name
        for name in project_files()
        if name.startswith(('configs/', 'tools/')) or name == 'model-index.yml'
    }


@pytest.mark.parametrize('where', ['wheel', 'environment'])
def test_it_finds_its_configs_and_libraries(python, tmp_path, where):
    """So does the environment's own install, which may be an editable one."""
    (tmp_path / 'config.py').write_text(
        "_base_ = 'mmbiformer::detection/maskrcnn_biformer_tiny.py'\n"
    )
    result = run(
        python if where == 'wheel' else sys.executable,
        '-c',
        'import mmbiformer\n'
        'from mmbiformer.ops.backends import native\n'
        'from mmengine.config import Config\n'
        'from mmengine.hub import get_config\n'
        'print(mmbiformer.__file__)\n'
        'print(native.is_available())\n'
        "name = 'mmbiformer::detection/maskrcnn_biformer.py'\n"
        'print(get_config(name).model.backbone.arch.depths)\n'
        "print(Config.fromfile('config.py').model.backbone.arch.depths)\n",
        cwd=tmp_path,
    )
    file, *others = result.stdout.splitlines()[-4:]
    assert others == ['True', '(4, 4, 18, 4)', '(2, 2, 8, 2)']
    if where == 'wheel':
        assert Path(file).parents[1] == site_packages(python)


def test_it_requires_only_numpy_in_any_version(python):
    """Installing it must not change what else is in an environment."""
    (metadata,) = site_packages(python).glob('mmbiformer-*/METADATA')
    required = [
        line.partition(' ')[2]
        for line in metadata.read_text().splitlines()
        if line.startswith('Requires-Dist:') and 'extra ==' not in line
    ]
    assert required == ['numpy']


@pytest.mark.parametrize('module', ['torch', 'mmengine', 'mmcv'])
def test_an_old_version_is_refused_by_name(python, tmp_path, module):
    result = run(
        python,
        '-c',
        f"import {module}\n{module}.__version__ = '0.0.1'\nimport mmbiformer",
        cwd=tmp_path,
        check=False,
    )
    assert result.returncode == 1
    assert f'{module} 0.0.1 is installed' in result.stderr.splitlines()[-1]


def test_inferencers_take_its_configs_by_name(python, tmp_path):
    result = run(
        python,
        '-c',
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
        cwd=tmp_path,
    )
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
