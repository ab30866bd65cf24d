import sys
import tarfile

import mmcv_source
import pytest

SETUP = """
ARGUMENTS = ['-std=c++17']

def get_version():
    version_file = 'mmcv/version.py'
    with open(version_file, encoding='utf-8') as f:
        exec(compile(f.read(), version_file, 'exec'))
    return locals()['__version__']
"""


@pytest.fixture
def download(tmp_path, monkeypatch):
    """Let the index have an sdist; return the calls."""
    inside = tmp_path / 'mmcv-2.1.0'
    (inside / 'mmcv').mkdir(parents=True)
    (inside / 'setup.py').write_text(SETUP)
    (inside / 'mmcv/version.py').write_text("__version__ = '2.1.0'")
    calls = []

    def download_sdist(requirement, folder):
        calls.append(requirement)
        path = folder / 'mmcv-2.1.0.tar.gz'
        with tarfile.open(path, 'w:gz') as tar:
            tar.add(inside, inside.name)
        return path

    monkeypatch.setattr(mmcv_source, 'download_sdist', download_sdist)
    return calls


def test_its_setup_finds_the_version_on_any_python(
    download, tmp_path, monkeypatch
):
    source = mmcv_source.unpack_source('mmcv==2.1.0', tmp_path, 'c++20')
    setup = (source / 'setup.py').read_text()
    assert '-std=c++20' in setup
    # On Python 3.13, exec adds nothing to locals().
    assert 'locals()' not in setup
    names = {}
    exec(setup, names)
    monkeypatch.chdir(source)
    assert names['get_version']() == '2.1.0'


def test_an_interrupted_build_keeps_its_files(download, tmp_path):
    for _ in range(2):
        mmcv_source.unpack_source('mmcv==2.1.0', tmp_path, 'c++20')
    assert download == ['mmcv==2.1.0']


def test_a_home_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    assert mmcv_source.cache_root() == tmp_path / 'cache/mmbiformer'
    # Nor can root write into a file as a folder.
    (tmp_path / 'file').touch()
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    expected = mmcv_source.ROOT / '.cache/mmbiformer'
    assert mmcv_source.cache_root() == expected


def test_the_tag_is_that_of_the_wheels():
    tag = mmcv_source.python_tag()
    assert tag == f'cp3{sys.version_info.minor}'
