"""The notebooks in a real browser: JupyterLab and headless Chromium; all cells run, a slider moves, the picture changes."""

import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OPENED = [
    path
    for number in ("00", "01", "02", "08", "09")
    for path in (ROOT / "notebooks").glob(f"{number}_*.ipynb")
]
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
HOW = (
    'get a browser (Debian: apt-get install chromium) and .venv/bin/pip install --editable ".[browser]", '
    "then these notebooks are tried in it"
)
try:
    from playwright.sync_api import sync_playwright
except ImportError:
    sync_playwright = None
MISSING = not (CHROMIUM and sync_playwright)
pytestmark = pytest.mark.skipif(MISSING and not os.environ.get("CI"), reason=HOW)

NOTEBOOK = "window.jupyterapp?.shell?.currentWidget"
IDLE = f"() => {NOTEBOOK}?.sessionContext?.session?.kernel?.status === 'idle'"
CODE_CELLS = f"{NOTEBOOK}.content.widgets.filter(cell => cell.model.type === 'code')"
FINISHED = f"() => {CODE_CELLS}.every(cell => cell.model.executionCount > 0) && ({IDLE})()"
OUTPUTS = f"() => {CODE_CELLS}.flatMap(cell => cell.model.outputs.toJSON())"
LIVE = ".jp-OutputArea-output:has(.widget-interact):has(.js-plotly-plot)"
TOWARDS = """handle => {
    const [now, end] = ['aria-valuenow', 'aria-valuemax'].map(name => Number(handle.getAttribute(name)))
    return now < end ? 'ArrowRight' : 'ArrowLeft'
}"""
"""the key that moves a slider"""
STEPS = 4
"""so many of a slider: one may hardly be seen"""
MOVE = """([picture, control]) => new Promise(resolve => {
    const start = performance.now()
    picture.once('plotly_afterplot', () => resolve(performance.now() - start))
    setTimeout(() => resolve(Infinity), 10000)
    if (control.tagName === 'SELECT') {
        control.selectedIndex = (control.selectedIndex + 1) % control.options.length
        control.dispatchEvent(new Event('change', {bubbles: true}))
    } else {
        const [now, end] = ['aria-valuenow', 'aria-valuemax'].map(name => Number(control.getAttribute(name)))
        const key = now < end ? 'ArrowRight' : 'ArrowLeft'
        control.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}))
    }
})"""
"""moves a slider by a step or a menu by an entry; milliseconds until plotly has put the answer into the picture"""
ANSWER, MOVES, TRIES = 200, 3, 3
"""ms that the median of so many moves may take; a machine that is busy with something else gets more tries"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """JupyterLab on a free port of this machine, with copies of the notebooks and settings of its own."""
    folder = tmp_path_factory.mktemp("lab")
    settings = {
        "notebook-extension/tracker": '{"windowingMode": "none"}',  # all cells are in the page
        "apputils-extension/notification": '{"fetchNews": "false"}',
    }
    for name, setting in settings.items():
        file = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(setting)
    for part in ("notebooks", "figures", "docs"):
        shutil.copytree(ROOT / part, folder / "work" / part)
    environment = os.environ | {
        name: str(folder / name.lower())
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    }
    environment |= {"JUPYTERLAB_SETTINGS_DIR": str(folder / "settings")}
    options = [
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        "--port=0",
        "--IdentityProvider.token=",
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.news_url=None",
        f"--ServerApp.root_dir={folder / 'work'}",
    ]
    log = folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            env=environment,
            cwd=folder,
            stdout=file,
            stderr=file,
        )
        try:
            yield _address(process, log)
        finally:
            process.terminate()
            process.wait(20)


def _address(process, log):
    for _ in range(600):
        found = re.search(r"http://127\.0\.0\.1:\d+/", log.read_text())
        if found:
            return found[0]
        assert process.poll() is None, log.read_text()
        time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def browser():
    assert not MISSING, HOW  # a run of all tests that cannot open a browser has not passed
    with sync_playwright() as playwright:
        options = [
            "--no-sandbox",
            "--use-angle=swiftshader",
            "--enable-unsafe-swiftshader",
            "--ignore-gpu-blocklist",
        ]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page(server, browser, request):
    """A notebook whose cells have all been run in this page."""
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.set_default_timeout(300_000)
    page.goto(f"{server}lab/tree/notebooks/{request.param.name}?reset")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    page.wait_for_function(IDLE)
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    page.evaluate(
        "() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }"
    )  # and do not wait
    page.wait_for_function(FINISHED)
    yield page
    page.close()


each_notebook = pytest.mark.parametrize(
    "page", OPENED, ids=lambda path: path.stem, indirect=True, scope="module"
)


@each_notebook
def test_all_cells_run_and_a_slider_changes_its_picture(page, request):
    outputs = page.evaluate(OUTPUTS)
    assert not [
        output
        for output in outputs
        if output["output_type"] == "error" or output.get("name") == "stderr"
    ]
    assert page.get_by_text("Error displaying widget").count() == 0
    live = page.locator(".jp-OutputArea:has(.widget-hslider):has(.js-plotly-plot)").first
    picture, handle = live.locator(".js-plotly-plot").first, live.locator(".noUi-handle").first
    picture.scroll_into_view_if_needed()
    picture.locator("canvas, .scatterlayer").first.wait_for(state="attached")
    page.wait_for_timeout(1500)  # drawn, and at rest
    before = picture.screenshot()
    assert picture.screenshot() == before, "the picture moves by itself"
    handle.focus()
    key = handle.evaluate(TOWARDS)
    for _ in range(STEPS):
        page.keyboard.press(key)
        page.wait_for_timeout(1000)
    assert picture.screenshot() != before
    for _ in range(STEPS):  # where it was: with intensity 0 no menu of expressions changes a face
        page.keyboard.press("ArrowLeft" if key == "ArrowRight" else "ArrowRight")
        page.wait_for_timeout(250)
    if folder := os.environ.get("DRFER_SCREENSHOTS"):  # for a look by eye
        page.screenshot(path=Path(folder) / f"{request.node.callspec.id}.png")


@each_notebook
def test_every_slider_and_menu_answers_within_200_ms(page, request):
    """In the page: from the move to the kernel, through it and back, until plotly has the new picture. The graphics card
    then draws it; here software does, for 3D in 0.1 to 0.3 s more, which says nothing about a reader's machine."""
    pictures = page.locator(LIVE).all()
    assert pictures
    slow = {}
    for number, live in enumerate(pictures):
        live.scroll_into_view_if_needed()
        picture = live.locator(".js-plotly-plot").first.element_handle()
        controls = live.locator(".noUi-handle, select").all()
        assert controls
        for control in controls:
            line = control.locator("xpath=ancestor::*[contains(@class, 'widget-inline-hbox')][1]")
            name = line.locator(".widget-label").first.inner_text()
            for _ in range(TRIES):
                median = statistics.median(
                    _answer(page, picture, control.element_handle()) for _ in range(MOVES)
                )
                print(f"{request.node.callspec.id}, picture {number + 1}, {name}: {median:.0f} ms")
                if median <= ANSWER:
                    break
            else:
                slow[number + 1, name] = median
    assert not slow


def _answer(page, picture, control):
    page.wait_for_timeout(250)  # nothing of the answer before is left to draw
    return page.evaluate(MOVE, [picture, control])
