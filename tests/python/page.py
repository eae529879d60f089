"""Looks at the page of `scalingnote serve` with a real browser.

python page.py PROGRAM FOLDER

Publishes three days of made-up notes, serves them, and drives a headless Chromium over its debugging pipe: loads the page,
searches, moves by keys, compares, and takes pictures into FOLDER, narrow and wide, light and dark. Anything on the console,
and any request to anybody but the server, is an error. Where there is no Chromium it says so and ends well;
SCALINGNOTE_REQUIRE_CHROMIUM=1 makes that an error.
"""

import base64
import json
import os
import pathlib
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time

from stores import end_with_parent

PATIENCE = 60
WORDS = {
    "baking": "bread sourdough oven flour yeast crust dough proof knead bake".split(),
    "travel": "train ticket border hostel map ferry station visa night coast".split(),
    "garden": "tomato seed soil compost water shade prune frost harvest bed".split(),
    "code": "parser index vector thread cache lock query shard merge test".split(),
}


def publish(program, folder, day):
    """Notes that all stay, of which some are edited from day to day."""
    lines = []
    for number in range(180 + 20 * day):
        chance = random.Random(number if number % 9 else number + 1000 * day)
        topic = chance.choice(list(WORDS))
        text = " ".join(chance.choices(WORDS[topic], k=12))
        title = " ".join(text.split()[:4]).capitalize()
        lines.append({
            "id": f"note-{number:04}", "title": title, "body": text, "topic": topic, "likes": chance.randrange(200),
            "author": ["Åsa", "李雷", "<b>Bob</b>", "نور"][number % 4], "day": day,
        })
    (folder / "notes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "pipeline.toml").write_text("""version = 1
[corpus]
sql = "select id as note_id, title, body, topic, likes, author, day from notes"
template = "{{ title }} {{ body }}"
stored_columns = ["title", "topic", "likes", "author", "day"]
[[corpus.tables]]
name = "notes"
uri = "notes.jsonl"
[tower]
model = "fake:32"
pooling = "mean"
[index]
shards = 2
[publish]
root = "root"
""")
    subprocess.run([program, "run", "pipeline.toml", "--quiet"], cwd=folder, check=True)


class Browser:
    """One tab of a Chromium, driven over pipes: no port, no library."""

    def __init__(self, binary, profile, origin):
        self.origin, self.number, self.buffer = origin, 0, b""
        self.complaints, self.loads = [], 0
        theirs_in, self.to = os.pipe()
        self.back, theirs_out = os.pipe()

        def hand_over():
            end_with_parent()
            # Above both numbers first, so that neither copy closes the other.
            high_in, high_out = os.dup2(theirs_in, 13), os.dup2(theirs_out, 14)
            os.dup2(high_in, 3)
            os.dup2(high_out, 4)

        line = [
            binary, "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run",
            "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--hide-scrollbars",
            # A container has no user namespaces to lock it in; the only page that it opens is ours.
            "--no-sandbox", "about:blank",
        ]
        self.process = subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            close_fds=False, preexec_fn=hand_over,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Network", "Log"]:
            self.call(f"{domain}.enable")

    def receive(self):
        until = time.monotonic() + PATIENCE
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.back], [], [], max(0, until - time.monotonic()))
            read = os.read(self.back, 1 << 20) if ready else b""
            assert read, "the browser says nothing more"
            self.buffer += read
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def hear(self, message):
        said, told = message.get("method"), message.get("params", {})
        if said == "Network.requestWillBeSent":
            url = told["request"]["url"]
            if not url.startswith((self.origin, "data:", "about:")):
                self.complaints.append(f"it asks for {url}")
        elif said == "Runtime.consoleAPICalled":
            self.complaints.append(f"console: {told}")
        elif said == "Runtime.exceptionThrown":
            self.complaints.append(f"exception: {told['exceptionDetails']}")
        elif said == "Log.entryAdded":
            self.complaints.append(f"log: {told['entry']['text']}")
        elif said == "Page.loadEventFired":
            self.loads += 1

    def ask(self, method, session=None, **params):
        self.number += 1
        call = {"id": self.number, "method": method, "params": params}
        if session:
            call["sessionId"] = session
        os.write(self.to, json.dumps(call).encode() + b"\0")
        while True:
            message = self.receive()
            if message.get("id") == self.number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self.hear(message)

    def call(self, method, **params):
        return self.ask(method, self.session, **params)

    def loaded(self, action):
        """Does what leads to another page, and waits for it."""
        before = self.loads
        action()
        while self.loads == before:
            self.hear(self.receive())

    def open(self, path):
        self.loaded(lambda: self.call("Page.navigate", url=self.origin + path))

    def close(self):
        self.ask("Browser.close")
        self.process.wait(PATIENCE)

    def run(self, script):
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press(self, key, text=None):
        name = {"code": key, "key": key, "windowsVirtualKeyCode": 13 if key == "Enter" else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown", **name, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **name)

    def picture(self, path, width, scheme):
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600)
        wide = self.run("document.documentElement.scrollWidth")
        assert wide <= width, f"{path.name}: the page has {wide} pixels on a screen of {width}"
        height = min(self.run("document.documentElement.scrollHeight"), 4_000)
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


FOCUS = "(document.activeElement.closest('.hit') || {}).value ?? document.activeElement.id"
# Roles, names and labels that a screen reader needs; what lacks one is said.
UNNAMED = """[...document.querySelectorAll('input, select, button, section, svg')].filter((part) => !(
    part.labels?.length || part.textContent.trim() && part.matches('button') || part.getAttribute('aria-label') ||
    document.getElementById(part.getAttribute('aria-labelledby')))).map((part) => part.outerHTML.slice(0, 80))"""
CONTRAST = """(() => {
    const light = (color) => { const [r, g, b] = color.match(/[0-9.]+/g).slice(0, 3).map((part) => {
        const c = part / 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
    const behind = (part) => { for (; part; part = part.parentElement) {
        const color = getComputedStyle(part).backgroundColor;
        if (!color.endsWith(', 0)')) return color; } return 'rgb(255, 255, 255)'; };
    const poor = new Set();
    for (const part of document.querySelectorAll('body *:not(svg *):not(script):not(style):not(option)')) {
        if (![...part.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())) continue;
        const [a, b] = [light(getComputedStyle(part).color), light(behind(part))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) poor.add(`${part.tagName}.${part.className}: ${ratio.toFixed(2)}`); }
    return [...poor]; })()"""


def look(browser, out):
    browser.open("/")
    assert browser.run("document.activeElement.id") == "q", "the box has the focus"
    assert browser.run(UNNAMED) == [], browser.run(UNNAMED)
    for character in "bread oven":
        browser.press(character, character)
    browser.loaded(lambda: browser.press("Enter", "\r"))
    assert browser.run("document.querySelectorAll('.hit').length") == 10
    assert browser.run("document.getElementById('q').value") == "bread oven"
    assert browser.run("document.querySelectorAll('b:not(.card b)').length") == 0, "a stored <b> is text"

    browser.run("document.activeElement.blur()")
    places = []
    for key in ["ArrowDown", "ArrowDown", "ArrowDown", "ArrowUp", "Escape", "ArrowDown", "ArrowUp"]:
        browser.press(key)
        places.append(browser.run(FOCUS))
    assert places == [1, 2, 3, 2, "q", 1, "q"], places
    browser.run("document.activeElement.blur()")
    browser.press("/", "/")
    assert browser.run(FOCUS) == "q" and browser.run("document.getElementById('q').value") == "bread oven"

    pages = {"start": "/", "search": "/?q=bread+oven", "snapshots": "/?q=bread+oven&k=12&beside=1",
             "exact": "/?q=bread+oven&beside=exact&where=likes+%3E+50", "refused": "/?q=bread&where=like+%3E"}
    for name, path in pages.items():
        until = time.monotonic() + PATIENCE
        while True:
            browser.complaints, before = [], browser.complaints
            browser.open(path)
            refused = browser.run("(document.querySelector('[role=alert]') || {}).textContent")
            # A second snapshot may not be opened at once.
            if name != "snapshots" or not refused or time.monotonic() > until:
                break
            time.sleep(0.5)
        # A status of 400 is told on the console too.
        kept = [said for said in browser.complaints if name != "refused" or "400" not in said]
        browser.complaints = before + kept
        assert (refused is None) == (name != "refused"), f"{name}: {refused}"
        for scheme in ["light", "dark"]:
            for width in [360, 1280]:
                browser.picture(out / f"{name}-{width}-{scheme}.png", width, scheme)
            poor = browser.run(CONTRAST)
            assert poor == [], f"{name}, {scheme}: too little contrast: {poor}"
        assert browser.run(UNNAMED) == [], browser.run(UNNAMED)
        if name == "snapshots":
            browser.run("document.activeElement.blur()")
            for key in ["ArrowDown", "ArrowDown", "ArrowRight"]:
                browser.press(key)
            column = "[...document.querySelectorAll('.hits')].findIndex((list) => list.contains(document.activeElement))"
            assert (browser.run(FOCUS), browser.run(column)) == (2, 1)

    # Without a script it searches all the same.
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    browser.open("/")
    root = browser.call("DOM.getDocument")["root"]["nodeId"]
    box = browser.call("DOM.querySelector", nodeId=root, selector="#q")["nodeId"]
    browser.call("DOM.focus", nodeId=box)
    browser.call("Input.insertText", text="bread oven")
    browser.loaded(lambda: browser.press("Enter", "\r"))
    root = browser.call("DOM.getDocument")["root"]["nodeId"]
    hits = browser.call("DOM.querySelectorAll", nodeId=root, selector=".hit")["nodeIds"]
    assert len(hits) == 10, len(hits)
    assert browser.complaints == [], "\n".join(browser.complaints)


def main():
    program, out = (pathlib.Path(argument).resolve() for argument in sys.argv[1:])
    binary = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
    if not binary:
        print("skipped: the page in a browser: there is no Chromium (Debian, Ubuntu: apt install chromium)")
        sys.exit(1 if os.environ.get("SCALINGNOTE_REQUIRE_CHROMIUM") else 0)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        folder = pathlib.Path(folder)
        for day in [1, 2, 3]:
            publish(program, folder, day)
        server = subprocess.Popen(
            [program, "serve", "pipeline.toml", "--bind", "127.0.0.1:0", "--cache", folder / "cache"],
            cwd=folder, stdout=subprocess.PIPE, text=True, preexec_fn=end_with_parent,
        )
        try:
            origin = "http://" + server.stdout.readline().strip().split("http://")[1]
            browser = Browser(binary, folder / "profile", origin)
            try:
                look(browser, out)
                browser.close()
            finally:
                browser.process.kill()
                browser.process.wait()
        finally:
            server.terminate()
            server.wait()
    pictures = len(list(out.glob("*.png")))
    print(f"the page works in {pathlib.Path(binary).name}: nothing on its console, no request elsewhere; {pictures} pictures in {out}")


main()
