"""The page of docs/demo with the trained detector, in a real browser."""

import functools
import http.server
import itertools
import json
import runpy
import shutil
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from browser import chromium
from pen import trace

from mmbiformer.visualization.geometry import ImageGeometry, RegionGrid

pytestmark = pytest.mark.slow
onnxruntime = pytest.importorskip('onnxruntime')
ROOT = Path(__file__).resolve().parents[2]
SIDE = 160


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope='module')
def serve():
    """Serve folders; all servers end at the end."""
    servers = []

    def serve(folder):
        handler = functools.partial(QuietHandler, directory=folder)
        server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f'http://127.0.0.1:{server.server_port}'

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope='module')
def site(digits_file, run_tool, tmp_path_factory):
    if not shutil.which('npm'):
        pytest.skip('needs npm (apt: npm)')
    out = tmp_path_factory.mktemp('demo') / 'page'
    run_tool('deployment/build_demo.py', digits_file, out)
    return out


@pytest.fixture(scope='module')
def desktop(site, serve, tmp_path_factory):
    with chromium(tmp_path_factory.mktemp('profile'), 1100, 900) as browser:
        open_page(browser, serve(site))
        yield browser


def open_page(browser, address):
    browser.get(address)
    wait(browser)


def wait(browser):
    """Wait until the model has seen what was drawn."""
    from selenium.webdriver.support.ui import WebDriverWait

    script = 'return document.getElementById("stage").dataset.state'
    WebDriverWait(browser, 120, 0.1).until(
        lambda browser: browser.execute_script(script) == 'ready'
    )


def find(browser, selector):
    return browser.find_element('css selector', selector)


def detections(browser):
    """Return label, score and box of each digit of the list."""
    found = browser.execute_script(
        'return [...document.querySelectorAll("#found li")].map('
        'e => [e.dataset.label, e.dataset.score, e.dataset.box])'
    )
    return [
        (int(label), float(score), np.array(box.split(','), float))
        for label, score, box in found
    ]


def clear(browser):
    find(browser, '#clear').click()
    wait(browser)


def type_digits(browser, text):
    field = find(browser, '#typed')
    field.clear()
    field.send_keys(text)
    field.submit()
    wait(browser)


def draw(browser, strokes):
    """Draw strokes, in pixels of the scene, by the mouse."""
    frame = browser.execute_script(
        'const r = document.getElementById("scene").getBoundingClientRect();'
        'return [r.left, r.top, r.width]'
    )

    def send(kind, point, buttons):
        x, y = (
            at + side / SIDE * frame[2]
            for at, side in zip(frame[:2], point, strict=True)
        )
        browser.execute_cdp_cmd(
            'Input.dispatchMouseEvent',
            dict(type=kind, x=x, y=y, button='left', buttons=buttons),
        )

    for stroke in strokes:
        send('mousePressed', stroke[0], 1)
        for point in stroke[1:]:
            send('mouseMoved', point, 1)
        send('mouseReleased', stroke[-1], 0)
    wait(browser)


def scene(browser):
    """Return the pixels of the scene as the model gets them."""
    pixels = browser.execute_script(
        'const c = document.getElementById("scene");'
        'const d = c.getContext("2d").getImageData(0, 0, c.width, c.height);'
        'return [c.width, ...d.data]'
    )
    width, *pixels = pixels
    pixels = np.array(pixels, np.float64).reshape(
        SIDE, width // SIDE, SIDE, -1, 4
    )
    rgb = pixels[..., :3].mean((1, 3))
    return np.floor(rgb + 0.5)[..., ::-1].transpose(2, 0, 1)[None]


