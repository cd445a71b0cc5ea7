"""Pages in a headless Chromium, which fail a test by what goes wrong in them."""

import shutil
from contextlib import contextmanager

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")


@contextmanager
def chromium(driver):
    """Start the browser with Playwright's `driver`."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", *QUIET]
    browser = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
    yield browser
    browser.close()


@contextmanager
def watched(browser, addresses):
    """Open pages, and at the end require that nothing went wrong in them and no request left them.

    `addresses` makes of what is opened the page's address, and the beginnings of addresses that it may ask for.
    """
    opened, wrong = [], []

    def open_(target, **options):
        address, allowed = addresses(target)
        context = browser.new_context(**options)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: request.url.startswith(allowed) or wrong.append(request.url))
        page.goto(address)
        opened.append(context)
        return page

    open_.wrong = wrong
    yield open_
    for context in opened:
        context.close()
    assert wrong == []
