"""Build a page on which an exported detector runs in the browser.

    build_demo.py digits.onnx demo_page
    python -m http.server --directory demo_page

The detector takes square images of one size and one at a time, such as that
of the digits after

    export.py CONFIG CHECKPOINT digits.onnx --shape 160x160 --batch 1 --routing

The page consists of the files of docs/demo, the model and onnxruntime-web,
which npm downloads in the version of docs/demo/package-lock.json. Any server
of files can serve it.
"""

import argparse
import json
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from mmbiformer_threads import limit_threads

if __name__ == '__main__':
    # Ctrl-C during the imports ends the tool without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    limit_threads()

from mmbiformer.deployment.runtime import Session
from mmbiformer.utils.command_line import command_line
from mmbiformer.utils.errors import ConfigError, MissingFileError, OutputError
from mmbiformer.utils.files import check_writable

SOURCES = Path(__file__).resolve().parents[2] / 'docs/demo'
PAGE = ('*.html', '*.css', '*.js')
"""tuple[str]: Files of the sources that are part of the page."""
RUNTIME = ('ort.wasm.bundle.min.mjs', 'ort-wasm-simd-threaded.wasm')
"""tuple[str]: Files of onnxruntime-web: its code, and the compiled runtime."""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('model', help='file of export.py, .onnx')
    parser.add_argument('out', type=Path, help='folder to create')
    parser.add_argument(
        '--force', action='store_true', help='replace an existing page'
    )
    return parser.parse_args()


def describe(model: str) -> dict:
    """Return what the page must know of a model.

    Args:
        model (str): The exported file.

    Returns:
        dict: Side of the images, classes, threshold of the masks, and routed
        layers.

    Raises:
        ConfigError: If it is not a detector of square images, one at a time.
    """
    metadata = Session(model).metadata
    sizes = metadata['input']
    side = sizes['height']
    if metadata['task'] not in ('object detection', 'instance segmentation'):
        raise ConfigError(
            f'the page shows detections; model={model!r} is for '
            f'{metadata["task"]}'
        )
    if side is None or side != sizes['width'] or sizes['batch'] != 1:
        raise ConfigError(
            f'model={model!r} must take one square image at a time: export '
            'it with --batch 1 --shape, such as 160x160 for the digits'
        )
    return dict(
        side=side,
        classes=metadata['classes'],
        mask_threshold=metadata['postprocessing'].get('mask_threshold'),
        routing=metadata.get('routing', []),
    )


def fetch_runtime(vendor: Path) -> None:
    """Download onnxruntime-web, and copy what the page needs.

    Args:
        vendor (Path): Folder to create.

    Raises:
        ConfigError: If npm is missing or fails.
    """
    npm = shutil.which('npm')
    if npm is None:
        raise ConfigError(
            'npm is needed to download onnxruntime-web, and is not installed '
            '(apt: npm)'
        )
    vendor.mkdir()
    with tempfile.TemporaryDirectory() as scratch:
        for name in ('package.json', 'package-lock.json'):
            shutil.copy(SOURCES / name, scratch)
        # Nothing of a package is run, and its hash must be that of the lock.
        result = subprocess.run(
            [npm, 'ci', '--ignore-scripts', '--no-audit', '--no-fund'],
            cwd=scratch,
            capture_output=True,
            text=True,
        )
        if result.returncode:
            lines = result.stderr.strip().splitlines() or ['']
            raise ConfigError(
                f'npm cannot download onnxruntime-web: {lines[0]}'
            )
        for name in RUNTIME:
            shutil.copy(
                Path(scratch, 'node_modules/onnxruntime-web/dist', name),
                vendor,
            )


def build(args: argparse.Namespace) -> None:
    """Write the page, or nothing."""
    out = args.out.resolve()
    if out.exists() and not (args.force and (out / 'model.json').is_file()):
        hint = 'name another folder, or replace a page by --force'
        raise OutputError(f'out={str(args.out)!r} exists already; {hint}')
    check_writable(out.parent, 'out')
    if not SOURCES.is_dir():
        raise MissingFileError(f'{SOURCES} is missing: run it in a clone')
    about = describe(args.model)
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f'.{out.name}-', dir=out.parent))
    try:
        for pattern in PAGE:
            for path in SOURCES.glob(pattern):
                shutil.copy(path, scratch)
        fetch_runtime(scratch / 'vendor')
        shutil.copy(args.model, scratch / 'model.onnx')
        (scratch / 'model.json').write_text(json.dumps(about))
        scratch.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        scratch.rename(out)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    size = sum(f.stat().st_size for f in out.rglob('*') if f.is_file())
    print(f'written to {out} ({size / 2**20:.1f} MiB)')
    print(f'to open it: python -m http.server --directory {args.out}')


def main() -> None:
    args = parse_args()
    with command_line('build_demo.py'):
        build(args)


if __name__ == '__main__':
    main()
