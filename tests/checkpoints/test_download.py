import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from mmengine.runner.checkpoint import CheckpointLoader

from mmbiformer.checkpoints.download import cache_path, download, hash_in_name


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


def load(url):
    return CheckpointLoader.load_checkpoint(url)['weight'].item()


def files_in(folder):
    return sorted(p.name for p in folder.rglob('*') if p.is_file())


def test_files_are_downloaded_once(server, hub, weights):
    server.files['/a.pth'] = weights(1.0), None
    assert load(f'{server.url}/a.pth') == 1
    assert load(f'{server.url}/a.pth') == 1
    assert server.served == ['/a.pth']
    assert files_in(hub) == ['a.pth']


def test_equal_names_are_not_equal_files(server, hub, weights):
    for value, place in enumerate(('/x/a.pth', '/y/a.pth', '/a.pth?of=z')):
        server.files[place] = weights(float(value)), None
        assert load(server.url + place) == value


def test_the_hash_in_a_name_is_checked(server, hub, weights):
    content = weights(1.0)
    digest = hashlib.sha256(content).hexdigest()
    good, bad = f'/a-{digest[:8]}.pth', '/a-0123abcd.pth'
    server.files = {good: (content, None), bad: (content, None)}
    assert load(server.url + good) == 1
    with pytest.raises(ValueError, match='begin with 0123abcd, and is'):
        load(server.url + bad)
    assert files_in(hub) == [good[1:]]
    # Known by its content, it may come from elsewhere; damaged, it may not.
    assert load(f'http://127.0.0.1:1{good}') == 1
    (hub / good[1:]).write_bytes(content[:-1])
    assert load(server.url + good) == 1
    assert server.served == [good, bad, good]


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
    assert hash_in_name(name) == digits


def test_a_connection_that_ends_early_is_noticed(server, hub, weights):
    content = weights(1.0)
    server.files['/a.pth'] = content, len(content) + 1
    with pytest.raises(OSError, match=f'{len(content)} of {len(content) + 1}'):
        load(f'{server.url}/a.pth')
    assert files_in(hub) == []
    server.files['/a.pth'] = content, 'unknown'
    assert load(f'{server.url}/a.pth') == 1


def test_what_cannot_be_downloaded_is_named(server, hub, tmp_path):
    with pytest.raises(OSError, match=r'/a\.pth.*404'):
        load(f'{server.url}/a.pth')
    with pytest.raises(OSError, match=r'127\.0\.0\.1:1/a\.pth.*refused'):
        load('http://127.0.0.1:1/a.pth')
    with pytest.raises(ValueError, match='names no file'):
        load(f'{server.url}/')
    server.files['/b.pth'] = b'<html>Log in first</html>', None
    with pytest.raises(RuntimeError, match=r'b\.pth.*web page'):
        load(f'{server.url}/b.pth')


def test_a_download_is_visible_only_when_it_is_whole(
    server, weights, tmp_path
):
    path = cache_path(f'{server.url}/a.pth', tmp_path)
    server.files['/a.pth'] = weights(1.0), 10**6
    with pytest.raises(OSError):
        download(f'{server.url}/a.pth', path)
    assert list(path.parent.iterdir()) == []