def test_placed_digits_are_found(desktop):
    right = 0
    for text in ('012345678', '9'):
        type_digits(desktop, text)
        found = detections(desktop)
        for label, score, (left, top, right_side, bottom) in found:
            column = (left + right_side) / 2 // (SIDE / 3)
            place = int((top + bottom) / 2 // (SIDE / 3) * 3 + column)
            right += text[place : place + 1] == str(label)
            assert 0.5 <= score <= 1
        names = ', '.join(str(label) for label, *_ in found)
        status = find(desktop, '#status').text
        assert status == f'{len(found)} found: {names}'
    print(f'{right} of 10 placed digits')
    assert right >= 9
    assert desktop.get_log('browser') == []


def test_digits_of_people_drawn_by_mouse_are_found(desktop):
    """Digits that the model was not trained with, traced with the pen."""
    converter = runpy.run_path(ROOT / 'tools/dataset_converters/digits.py')
    numbers = converter['split_numbers'](0)['val']
    glyphs, labels = converter['read_digits'](numbers)
    places = list(itertools.product((8, 62, 116), repeat=2))
    right = 0
    for start in range(0, 24, 6):
        clear(desktop)
        expected = []
        for place, glyph, label in zip(
            places[:6], glyphs[start:], labels[start:], strict=False
        ):
            draw(desktop, [np.add(s, place) for s in trace(glyph, 34)])
            expected.append((int(label), np.add(place, 17)))
        found = detections(desktop)
        for label, middle in expected:
            near = [
                other
                for other, _, box in found
                if np.abs((box[:2] + box[2:]) / 2 - middle).max() < 12
            ]
            # By descending score.
            right += near[:1] == [label]
    print(f'{right} of 24')
    assert right >= 16


def test_it_is_what_python_computes(desktop, digits_file):
    type_digits(desktop, '31452')
    find(desktop, '#onlyBest').click()
    find(desktop, '#found button').click()
    session = onnxruntime.InferenceSession(str(digits_file))
    names = [output.name for output in session.get_outputs()]
    outputs = session.run(None, {'images': scene(desktop).astype(np.float32)})
    outputs = dict(zip(names, outputs, strict=True))
    found = detections(desktop)
    number = int((outputs['scores'][0] >= 0.5).sum())
    assert len(found) == number > 3
    labels, scores, boxes = map(np.array, zip(*found, strict=True))
    np.testing.assert_array_equal(labels, outputs['labels'][0, :number])
    np.testing.assert_allclose(
        scores, outputs['scores'][0, :number], atol=1e-4
    )
    np.testing.assert_allclose(boxes, outputs['boxes'][0, :number], atol=0.01)

    # Where the selected digit looks, in every layer.
    box = boxes[0]
    middle = tuple((box[:2] + box[2:]) / 2)
    layers = json.loads(
        session.get_modelmeta().custom_metadata_map['mmbiformer']
    )['routing']
    assert [layer['topk'] for layer in layers] == [1, 4, 16, 16, 16, 16]
    for option, layer in enumerate(layers):
        find(desktop, f'#layer option:nth-child({option + 1})').click()
        tokens = SIDE // layer['stride']
        grid = RegionGrid(layer['n_win'], (tokens, tokens), layer['stride'])
        region = grid.region_at(middle, ImageGeometry((SIDE, SIDE)))
        place = f'{layer["stage"]}_{layer["block"]}'
        expected = outputs[f'routing_{place}'][0, region].tolist()
        query, shown = desktop.execute_script(
            'const marks = document.getElementById("marks");'
            'return [+marks.querySelector("[data-query]").dataset.query,'
            ' [...marks.querySelectorAll("[data-region]")].map('
            'e => +e.dataset.region)]'
        )
        assert query == region
        # Equal affinities may come in another order.
        assert Counter(shown) == Counter(expected)
    find(desktop, '#onlyBest').click()


def test_masks_cover_what_was_drawn(desktop):
    type_digits(desktop, '2470')
    masks, strokes = desktop.execute_script(
        'const at = id => document.getElementById(id).getContext("2d")'
        '.getImageData(0, 0, 480, 480).data;'
        'const masks = at("masks"), scene = at("scene");'
        'document.getElementById("clear").click();'
        'const empty = at("scene");'
        'const every = f => Array.from('
        '{length: 480 * 480}, (_, i) => +f(4 * i));'
        'return [every(i => masks[i + 3] > 0),'
        ' every(i => Math.abs(scene[i] - empty[i]) > 40)]'
    )
    wait(desktop)
    masks, strokes = np.array(masks, bool), np.array(strokes, bool)
    overlap = (masks & strokes).sum() / (masks | strokes).sum()
    print(f'overlap {overlap:.2f}')
    assert overlap > 0.6


def test_undo_threshold_and_keys(desktop):
    from selenium.webdriver.common.keys import Keys

    type_digits(desktop, '07')
    before = len(detections(desktop))
    find(desktop, '#undo').click()
    find(desktop, '#undo').click()
    wait(desktop)
    assert before == 2 and [d[0] for d in detections(desktop)] == [0]
    threshold = find(desktop, '#threshold')
    threshold.send_keys(Keys.HOME)
    assert all(score >= 0.05 for _, score, _ in detections(desktop))
    threshold.send_keys(Keys.END)
    assert all(score >= 0.95 for _, score, _ in detections(desktop))
    desktop.execute_script(
        'arguments[0].value = 0.5;'
        'arguments[0].dispatchEvent(new Event("input"))', threshold,
    )  # fmt: skip
    # Without a mouse: regions by arrow keys.
    find(desktop, '[value=look]').click()
    stage = find(desktop, '#stage')
    for key, region in (
        (Keys.ARROW_LEFT, 11), (Keys.ARROW_UP, 6), (Keys.ARROW_RIGHT, 7),
        (Keys.ARROW_DOWN, 12),
    ):  # fmt: skip
        stage.send_keys(key)
        query = find(desktop, '[data-query]').get_attribute('data-query')
        assert int(query) == region
    assert find(desktop, '#routes').text.startswith(
        'The region in row 3, column 3 attends to 16 of 25 regions'
    )
    find(desktop, '#hide').click()
    find(desktop, '[value=draw]').click()


def test_a_phone(site, serve, tmp_path):
    with chromium(tmp_path, 360, 740, touch=True) as phone:
        open_page(phone, serve(site))
        width = phone.execute_script('return document.body.scrollWidth')
        assert width <= 360
        frame = find(phone, '#stage').rect
        assert frame['width'] > 300

        def touch(kind, *point):
            points = [
                dict(
                    x=frame['x'] + x / SIDE * frame['width'],
                    y=frame['y'] + y / SIDE * frame['width'],
                )
                for x, y in point
            ]
            phone.execute_cdp_cmd(
                'Input.dispatchTouchEvent', dict(type=kind, touchPoints=points)
            )

        # A seven in the middle.
        touch('touchStart', (66, 62))
        for step in np.linspace(0, 1, 9)[1:]:
            touch('touchMove', (66 + 24 * step, 62))
        for step in np.linspace(0, 1, 9)[1:]:
            touch('touchMove', (90 - 16 * step, 62 + 38 * step))
        touch('touchEnd')
        touch('touchStart', (72, 82))
        touch('touchMove', (80, 82))
        touch('touchMove', (90, 82))
        touch('touchEnd')
        wait(phone)
        label, score, box = detections(phone)[0]
        assert label == 7 and score > 0.5
        np.testing.assert_allclose(box, [62, 58, 94, 104], atol=8)
        assert phone.get_log('browser') == []


@pytest.mark.parametrize('name', ['model.onnx', 'vendor'])
def test_a_missing_file_is_said(site, serve, tmp_path, name):
    from selenium.webdriver.support.ui import WebDriverWait

    copy = tmp_path / 'page'
    shutil.copytree(site, copy, ignore=shutil.ignore_patterns(name))
    with chromium(tmp_path / 'profile', 800, 600) as browser:
        browser.get(serve(copy))
        error = find(browser, '#error')
        WebDriverWait(browser, 30).until(lambda _: error.is_displayed())
        assert error.text.startswith('The model cannot be loaded: ')
        assert error.get_attribute('role') == 'alert'
