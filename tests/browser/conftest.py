"""A real browser: the system's Chromium without a window, and pages that fail on any trouble.

Every file of tests here has `pytestmark = pytest.mark.browser`; `make test-browser` runs them.
"""

import os
import shutil
from urllib.parse import urlsplit

import pytest

# By preference; $CHROME names another one.
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Not even the name of another host is looked up.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
LOCAL = ("about", "blob", "data", "file")
# Milliseconds that a page may take for anything, on a machine that does other things too.
PATIENCE = 30_000


def find_browser() -> str | None:
    """Return the path of a browser of Chromium's family, or None."""
    names = (os.environ["CHROME"],) if os.environ.get("CHROME") else BROWSERS
    return next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="session")
def browser():
    """The browser. Without one its tests fail where CI is set, and are skipped elsewhere."""
    path = find_browser()
    if path is None:
        line = f"no browser: install one of {', '.join(BROWSERS)}, or name it with $CHROME"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(line)
    playwright = pytest.importorskip("playwright.sync_api").sync_playwright
    with playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page of 1280x900, which fails the test on an error in it or a request to another host."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE)
    page, troubles = context.new_page(), []
    page.on("pageerror", lambda error: troubles.append(f"error in the page: {error}"))
    page.on("console", lambda line: troubles.append(line.text) if line.type == "error" else None)
    page.on("request", lambda request: is_local(request.url) or troubles.append(request.url))
    yield page
    context.close()
    assert not troubles, troubles


def is_local(url: str) -> bool:
    """Whether a request stays on this machine."""
    parts = urlsplit(url)
    return parts.scheme in LOCAL or parts.hostname == "127.0.0.1"
