"""Download an sdist as pip is configured, without running its ``setup.py``.

``pip download`` runs the ``setup.py`` of an sdist for its metadata; one that
does not run on a Python can only be mended if it is fetched in another way.

This module needs only the standard library.
"""

import ast
import base64
import hashlib
import netrc
import re
import ssl
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Dict, Iterator, List
from urllib.parse import unquote, urldefrag, urljoin, urlsplit, urlunsplit
from urllib.request import (
    HTTPSHandler,
    ProxyHandler,
    Request,
    build_opener,
    url2pathname,
)

PYPI = 'https://pypi.org/simple'
TRIES = 3


class DownloadError(Exception):
    """No index has the file, or it is not what the index promises."""


def pip_settings() -> Dict[str, str]:
    """Return the settings of pip for ``pip install``, by name.

    Those of its environment variables replace those of its files.
    """
    listing = subprocess.run(
        [sys.executable, '-m', 'pip', 'config', 'list'],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    settings = {}
    for scope in ('global.', 'install.', ':env:.'):
        for line in listing.splitlines():
            key, _, value = line.partition('=')
            if key.startswith(scope):
                settings[key[len(scope) :]] = ast.literal_eval(value)
    return settings


class Links(HTMLParser):
    """The addresses that an HTML page links to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: List[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        """Keep the address of a link."""
        if tag == 'a' and dict(attrs).get('href'):
            self.found.append(dict(attrs)['href'])


class Index:
    """The places where pip looks for packages.

    Args:
        settings (dict[str, str]): pip's settings, as :func:`pip_settings`
            returns them.
    """

    def __init__(self, settings: Dict[str, str]) -> None:
        self.settings = settings
        self.indexes = [] if self.is_on('no-index') else self.urls()
        self.pages = settings.get('find-links', '').split()
        timeout = settings.get('timeout', settings.get('default-timeout'))
        self.timeout = float(timeout or 15)

    def urls(self) -> List[str]:
        """Return the addresses of the indexes."""
        urls = self.settings.get('index-url', PYPI).split()
        return urls + self.settings.get('extra-index-url', '').split()

    def is_on(self, name: str) -> bool:
        """Return whether a switch of pip is on."""
        value = self.settings.get(name, '').lower()
        return value in ('1', 'true', 'yes', 'on', 'y', 't')

    def opener(self, host: str):
        """Return what opens addresses of a host, with pip's settings."""
        context = ssl.create_default_context(cafile=self.settings.get('cert'))
        if 'cert' not in self.settings:
            # A Python that is not the system's may not find certificates.
            from pip._vendor import certifi

            context.load_verify_locations(certifi.where())
        if self.settings.get('client-cert'):
            context.load_cert_chain(self.settings['client-cert'])
        if host in self.settings.get('trusted-host', '').split():
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        handlers = [HTTPSHandler(context=context)]
        if self.settings.get('proxy'):
            proxy = self.settings['proxy']
            handlers.append(ProxyHandler({'http': proxy, 'https': proxy}))
        return build_opener(*handlers)

    def read(self, url: str) -> tuple:
        """Return the content of an address, and where it was at last.

        Raises:
            OSError: If it cannot be read.
        """
        parts = urlsplit(url)
        if parts.scheme == 'file':
            path = Path(url2pathname(parts.path))
            path = path / 'index.html' if path.is_dir() else path
            return path.read_bytes(), path.as_uri()
        host = parts.netloc.rpartition('@')[2]
        request = Request(urlunsplit(parts._replace(netloc=host)))
        request.add_header('Accept', 'text/html, */*;q=0.1')
        user, password = parts.username, parts.password
        if user is None:
            user, password = netrc_login(parts.hostname)
        if user is not None:
            login = f'{unquote(user)}:{unquote(password or "")}'.encode()
            code = base64.b64encode(login).decode()
            # Not sent on to another host by a redirection.
            request.add_unredirected_header('Authorization', f'Basic {code}')
        opener = self.opener(parts.hostname)
        with opener.open(request, timeout=self.timeout) as response:
            return response.read(), response.geturl()

    def try_to_read(self, url: str, tries: int = TRIES) -> tuple:
        """Read an address, again if the network fails."""
        try:
            return self.read(url)
        except OSError as error:
            # What a server answers (404, 403) it will answer again.
            answered = getattr(error, 'code', 500) < 500
            if answered or tries == 1 or url.startswith('file:'):
                raise
        time.sleep(1)
        return self.try_to_read(url, tries - 1)

    def links(self, name: str, errors: List[str]) -> Iterator[str]:
        """Yield the addresses of all files of a package, with their hashes.

        Args:
            name (str): Name of the package.
            errors (list[str]): Where to note what cannot be read.
        """
        for page in self.pages:
            if Path(page).is_dir():
                yield from (path.as_uri() for path in files_in(page))
        pages = [page for page in self.pages if not Path(page).is_dir()]
        pages += [f'{index.rstrip("/")}/{name}/' for index in self.indexes]
        for page in pages:
            try:
                content, base = self.try_to_read(page)
            except (OSError, ValueError) as error:
                errors.append(f'{without_password(page)}: {error}')
                continue
            login = urlsplit(page).netloc.rpartition('@')[0]
            for link in Links(content.decode(errors='replace')).found:
                yield with_login(urljoin(base, link), base, login)


def files_in(folder: str) -> List[Path]:
    """Return the files of a folder."""
    return [path.resolve() for path in Path(folder).iterdir()]


def netrc_login(host: str) -> tuple:
    """Return user and password of a host in ``~/.netrc``, or ``None``."""
    try:
        login = netrc.netrc().authenticators(host)
    except (OSError, netrc.NetrcParseError):
        login = None
    return (login[0], login[2]) if login else (None, None)


def with_login(url: str, base: str, login: str) -> str:
    """Add the login of a page to a link that stays on its host."""
    parts = urlsplit(url)
    if not login or parts.netloc != urlsplit(base).netloc:
        return url
    return urlunsplit(parts._replace(netloc=f'{login}@{parts.netloc}'))


def without_password(url: str) -> str:
    """Return an address as it may be shown."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition('@')[2]
    return urlunsplit(parts._replace(netloc=host))


def check_hash(content: bytes, fragment: str, name: str) -> None:
    """Compare a file with the hash in its link, if that has one.

    Raises:
        DownloadError: If the file is another one.
    """
    match = re.search(r'(sha\d+|md5)=([0-9a-f]+)', fragment)
    if not match:
        return
    digest = hashlib.new(match[1], content).hexdigest()
    if digest != match[2]:
        raise DownloadError(
            f'{name} is not the file of the index: its {match[1]} is '
            f'{digest}, expected {match[2]}'
        )


def download_sdist(requirement: str, folder: Path) -> Path:
    """Download the sdist of a requirement.

    Args:
        requirement (str): Name and version, such as ``'mmcv==2.1.0'``.
        folder (Path): Where to put it.

    Returns:
        Path: The file.

    Raises:
        DownloadError: If there is none, or if its hash is not that of the
            index.
    """
    name, _, version = requirement.partition('==')
    wanted = f'{name}-{version}.tar.gz'
    index = Index(pip_settings())
    errors: List[str] = []
    for link in index.links(name, errors):
        url, fragment = urldefrag(link)
        file = unquote(urlsplit(url).path.rpartition('/')[2])
        if file.replace('_', '-') != wanted:
            continue
        try:
            content, _ = index.try_to_read(url)
        except OSError as error:
            errors.append(f'{without_password(url)}: {error}')
            continue
        check_hash(content, fragment, file)
        path = folder / file
        path.write_bytes(content)
        return path
    places = [*index.pages, *index.indexes]
    raise DownloadError(
        '\n  '.join(
            [
                f'there is no {wanted}, where pip is told to look: '
                f'{", ".join(map(without_password, places)) or "nowhere"}',
                *errors,
            ]
        )
    )
