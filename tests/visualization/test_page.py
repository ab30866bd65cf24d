"""The page, in a real browser without a window."""

import contextlib
import json
import re

import numpy as np
import pytest
import torch
from browser import chromium
from matplotlib.colors import to_rgb

from mmbiformer.visualization import (
    ImageGeometry,
    LayerRecord,
    RegionGrid,
    write_page,
)
from mmbiformer.visualization.drawing import QUERY_COLOR

SIZE = (111, 233)
# Maps of an input twice as large, of which the smallest is padded from 7 x 15
# to 10 x 15 tokens: the last row of regions and more lies in the padding.
LAYERS = {
    (1, 1): RegionGrid(5, (56, 117), 4),
    (3, 1): RegionGrid(5, (7, 15), 32),
    (3, 2): RegionGrid(5, (7, 15), 32),
}
GEOMETRY = ImageGeometry(SIZE, (2, 2))


def make_records():
    records = {}
    for seed, (key, grid) in enumerate(LAYERS.items()):
        topk = 1 if key[0] == 1 else 6
        generator = torch.Generator().manual_seed(seed)
        scores = torch.randn(1, 25, 25, generator=generator)
        affinity, routing = scores.topk(topk, dim=-1)
        records[key] = LayerRecord(*key, 2, grid, routing, affinity)
    return records


RECORDS = make_records()


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp('page') / 'routing.html'
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    write_page(
        path, image, list(RECORDS.values()), GEOMETRY, start=(120, 30),
        title='A <b>title</b> & more',
    )  # fmt: skip
    return path


@pytest.fixture(scope='module')
def open_browser(tmp_path_factory):
    """Start Chromium with a window of a size; all are ended at the end."""
    with contextlib.ExitStack() as browsers:

        def open_browser(path, width, height, touch=False):
            profile = tmp_path_factory.mktemp('profile')
            browser = browsers.enter_context(
                chromium(profile, width, height, touch)
            )
            browser.get(path.as_uri())
            return browser

        yield open_browser


@pytest.fixture(scope='module')
def desktop(open_browser, page):
    return open_browser(page, 1280, 860)


def find(browser, selector):
    return browser.find_element('css selector', selector)


def seen(browser):
    """Return the outlined region, and the lit ones by rank."""
    query, lit = browser.execute_script(
        'const all = name => [...document.querySelectorAll(`[data-${name}]`)];'
        'return [all("query")[0].dataset.query,'
        ' all("region").map(e => [e.dataset.rank, e.dataset.region])]'
    )
    return int(query), {int(rank): int(region) for rank, region in lit}


def expect(record, region):
    """What should be seen of a region: routes that show in the image."""
    lit = {}
    for rank, target in enumerate(record.routing[0, region].tolist()):
        left, top, right, bottom = record.grid.region_box(target, GEOMETRY)
        if right > left and bottom > top:
            lit[rank] = target
    return region, lit


def choose(browser, stage, block):
    """Choose a layer by the two lists."""
    from selenium.webdriver.support.ui import Select

    Select(find(browser, '#stage')).select_by_visible_text(str(stage))
    Select(find(browser, '#block')).select_by_visible_text(str(block))


def hover(browser, x, y):
    """Move the mouse to a point of the image."""
    from selenium.webdriver import ActionChains

    frame = find(browser, '#view svg').rect
    ActionChains(browser, duration=0).move_to_element_with_offset(
        find(browser, '#view'),
        round((x / SIZE[1] - 0.5) * frame['width']),
        round((y / SIZE[0] - 0.5) * frame['height']),
    ).perform()


def test_it_loads_without_errors_or_the_network(desktop, page):
    assert desktop.get_log('browser') == []
    text = page.read_text()
    assert not re.findall(r'https?://(?!www\.w3\.org/)', text)
    assert len(text) < 100_000
    assert find(desktop, 'h1').text == 'A <b>title</b> & more'
    size = desktop.execute_script(
        'const i = document.querySelector("img");'
        'return [i.naturalWidth, i.naturalHeight]'
    )
    assert size == [SIZE[1], SIZE[0]]
    # The last of the records at the chosen start.
    record = RECORDS[3, 2]
    start = record.grid.region_at((120, 30), GEOMETRY)
    assert seen(desktop) == expect(record, start)


@pytest.mark.parametrize('key', LAYERS)
def test_hovering_lights_the_recorded_regions(desktop, key):
    choose(desktop, *key)
    record = RECORDS[key]
    visited = set()
    for y in range(5, SIZE[0], 25):
        for x in range(8, SIZE[1], 36):
            hover(desktop, x, y)
            region = record.grid.region_at((x + 0.5, y + 0.5), GEOMETRY)
            assert seen(desktop) == expect(record, region)
            visited.add(region)
    assert len(visited) > 10
    assert desktop.get_log('browser') == []


def test_boxes_lie_where_the_regions_are(desktop):
    choose(desktop, 3, 1)
    hover(desktop, 120, 30)
    record = RECORDS[3, 1]
    frame = find(desktop, '#view svg').rect
    scale = frame['width'] / SIZE[1]
    query = find(desktop, '.query')
    region = int(query.get_attribute('data-query'))
    left, top, right, bottom = record.grid.region_box(region, GEOMETRY)
    rect = desktop.execute_script(
        'const r = arguments[0].getBoundingClientRect();'
        'return [r.left, r.top, r.right, r.bottom]', query,
    )  # fmt: skip
    expected = np.array([left, top, right, bottom]) * scale
    expected += np.tile([frame['x'], frame['y']], 2)
    np.testing.assert_allclose(rect, expected, atol=2.5)
    stroke = query.value_of_css_property('stroke')
    rgb = [round(255 * channel) for channel in to_rgb(QUERY_COLOR)]
    assert re.findall(r'\d+', stroke)[:3] == [str(value) for value in rgb]


