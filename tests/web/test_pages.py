"""The pages in a real browser: they are drawn, from our own assets alone, and without a complaint of the browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, sync_playwright

from tests.servers import Application

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    executable = shutil.which("chromium")
    assert executable, "Install the package chromium, as `./appliance test` does."
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield browser.new_page()
        browser.close()


@pytest.mark.parametrize("path", ["/docs", "/docs/errors", "/console"])
def test_a_page_is_drawn_without_complaints(page: Page, application: Application, path: str) -> None:
    complaints: list[str] = []
    elsewhere: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: elsewhere.append(request.url) if application.url not in request.url else None)
    answer = page.goto(application.url + path, wait_until="networkidle")
    assert answer is not None
    assert answer.status == 200
    assert page.locator("h1").first.is_visible()
    assert (complaints, elsewhere) == ([], [])


def test_the_documentation_shows_every_operation_with_a_command_for_this_very_server(
    page: Page, application: Application
) -> None:
    page.goto(application.url + "/docs", wait_until="networkidle")
    document = page.evaluate("fetch('/v1/openapi.json').then(answer => answer.json())")
    operations = sum(len(path) for path in document["paths"].values())
    commands = page.locator("pre", has_text="curl ").all_inner_texts()
    assert len(commands) == operations
    assert all(application.url in command for command in commands)


def test_the_key_that_is_typed_stands_in_the_commands(page: Page, application: Application) -> None:
    page.goto(application.url + "/docs", wait_until="networkidle")
    page.fill("#key", "lk_typed")
    assert "Bearer lk_typed" in page.locator("pre", has_text="curl ").first.inner_text()


@pytest.mark.parametrize("width", [360, 1200])
def test_a_page_fits_a_phone_and_a_screen(page: Page, application: Application, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(application.url + "/docs", wait_until="networkidle")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
