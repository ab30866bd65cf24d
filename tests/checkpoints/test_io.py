import hashlib
import os
import pickle
import sys
import threading
import types
from argparse import Namespace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from payload import Call, Payload

from mmbiformer.checkpoints import io
from mmbiformer.checkpoints.io import load_checkpoint, save_atomically
from mmbiformer.utils.errors import CheckpointError, OutputError


def load(path):
    return load_checkpoint(str(path))


def test_what_mmengine_saves_loads(mmengine_checkpoints):
    for path in mmengine_checkpoints:
        hub = MessageHub('loaded')
        hub.load_state_dict(load(path)['message_hub'])
        assert hub.get_scalar('train/loss').data[0].shape == (2,)
        assert hub.get_info('best_score') == np.float32(0.5)


@pytest.mark.parametrize(
    ('call', 'refusal'),
    [
        (Call(getattr, HistoryBuffer, '__init__'), 'getattr of'),
        (Call(getattr, np.ndarray, 'tofile'), 'getattr of'),
        (Call(np.ones(1).__reduce__()[0], np.ndarray, (10**9,), b'b'),
         r"ndarray'> of shape \(1000000000,\)"),
        (Call(np.ones(1).__reduce__()[0], np.dtype, (0,), b'b'),
         r"dtype'> of shape \(0,\)"),
    ],
)  # fmt: skip
def test_functions_do_only_what_mmengine_needs(tmp_path, call, refusal):
    torch.save(dict(state_dict=call), tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match=refusal):
        load(tmp_path / 'a.pth')


def test_the_command_line_of_the_authors_is_allowed(tmp_path):
    """Their training code saves it as ``args``."""
    args = Namespace(lr=1e-3, model='biformer_small', output_dir='')
    torch.save(dict(model={}, args=args), tmp_path / 'a.pth')
    assert load(tmp_path / 'a.pth')['args'] == args
    # For the strict loader only.
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / 'a.pth', weights_only=True)


def test_objects_of_omegaconf_are_refused_by_name(tmp_path, monkeypatch):
    module = types.ModuleType('omegaconf.dictconfig')
    kind = type('DictConfig', (), dict(__module__=module.__name__))
    module.DictConfig = kind
    monkeypatch.setitem(
        sys.modules, 'omegaconf', types.ModuleType('omegaconf')
    )
    monkeypatch.setitem(sys.modules, module.__name__, module)
    torch.save(dict(model={}, cfg=kind()), tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='omegaconf.dictconfig.DictConf'):
        load(tmp_path / 'a.pth')