def test_brighter_means_more(desktop):
    choose(desktop, 3, 2)
    fills = desktop.execute_script(
        'return [...document.querySelectorAll("tbody i")]'
        '.map(e => e.style.backgroundColor)'
    )
    brightness = [
        sum(map(int, re.findall(r'\d+', fill)[:3])) for fill in fills
    ]
    assert len(fills) == 6
    assert brightness == sorted(brightness, reverse=True)
    assert brightness[0] > brightness[-1]


def test_the_table_and_the_status_say_it_in_words(desktop):
    choose(desktop, 3, 2)
    hover(desktop, 120, 30)
    record = RECORDS[3, 2]
    region = record.grid.region_at((120, 30), GEOMETRY)
    status = find(desktop, '#status').text
    row, column = divmod(region, 5)
    assert f'Row {row + 1}, column {column + 1} attends to 6 of 25' in status
    hidden = 6 - len(expect(record, region)[1])
    assert hidden, 'the case should have routes into the padding'
    assert f'{hidden} of them' in status
    cells = desktop.execute_script(
        'return [...document.querySelectorAll("tbody tr")]'
        '.map(r => [...r.cells].slice(1).map(c => Number(c.textContent)))'
    )
    for (row, column, affinity), target, value in zip(
        cells, record.routing[0, region].tolist(),
        record.affinity[0, region].tolist(), strict=True,
    ):  # fmt: skip
        assert (row - 1) * 5 + column - 1 == target
        assert affinity == pytest.approx(value, rel=0.01)


def test_arrow_keys_move_the_region(desktop):
    from selenium.webdriver.common.keys import Keys

    choose(desktop, 1, 1)
    record = RECORDS[1, 1]
    hover(desktop, 120, 50)
    region = seen(desktop)[0]
    view = find(desktop, '#view')
    for key, step in (
        (Keys.ARROW_RIGHT, 1), (Keys.ARROW_DOWN, 5), (Keys.ARROW_LEFT, -1),
        (Keys.ARROW_UP, -5), (Keys.ARROW_UP, -5),
    ):  # fmt: skip
        view.send_keys(key)
        region += step
        assert seen(desktop) == expect(record, region)
    # Nothing is behind the edge.
    for _ in range(6):
        view.send_keys(Keys.ARROW_UP)
    assert seen(desktop)[0] == region % 5
    # All controls are reached by the tabulator, in the order of the page.
    desktop.execute_script('arguments[0].focus()', find(desktop, '#stage'))
    for name in ('block', 'color', 'view'):
        desktop.switch_to.active_element.send_keys(Keys.TAB)
        focused = desktop.switch_to.active_element
        assert focused.get_attribute('id') == name


def test_the_layer_changes_and_the_place_stays(desktop):
    choose(desktop, 3, 1)
    hover(desktop, 200, 100)
    choose(desktop, 1, 1)
    region = RECORDS[1, 1].grid.region_at((200, 100), GEOMETRY)
    left, top, right, bottom = RECORDS[3, 1].grid.region_box(
        RECORDS[3, 1].grid.region_at((200, 100), GEOMETRY), GEOMETRY
    )
    middle = ((left + right) / 2, (top + bottom) / 2)
    region = RECORDS[1, 1].grid.region_at(middle, GEOMETRY)
    assert seen(desktop) == expect(RECORDS[1, 1], region)
    options = desktop.execute_script(
        'return [...document.querySelectorAll("#block option")]'
        '.map(o => o.value)'
    )
    assert options == ['1']


def test_a_narrow_phone(open_browser, page, tmp_path):
    browser = open_browser(page, 360, 740, touch=True)
    width = browser.execute_script('return document.body.scrollWidth')
    assert width <= 360
    frame = find(browser, '#view').rect
    assert frame['width'] > 300
    choose(browser, 1, 1)
    record = RECORDS[1, 1]
    for x, y in ((30, 30), (200, 90)):
        browser.execute_cdp_cmd(
            'Emulation.setTouchEmulationEnabled', {'enabled': True}
        )
        point = dict(
            x=frame['x'] + x / SIZE[1] * frame['width'],
            y=frame['y'] + y / SIZE[0] * frame['height'],
        )
        for kind, points in (('touchStart', [point]), ('touchEnd', [])):
            browser.execute_cdp_cmd(
                'Input.dispatchTouchEvent', dict(type=kind, touchPoints=points)
            )
        region = record.grid.region_at((x, y), GEOMETRY)
        assert seen(browser) == expect(record, region)
    assert browser.get_log('browser') == []


def test_bad_input(tmp_path):
    image = np.zeros((*SIZE, 3), np.uint8)
    path = tmp_path / 'page.html'
    records = list(RECORDS.values())
    with pytest.raises(ValueError, match='at least one layer with routing'):
        write_page(
            path, image, [LayerRecord(4, 1, 1, RegionGrid(1, (4, 8), 32))]
        )
    with pytest.raises(ValueError, match='outside the image'):
        write_page(path, image, records, GEOMETRY, start=(500, 0))
    assert not path.exists()


def test_large_images_are_shrunk(tmp_path):
    path = tmp_path / 'page.html'
    image = np.zeros((100, 3200, 3), np.uint8)
    grid = RegionGrid(2, (4, 100), 32)
    record = LayerRecord(
        3, 1, 1, grid, torch.zeros(1, 4, 1).long(), torch.zeros(1, 4, 1)
    )
    write_page(path, image, [record])
    data = re.search(r'id="data">(.*?)</script>', path.read_text())[1]
    data = json.loads(data)
    assert (data['width'], data['height']) == (3200, 100)
    assert len(data['image']) < 20_000
