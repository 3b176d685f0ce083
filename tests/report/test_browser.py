"""The page in a real browser, where one is installed."""

import html
import re
import shutil
import subprocess

import pytest

from cxrsynth.report import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# A browser window has a least width, a frame has none.
FRAME = """<iframe style="width: {width}px; height: 900px" srcdoc="{page}" onload="
document.title = 'width ' + this.contentDocument.documentElement.scrollWidth"></iframe>"""


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_page_fits_its_window_and_logs_no_error(width, run_folder, tmp_path):
    text = write_report(run_folder).read_text().replace("<details>", "<details open>")
    page = tmp_path / "page.html"
    page.write_text("<!doctype html><title></title>" + FRAME.format(width=width, page=html.escape(text)))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run(
        [str(BROWSER), *options, page.as_uri()], capture_output=True, text=True, timeout=60, check=True
    )
    found = re.search(r"<title>width (\d+)</title>", done.stdout)
    assert found is not None
    assert int(found[1]) == width
    assert "CONSOLE" not in done.stderr