class TestPayload:
    """It does not run, wherever the file comes from and whoever loads it."""

    @pytest.fixture(autouse=True)
    def trap(self, tmp_path):
        path = tmp_path / 'trap'
        yield path
        assert not path.exists()

    @pytest.fixture
    def evil(self, tmp_path, trap):
        path = tmp_path / 'evil.pth'
        torch.save(dict(state_dict=dict(weight=Payload(trap))), path)
        return path

    @pytest.fixture
    def refused(self):
        return pytest.raises(CheckpointError, match='could run code')

    def test_the_message(self, evil, refused):
        with refused as error:
            load(evil)
        assert 'posix.mkdir' in str(error.value)
        assert str(evil) in str(error.value)
        assert 'weights_only' not in str(error.value)

    def test_whatever_other_code_has_allowed(self, tmp_path, evil, refused):
        """Of two entries with one name, torch uses the last of its set."""
        path = tmp_path / 'a.pth'
        torch.save(dict(weight=Call(getattr, HistoryBuffer, 'update')), path)
        # Enough of them that some set has theirs last.
        theirs = [(lambda *_: getattr, 'builtins.getattr') for _ in range(9)]
        before = set(torch.serialization.get_safe_globals())
        with torch.serialization.safe_globals([getattr, os.mkdir, *theirs]):
            allowed = set(torch.serialization.get_safe_globals())
            with pytest.raises(CheckpointError, match='getattr of'):
                load(path)
            with refused:
                load(evil)
            assert set(torch.serialization.get_safe_globals()) == allowed
        assert set(torch.serialization.get_safe_globals()) == before

    @pytest.mark.parametrize('content', ['legacy', 'legacy pickle 4'])
    def test_old_files(self, tmp_path, trap, content, refused):
        protocol = int(content[-1]) if content[-1].isdigit() else 2
        torch.save(
            dict(weight=Payload(trap)),
            tmp_path / 'a.pth',
            pickle_protocol=protocol,
            _use_new_zipfile_serialization=False,
        )
        with pytest.raises(CheckpointError, match='a.pth'):
            load(tmp_path / 'a.pth')

    def test_old_files_without_it_load(self, tmp_path):
        path = tmp_path / 'a.pth'
        weights = dict(weight=torch.rand(3))
        torch.save(weights, path, _use_new_zipfile_serialization=False)
        assert torch.equal(load(path)['weight'], weights['weight'])

    def test_plain_pickles_are_not_opened(self, tmp_path, trap):
        (tmp_path / 'a.pth').write_bytes(pickle.dumps(Payload(trap)))
        with pytest.raises(CheckpointError, match='pickles can run code'):
            load(tmp_path / 'a.pth')

    def test_torchscript(self, tmp_path):
        path = tmp_path / 'a.pth'
        torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), path)
        with pytest.raises(CheckpointError, match='TorchScript archive'):
            load(path)

    def test_whatever_the_environment_says(self, evil, monkeypatch, refused):
        monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
        with refused:
            load(evil)
        assert os.environ['TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'] == '1'
        assert 'TORCH_FORCE_WEIGHTS_ONLY_LOAD' not in os.environ

    @pytest.mark.parametrize(
        'name',
        [
            'http://zoo/evil.pth',
            'https://zoo/evil.pth',
            'torchvision://evil',
            'modelzoo://evil',
            'open-mmlab://evil',
            'openmmlab://evil',
            'open-mmlab://local',
            'mmcls://evil',
            's3://bucket/evil.pth',
            'cluster:s3://bucket/evil.pth',
            'petrel://bucket/evil.pth',
            'pavi://evil',
            'another-package://evil',
        ],
    )
    def test_every_scheme(
        self, evil, trap, tmp_path, monkeypatch, refused, name
    ):
        # Where each scheme would look: the web, tables of URLs, stores.
        url = 'http://zoo/evil.pth'
        table = dict(evil=url, local=str(evil))
        for function in (
            'get_torchvision_models', 'get_external_models', 'get_mmcls_models'
        ):  # fmt: skip
            monkeypatch.setattr(mmengine_checkpoint, function, lambda: table)
        monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
        monkeypatch.setattr(
            torch.hub,
            'download_url_to_file',
            lambda _, path, **__: Path(path).write_bytes(evil.read_bytes()),
        )
        store = types.SimpleNamespace(get=lambda _: evil.read_bytes())
        monkeypatch.setattr(
            mmengine_checkpoint, 'get_file_backend', lambda *_, **__: store
        )
        cloud = types.ModuleType('pavi')
        cloud.modelcloud = types.SimpleNamespace(
            get=lambda _: types.SimpleNamespace(
                name='evil.pth', download=lambda path: os.link(evil, path)
            )
        )
        monkeypatch.setitem(sys.modules, 'pavi', cloud)
        monkeypatch.setattr(
            CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes)
        )

        @CheckpointLoader.register_scheme('another-package://')
        def load_from_another(filename, map_location):
            return torch.load(evil, weights_only=False)

        with refused:
            load(name)


def test_resuming_keeps_the_best_checkpoint(trained):
    info = load(trained / 'epoch_1.pth')['message_hub']['runtime_info']
    assert info['best_ckpt'] == str(trained / 'best_mIoU_epoch_1.pth')


@pytest.mark.parametrize(
    ('best', 'kept'),
    [
        ('best_acc_epoch_1.pth', True),
        # Else a better one would delete another file of the user.
        ('epoch_1.pth', False),
        ('best_pictures.zip', False),
        ('../best_acc_epoch_1.pth', False),
    ],
)
def test_only_a_best_checkpoint_beside_it_is_kept(tmp_path, best, kept):
    info = dict(best_ckpt_acc=str(tmp_path / best), best_score=1)
    path = tmp_path / 'a.pth'
    torch.save(dict(message_hub=dict(runtime_info=dict(info))), path)
    expected = info if kept else dict(best_score=1)
    assert load(path)['message_hub']['runtime_info'] == expected


def test_saving_overwrites_only_when_told(tmp_path):
    path = tmp_path / 'a.pth'
    save_atomically(dict(x=1), path)
    with pytest.raises(OutputError, match=f"path='{path}' exists.*--force"):
        save_atomically(dict(x=2), path)
    assert load(path) == dict(x=1)
    save_atomically(dict(x=2), path, force=True)
    assert load(path) == dict(x=2)
    with pytest.raises(OutputError, match='nowhere'):
        save_atomically(dict(x=1), tmp_path / 'nowhere/a.pth')
    # From Python 3.14 on the second.
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_atomically(lambda: None, path, force=True)
    assert load(path) == dict(x=2)
    assert os.listdir(tmp_path) == ['a.pth']


