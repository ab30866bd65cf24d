import pytest


@pytest.fixture(scope='module')
def rows(request):
    """Lines for the table of docs/any_head.md; printed at the end."""
    lines = []
    yield lines
    capture = request.config.pluginmanager.getplugin('capturemanager')
    with capture.global_and_fixture_disabled():
        print('\n' + '\n'.join(lines))
