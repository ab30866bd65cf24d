"""Chromium without a window, for pages."""

import contextlib
import shutil

import pytest


@contextlib.contextmanager
def chromium(profile, width, height, touch=False):
    """Start Chromium, and end it.

    Args:
        profile (Path): Folder for what it keeps.
        width (int): Width of its window, in pixels.
        height (int): Height of its window.
        touch (bool): Whether it is a phone. Default: False.

    Yields:
        WebDriver: The browser; the test is skipped where there is none.
    """
    webdriver = pytest.importorskip('selenium.webdriver')
    from selenium.webdriver.chrome.service import Service

    binary = shutil.which('chromium') or shutil.which('google-chrome')
    driver = shutil.which('chromedriver')
    if not binary or not driver:
        pytest.skip('needs Chromium and chromedriver (apt: chromium-driver)')
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (
        'headless', 'no-sandbox', 'disable-gpu', 'disable-quic',
        'no-first-run', 'disable-background-networking',
        'disable-component-update', 'disable-sync',
        f'user-data-dir={profile}', f'window-size={width},{height}',
    ):  # fmt: skip
        options.add_argument(f'--{argument}')
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    if touch:
        metrics = dict(width=width, height=height, touch=True)
        options.add_experimental_option(
            'mobileEmulation', {'deviceMetrics': metrics}
        )
    browser = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield browser
    finally:
        browser.quit()
