"""Pages in headless Chromium and Firefox, which fail a test by what goes wrong in them; and JavaScript in Node."""

import itertools
import json
import shutil
import subprocess
import time
from contextlib import contextmanager

from websockets.sync.client import connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NODE = shutil.which("node")
FIREFOX = next(filter(None, map(shutil.which, ("firefox", "firefox-esr"))), None)
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")


def in_node(function, text=""):
    """Call a JavaScript function with a text; it returns a text, or a promise of one."""
    script = f'console.log(await ({function})((await import("node:fs")).readFileSync(0, "utf8")))'
    command = [NODE, "--input-type=module", "--eval", script]
    done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


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


class Firefox:
    """A Firefox as it is, by WebDriver BiDi (https://w3c.github.io/webdriver-bidi): Playwright needs one of its own."""

    def __init__(self, socket):
        self._socket, self._numbers, self._events = socket, itertools.count(), []
        self._send("session.new", capabilities={})
        self._send("session.subscribe", events=["network.beforeRequestSent", "log.entryAdded"])

    def _send(self, method, **parameters):
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (answer := json.loads(self._socket.recv(timeout=60))).get("id") != number:
            self._events.append(answer)
        assert answer["type"] == "success", answer
        return answer["result"]

    def open(self, address="about:blank", wait="complete"):
        """Open a tab, and return what names it; `wait`: until then (`document.readyState`)."""
        tab = self._send("browsingContext.create", type="tab")["context"]
        self._send("browsingContext.navigate", context=tab, url=address, wait=wait)
        return tab

    def evaluate(self, tab, function, text=""):
        """Call a JavaScript function with a text in a tab; it returns a text, or a promise of one."""
        called = {"functionDeclaration": function, "arguments": [{"type": "string", "value": text}]}
        found = self._send("script.callFunction", target={"context": tab}, awaitPromise=True, **called)
        assert found["type"] == "success", found
        return found["result"].get("value")

    def close(self, tab):
        """Close a tab; returns the addresses that it asked for and what it logged."""
        self._send("browsingContext.close", context=tab)
        own = [event["params"] for event in self._events if event["type"] == "event"]
        requested = [one["request"]["url"] for one in own if "request" in one and one["context"] == tab]
        return requested, [one["text"] for one in own if "text" in one and one["source"]["context"] == tab]


@contextmanager
def firefox(profile):
    """Start Firefox with an empty directory as its profile."""
    command = [FIREFOX, "--headless", "--no-remote", "--profile", profile, "--remote-debugging-port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        server = profile / "WebDriverBiDiServer.json"
        while not server.exists():
            assert process.poll() is None
            time.sleep(0.05)
        place = json.loads(server.read_text())
        with connect(f"ws://{place['ws_host']}:{place['ws_port']}/session", max_size=None, open_timeout=60) as socket:
            yield Firefox(socket)
    finally:
        process.terminate()
        process.wait()
