"""The page's routes without a browser: files and their tags, headers, rendering and its bounds."""

from __future__ import annotations

import asyncio
import re

import pytest
from fastapi.testclient import TestClient

from tests.fake_session import LIMITS
from tests.page_server import PageServer, make_app
from tests.serving import NAME, Served
from tplaunch.coordinator.server.access import OPEN_PATHS
from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.server.page.files import FOLDER, read_files
from tplaunch.coordinator.server.page.markdown import MAX_CHARACTERS
from tplaunch.coordinator.server.page.rendering import MAX_WAITING, Rendering


@pytest.fixture
def client() -> TestClient:
    return TestClient(make_app(PageServer()))


def test_every_file_is_served_under_a_strict_policy(client: TestClient) -> None:
    for name in ("/", *(f"/page/{name}" for name in read_files())):
        answer = client.get(name)
        assert answer.status_code == 200, name
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        again = client.get(name, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert client.head(name).headers["content-length"] == str(len(answer.content))


def test_nothing_comes_from_elsewhere_and_nothing_is_inline() -> None:
    assert {path.suffix for path in FOLDER.iterdir()} == {".html", ".css", ".js", ".svg"}
    for path in FOLDER.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text, path.name
        assert "https://" not in text, path.name
        assert " style=" not in text, path.name
        assert "<style" not in text, path.name
        assert len(text.splitlines()) <= 250, path.name


def test_no_other_file_is_served(client: TestClient) -> None:
    for name in ("routes.py", "..%2froutes.py", "%2e%2e/routes.py", "../../app.py", "x"):
        assert client.get(f"/page/{name}").status_code in {404, 405}, name


def test_files_need_no_key_and_the_rest_does() -> None:
    client = TestClient(make_app(PageServer(key="open sesame")))
    assert client.get("/").status_code == 200
    assert client.get("/page/main.js").status_code == 200
    assert client.get("/page/status").status_code == 401
    assert client.post("/page/render", json={"markdown": "x"}).status_code == 401
    key = {"Authorization": "Bearer open sesame"}
    assert client.get("/page/status", headers=key).json()["model"] == "demo-stories"


def test_a_text_is_rendered_whole_or_as_far_as_it_goes(client: TestClient) -> None:
    whole = client.post("/page/render", json={"markdown": "a\n\n*b*"})
    assert whole.json() == {"settled": "<p>a</p>\n<p><em>b</em></p>\n", "num_lines": 2, "rest": ""}
    growing = client.post("/page/render", json={"markdown": "a\n\n*b\n", "growing": True})
    assert growing.json() == {"settled": "<p>a</p>\n", "num_lines": 2, "rest": "<p>*b</p>\n"}


@pytest.mark.parametrize("body", [{"markdown": "x" * (MAX_CHARACTERS + 1)}, {"markdown": 3}, {}, [], "x"])
def test_a_text_that_is_none_or_too_long_is_refused(client: TestClient, body: object) -> None:
    refused = client.post("/page/render", json=body)
    assert refused.status_code in {400, 413}
    assert refused.json()["error"]["message"]


def test_texts_are_rendered_one_by_one_and_not_too_many_wait() -> None:
    async def flood() -> None:
        rendering = Rendering()
        async with rendering._turn:  # a text that takes long
            texts = [rendering.render("x", is_growing=False) for _ in range(MAX_WAITING)]
            waiting = [asyncio.create_task(text) for text in texts]
            await asyncio.sleep(0)
            with pytest.raises(ApiError, match="wait to be rendered") as refused:
                await rendering.render("x", is_growing=False)
        assert refused.value.status == 429
        assert [made.settled for made in await asyncio.gather(*waiting)] == ["<p>x</p>\n"] * MAX_WAITING

    asyncio.run(flood())


def test_the_application_has_the_page(server: Served) -> None:
    assert "<title>tplaunch</title>" in server.get("/").text
    found = server.get("/page/status").json()
    assert (found["model"], found["chat"], found["context"]) == (NAME, False, LIMITS.context_length)
    assert [rank["device"] for rank in found["ranks"]] == ["fake device 0", "fake device 1"]
    assert sum(rank["share"] for rank in found["ranks"]) == pytest.approx(1)
    assert found["health"] == {"state": "ok", "reason": None}
    refused = server.post("/page/render", markdown=3).json()["error"]["message"]
    assert refused.startswith("markdown must be a text")
    assert server.post("/page/render", markdown="*a*").json()["settled"] == "<p><em>a</em></p>\n"
    assert "/page" not in server.get("/openapi.json").text


def test_all_files_are_for_everybody_and_nothing_else_is() -> None:
    assert all(OPEN_PATHS.fullmatch(f"/page/{name}") for name in read_files())
    assert not any(map(OPEN_PATHS.fullmatch, ("/page/render", "/page/status")))


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_texts_can_be_read(theme: int) -> None:
    """By the contrast of 4.5 that WCAG 2 asks for, on each ground that a text may have."""
    found = re.findall(r"--([\w-]+): light-dark\((#\w+), (#\w+)\)", (FOLDER / "style.css").read_text())
    found += re.findall(r"--([\w-]+): light-dark\((#\w+), (#\w+)\)", (FOLDER / "code.css").read_text())
    colours = {name: pair[theme] for name, *pair in found}
    texts = ("ink", "soft", "faint", "go", "wrong", *(name for name in colours if name.startswith("code-")))
    for text in texts:
        for ground in ("paper", "sheet", "well"):
            assert contrast(colours[text], colours[ground]) >= 4.5, f"{text} on {ground}"
    assert contrast(colours["wrong"], colours["wrong-wash"]) >= 4.5
    assert contrast(colours["on-go"], colours["go"]) >= 4.5


def contrast(one: str, other: str) -> float:
    """Returns the contrast of two colours by WCAG 2: 1 to 21."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
