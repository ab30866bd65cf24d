import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import setup_env

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def pythons(tmp_path, monkeypatch):
    """Put programs on the path that pass for Pythons of some versions."""
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    include = tmp_path / 'include'
    include.mkdir()
    (include / 'Python.h').touch()

    def make(*versions, compiler=True):
        for number, version in enumerate(versions):
            python = tmp_path / f'python{version}'
            python.write_text(
                '#!/bin/sh\ncase "$2" in\n'
                f'  *sep=*.*) echo {version};;\n'
                f'  *include*) echo "{include}";;\n'
                '  *) echo 1;;\nesac\n'
            )
            python.chmod(0o755)
            if number == 0:
                monkeypatch.setattr(sys, 'executable', str(python))
        if compiler:
            (tmp_path / 'c++').write_text('#!/bin/sh\n')
            (tmp_path / 'c++').chmod(0o755)

    return make


@pytest.mark.parametrize(
    ('versions', 'family', 'chosen'),
    [
        (['3.13', '3.10'], 'openmmlab', '3.13'),
        (['3.14', '3.11', '3.13'], 'openmmlab', '3.13'),
        (['3.14'], 'onedl', '3.14'),
        (['3.9', '3.10'], 'openmmlab', '3.10'),
    ],
)
def test_which_python_is_chosen(pythons, versions, family, chosen):
    pythons(*versions)
    assert setup_env.find_python(family).endswith(f'python{chosen}')


@pytest.mark.parametrize(
    ('versions', 'reason'),
    [
        (['3.14'], r'pkgutil.find_loader.*Python 3.13, or .*FAMILY=onedl'),
        (['3.9'], r'3.10 to 3.13 is needed; none of these'),
    ],
)
def test_a_python_that_does_not_fit_is_refused(pythons, versions, reason):
    pythons(*versions)
    with pytest.raises(SystemExit, match=reason):
        setup_env.find_python('openmmlab')


def test_a_missing_compiler_is_named_at_once(pythons):
    pythons('3.12', compiler=False)
    with pytest.raises(SystemExit, match="C.. compiler 'c..'.*apt install"):
        setup_env.find_python('openmmlab')


def test_without_a_compiler_a_wheel_built_earlier_is_enough(pythons, tmp_path):
    pythons('3.12', compiler=False)
    folder = tmp_path / 'cache/mmbiformer/mmcv-2.1.0-torch2.13.0-1-cpu'
    folder.mkdir(parents=True)
    (folder / 'mmcv.whl').touch()
    assert setup_env.find_python('openmmlab')


@pytest.mark.parametrize(
    ('value', 'classification', 'arguments'),
    [
        ('', False, ['torch==2.13.0']),
        ('', True, ['torch==2.14.1', 'torchvision==0.29.1']),
        ('2.9.1', False, ['torch==2.9.1']),
        ('2.9.1', True, ['torch==2.9.1', 'torchvision']),
        (
            'torch==2.9.1 --index-url URL',
            False,
            ['torch==2.9.1', '--index-url', 'URL'],
        ),
    ],
)
def test_which_torch_is_installed(
    monkeypatch, value, classification, arguments
):
    monkeypatch.setenv('TORCH', value)
    assert setup_env.torch_arguments(classification) == arguments


def test_an_environment_without_pip(tmp_path, monkeypatch):
    python = tmp_path / 'python'
    python.write_text('#!/bin/sh\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(SystemExit, match='no pip.*ensurepip'):
        setup_env.pip_install(python, 'numpy')
    uv = tmp_path / 'uv'
    uv.write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/called"\n')
    uv.chmod(0o755)
    setup_env.pip_install(python, 'numpy')
    called = (tmp_path / 'called').read_text()
    assert called == f'pip install --python {python} numpy\n'


def test_an_unknown_family_is_refused():
    result = subprocess.run(
        [sys.executable, ROOT / 'scripts/setup_env.py'],
        env={'FAMILY': 'other', 'PATH': '/bin'},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert "got FAMILY='other'" in result.stderr


def test_packages_that_were_not_completed_are_installed_again(tmp_path):
    site_packages = tmp_path / 'lib/python3.12/site-packages'
    whole = site_packages / 'mmcv-2.1.0.dist-info'
    half = site_packages / 'mypy-2.3.0.dist-info'
    for folder in (whole, half):
        folder.mkdir(parents=True)
        (folder / 'METADATA').touch()
    (whole / 'INSTALLER').touch()
    setup_env.forget_unfinished(tmp_path)
    assert whole.is_dir()
    assert not half.exists()


def test_the_builds_of_another_index(tmp_path, monkeypatch):
    """The releases there have a local version, which ``$TORCH`` can omit."""
    folder = tmp_path / 'index/torch'
    folder.mkdir(parents=True)
    wheel = 'torch-2.13.0+cpu-py3-none-any.whl'
    info = 'torch-2.13.0+cpu.dist-info'
    files = {
        'METADATA': 'Metadata-Version: 2.1\nName: torch\n'
        'Version: 2.13.0+cpu\n',
        'WHEEL': 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\n'
        'Tag: py3-none-any\n',
        'RECORD': '',
    }
    with zipfile.ZipFile(folder / wheel, 'w') as archive:
        for name, text in files.items():
            archive.writestr(f'{info}/{name}', text)
    (folder / 'index.html').write_text(f'<a href="{wheel}">{wheel}</a>')
    for name in [name for name in os.environ if name.startswith('PIP_')]:
        monkeypatch.delenv(name)
    monkeypatch.setenv('PIP_CONFIG_FILE', os.devnull)
    monkeypatch.setenv('PIP_TARGET', str(tmp_path / 'installed'))
    url = (tmp_path / 'index').as_uri()
    monkeypatch.setenv('TORCH', f'torch==2.13.0 --index-url {url}')
    setup_env.pip_install(sys.executable, *setup_env.torch_arguments(False))
    assert (tmp_path / 'installed' / info).is_dir()