@pytest.fixture
def server():
    """A server of what ``server.files`` holds; each file may say its length.

    ``server.served`` lists what was asked for.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.served.append(self.path)
            found = self.server.files.get(self.path)
            body, length = found or (b'<html>404</html>', None)
            self.send_response(200 if found else 404)
            if length != 'unknown':
                self.send_header('Content-Length', str(length or len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.files, server.served = {}, []
    server.url = f'http://127.0.0.1:{server.server_port}'
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The folder where downloads are kept."""
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    return tmp_path / 'hub/checkpoints'


@pytest.fixture
def weights(tmp_path):
    """The bytes of a checkpoint with a weight of this value."""

    def make(value):
        path = tmp_path / 'weights.pth'
        torch.save(dict(weight=torch.tensor([value])), path)
        return path.read_bytes()

    return make


def load_value(url):
    return load_checkpoint(url)['weight'].item()


def files_in(folder):
    return sorted(p.name for p in folder.rglob('*') if p.is_file())


def test_files_are_downloaded_once(server, hub, weights):
    server.files['/a.pth'] = weights(1.0), None
    assert load_value(f'{server.url}/a.pth') == 1
    assert load_value(f'{server.url}/a.pth') == 1
    assert server.served == ['/a.pth']
    assert files_in(hub) == ['a.pth']


def test_equal_names_are_not_equal_files(server, hub, weights):
    for value, place in enumerate(('/x/a.pth', '/y/a.pth', '/a.pth?of=z')):
        server.files[place] = weights(float(value)), None
        assert load_value(server.url + place) == value


def test_the_hash_in_a_name_is_checked(server, hub, weights):
    content = weights(1.0)
    digest = hashlib.sha256(content).hexdigest()
    good, bad = f'/a-{digest[:8]}.pth', '/a-0123abcd.pth'
    server.files = {good: (content, None), bad: (content, None)}
    assert load_value(server.url + good) == 1
    with pytest.raises(CheckpointError, match='a-0123abcd.*expected "0123ab'):
        load_value(server.url + bad)
    assert files_in(hub) == [good[1:]]
    # Known by its content, it may come from elsewhere.
    assert load_value(f'http://127.0.0.1:1{good}') == 1
    assert server.served == [good, bad]


@pytest.mark.parametrize(
    ('name', 'digits'),
    [
        ('resnet50-0676ba61.pth', '0676ba61'),
        ('mask_rcnn_r50_fpn_1x_coco_bbox_mAP-0.38_20200205-d4b0c5d6.pth',
         'd4b0c5d6'),
        ('run-20240131.pth', None),
        ('biformer_small_best.pth', None),
        ('small-best.pth', None),
    ],
)  # fmt: skip
def test_hashes_are_told_from_dates(name, digits):
    assert io._hash_in_name(name) == digits


@pytest.mark.parametrize('suffix', ['', '-{digest}'])
def test_a_broken_download_is_fetched_again(server, hub, weights, suffix):
    content = weights(1.0)
    digest = hashlib.sha256(content).hexdigest()[:8]
    place = f'/a{suffix.format(digest=digest)}.pth'
    server.files[place] = content[:-100], len(content)
    with pytest.raises(CheckpointError, match=f'{place}.*'):
        load_value(server.url + place)
    assert files_in(hub) == []
    server.files[place] = content, 'unknown'
    assert load_value(server.url + place) == 1
    # Damaged since.
    (path,) = (p for p in hub.rglob('*') if p.is_file())
    path.write_bytes(content[:-100])
    with pytest.raises(CheckpointError, match=f'{server.url}{place}, and is'):
        load_value(server.url + place)
    assert load_value(server.url + place) == 1


def test_what_cannot_be_downloaded_is_named(server, hub, tmp_path):
    url = f'{server.url}/a.pth'
    with pytest.raises(
        CheckpointError, match=f"checkpoint='{url}' cannot be.*404"
    ):
        load_value(url)
    with pytest.raises(CheckpointError, match=r'1:1/a\.pth.*refused'):
        load_value('http://127.0.0.1:1/a.pth')
    url = f'{server.url}/'
    with pytest.raises(CheckpointError, match=f"'{url}' names no file"):
        load_value(url)
    server.files['/b.pth'] = b'<html>Log in first</html>', None
    with pytest.raises(CheckpointError, match=r'b\.pth.*web page'):
        load_value(f'{server.url}/b.pth')
