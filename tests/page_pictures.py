"""Makes the pictures of the page in docs/: `python -m tests.page_pictures`.

Light and phone show the demo model as it tells a story on two ranks; dark shows an answer that is written
here, since the demo model writes no markdown.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from playwright.sync_api import Browser, Page

from tests.browser import chromium
from tests.drivers import REPOSITORY
from tests.page_server import HOLD, PageServer, serve

WIDE: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}}
PHONE: dict[str, Any] = {
    "viewport": {"width": 360, "height": 720},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}
REASONING = "They ask how one layer is shared. Columns first, then rows, and the sum in between."
ANSWER = """The ranks **meet twice a layer**: after attention and after the FFN. In between, each computes on
its own columns, and nothing crosses the bus.

1. All ranks get the same token ids and positions.
2. Each multiplies by *its* columns of `wq`, `wk` and `wv`.
3. Partial sums are all-reduced, and the next block begins.

```python
def step(ranks: list[Rank], tokens: np.ndarray) -> np.ndarray:
    \"\"\"Runs a step on all ranks at once.\"\"\"
    for rank in ranks:
        rank.submit(tokens)  # returns at once
    return np.concatenate([rank.logits() for rank in ranks], axis=-1)
```

| weights | bytes of 32 | bits of one |
|---|--:|--:|
| Q8_0 | 34 | 8.5 |
| Q4_0 | 18 | 4.5 |

"""


@contextmanager
def demo() -> Iterator[str]:
    """Serves the demo model on two ranks; yields the URL."""
    command = [
        sys.executable,
        "-m",
        "tplaunch",
        "serve",
        "--demo",
        "--devices",
        "0,0",
        "--port",
        "0",
        "--ledger",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            yield next(line.split()[-1] for line in server.stderr if "listening on" in line)
        finally:
            server.terminate()


@contextmanager
def load(url: str) -> Iterator[None]:
    """Has three other clients ask for texts meanwhile."""
    done = threading.Event()

    def ask(number: int) -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            while not done.is_set():
                length = 120 + 60 * number
                body = {"prompt": "Once upon a time", "max_tokens": length, "ignore_eos": True}
                client.post("/v1/completions", json=body).raise_for_status()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()


def save(page: Page, name: str) -> None:
    page.screenshot(path=REPOSITORY / f"docs/page-{name}.png")


def picture(browser: Browser, url: str, name: str, **options: Any) -> None:
    """The demo model amid a story."""
    page = browser.new_context(**options).new_page()
    page.goto(url)
    page.wait_for_selector(".told")
    with load(url):
        for text in ("Once upon a time there was a fox", " The next day, the fox"):
            page.fill("#input", text)
            page.keyboard.press("Enter")
            page.wait_for_selector(".streaming")
            page.wait_for_function("() => !document.querySelector('.streaming')", timeout=300_000)
        page.wait_for_timeout(12_000)  # so long is the line of the rate
        save(page, name)


def scripted(browser: Browser) -> None:
    """An answer with all that markdown has, on ranks that work."""
    server = PageServer(
        script=lambda body: [
            {"reasoning_content": REASONING},
            ANSWER,
            "With `--collective zmq-ring` the sum goes round",
            HOLD,
        ]
    )
    with serve(server):
        page = browser.new_context(color_scheme="dark", **WIDE).new_page()
        page.goto(server.url)
        page.fill("#input", "How do the ranks share one layer?")
        page.keyboard.press("Enter")
        page.wait_for_selector(".streaming table")
        for tokens in (90, 120, 150, 130, 140, 150, 120, 135, 150, 148):
            server.work(50, tokens, num_running=3, num_waiting=1, num_blocks_used=37, kv_usage=0.29)
            before = page.locator("#rate").text_content()
            page.wait_for_function(f"() => document.getElementById('rate').textContent !== {before!r}")
        page.wait_for_timeout(800)  # the bars come to rest
        save(page, "dark")
        server.go_on.set()


def main() -> None:
    with chromium() as browser:
        scripted(browser)
        with demo() as url:
            picture(browser, url, "light", color_scheme="light", **WIDE)
            picture(browser, url, "phone", color_scheme="light", **PHONE)


if __name__ == "__main__":
    main()
