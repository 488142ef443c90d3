"""A real browser, headless: the system's Chromium, driven through Playwright."""

import shutil

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")  # closed with the module, since its event loop would stand in other tests' way
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api", reason="the page is tested through playwright")
    if CHROMIUM is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on the path to test the page in")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def desktop(chromium):
    return chromium.new_context(viewport={"width": 1280, "height": 900})


@pytest.fixture
def visit(chromium, desktop, tmp_path):
    """visit(text, hash) opens a page from a file and waits until it has started. Afterwards: no request left the
    page, nothing was logged as an error, no dialog opened."""
    opened, wrong = [], []

    def visit(text, hash="", name="view.html", wait=True, **options):
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        size = {"viewport": {"width": 1280, "height": 900}}
        context = chromium.new_context(**size | options) if options else desktop
        page = context.new_page()
        opened.append(context if options else page)
        page.set_default_timeout(30_000)  # milliseconds; machines that run tests may be busy
        page.on("request", lambda request: request.url.startswith(file.as_uri()) or wrong.append(request.url))
        page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(f"dialog {dialog.message}"))
        page.goto(file.as_uri() + hash)
        if wait:
            page.evaluate("headwise.ready")
        return page

    yield visit
    for one in opened:
        one.close()
    assert wrong == []
