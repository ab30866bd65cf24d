import hashlib
import threading
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import simple_index
from simple_index import DownloadError, download_sdist, pip_settings

NAME = 'onedl_thing-1.2.tar.gz'
CONTENT = b'an archive'
LOGIN = 'Basic ' + b64encode(b'user:pass word').decode()


def page(digest=None, name=NAME, content=CONTENT):
    digest = digest or hashlib.sha256(content).hexdigest()
    return f'<a href="../../files/{name}#sha256={digest}">{name}</a>'


@pytest.fixture
def index(tmp_path):
    """Write an index as files; return its address."""

    def write(text, folder='simple'):
        path = tmp_path / folder / 'onedl-thing'
        path.mkdir(parents=True)
        (path / 'index.html').write_text(text)
        (tmp_path / 'files').mkdir(exist_ok=True)
        (tmp_path / 'files' / NAME).write_bytes(CONTENT)
        return path.parent.as_uri()

    return write


@pytest.fixture
def server():
    """A server that asks for a login; yields its address without it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            files = {
                '/simple/onedl-thing/': page().encode(),
                f'/files/{NAME}': CONTENT,
            }
            allowed = self.headers.get('Authorization') == LOGIN
            found = files.get(self.path) if allowed else b''
            self.send_response(401 if not allowed else 200 if found else 404)
            self.end_headers()
            self.wfile.write(found or b'')

        def log_message(self, *_):
            """Write nothing."""

    with ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'127.0.0.1:{server.server_port}'
        server.shutdown()


@pytest.fixture
def pip(monkeypatch):
    """Set pip's settings."""
    monkeypatch.setattr(simple_index, 'pip_settings', dict)

    def configure(**settings):
        settings = {
            name.replace('_', '-'): value for name, value in settings.items()
        }
        monkeypatch.setattr(simple_index, 'pip_settings', lambda: settings)

    return configure


def test_the_file_of_the_first_index_that_has_it(index, pip, tmp_path):
    empty = index('<a href="x-1.2.tar.gz">x</a>', 'empty')
    pip(index_url=empty, extra_index_url=f'\n{index(page())}')
    path = download_sdist('onedl-thing==1.2', tmp_path)
    assert path == tmp_path / NAME
    assert path.read_bytes() == CONTENT


def test_another_file_than_the_index_promises(index, pip, tmp_path):
    pip(index_url=index(page(digest='0' * 64)))
    with pytest.raises(DownloadError, match='its sha256 is .*expected 0000'):
        download_sdist('onedl-thing==1.2', tmp_path)
    assert not (tmp_path / NAME).exists()


def test_another_version_is_not_taken(index, pip, tmp_path):
    pip(index_url=index(page()))
    with pytest.raises(DownloadError, match='no onedl-thing-1.tar.gz'):
        download_sdist('onedl-thing==1', tmp_path)


def test_a_folder_of_files(index, pip, tmp_path):
    index(page())
    pip(find_links=str(tmp_path / 'files'), no_index='1')
    path = download_sdist('onedl-thing==1.2', tmp_path)
    assert path.read_bytes() == CONTENT


def test_an_index_with_a_login(server, pip, tmp_path):
    pip(index_url=f'http://user:pass%20word@{server}/simple')
    path = download_sdist('onedl-thing==1.2', tmp_path)
    assert path.read_bytes() == CONTENT


def test_errors_name_the_index_without_the_password(server, pip, tmp_path):
    pip(index_url=f'http://user:wrong@{server}/simple')
    with pytest.raises(DownloadError, match='401') as error:
        download_sdist('onedl-thing==1.2', tmp_path)
    assert server in str(error.value)
    assert 'wrong' not in str(error.value)


def test_settings_of_the_environment_replace_those_of_files(
    tmp_path, monkeypatch
):
    file = tmp_path / 'pip.conf'
    file.write_text(
        '[global]\nindex-url = https://a/simple\ncert = /c.pem\n'
        '[install]\nextra-index-url =\n  https://b\n  https://c\n'
    )
    monkeypatch.setenv('PIP_CONFIG_FILE', str(file))
    monkeypatch.delenv('PIP_CERT', raising=False)
    monkeypatch.setenv('PIP_INDEX_URL', 'https://mine/simple')
    settings = pip_settings()
    assert settings['index-url'] == 'https://mine/simple'
    assert settings['cert'] == '/c.pem'
    assert settings['extra-index-url'].split() == ['https://b', 'https://c']
