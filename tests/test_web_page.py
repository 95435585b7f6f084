"""The page in headless Chromium: what a person does with it, from a dropped file to a live conversion."""

from __future__ import annotations

import base64
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.browser import find_chromium
from tests.conftest import BASE_MODEL, REPOSITORY, Cli
from vconv import audio

pytest.importorskip("starlette", reason="needs vconv[web]")
pytest.importorskip("websockets", reason="needs vconv[web]")
pytest.importorskip("playwright.sync_api", reason="needs playwright; pip install 'vconv[dev]'")

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Route, expect, sync_playwright

from tests.web_server import TOKEN, Server, running
from vconv.web.app import Settings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="needs Chromium; apt install chromium"),
    pytest.mark.skipif(not BASE_MODEL.is_dir(), reason="needs the weights in pretrained/base"),
]
EXAMPLES = REPOSITORY / "examples"
WAIT = 120_000  # ms; a conversion on a busy machine
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required",
    "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
]  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("page")
    with running(Settings(voices=folder / "voices", threads=1, port=0), folder / "run") as server:
        yield server


@pytest.fixture(scope="module")
def microphone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Chromium's fake microphone hears, again and again."""
    path = tmp_path_factory.mktemp("microphone") / "speech.wav"
    wave, _ = audio.read(EXAMPLES / "source.flac", 48000)
    audio.write(path, wave, 48000)
    return path


@pytest.fixture(scope="module")
def browser(microphone: Path) -> Iterator[Browser]:
    with sync_playwright() as driver:
        flags = [*FLAGS, f"--use-file-for-fake-audio-capture={microphone}"]
        browser = driver.chromium.launch(executable_path=find_chromium(), args=flags)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """The page, opened; no error on its console, and no request to another host."""
    context = browser.new_context(permissions=["microphone", "clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(WAIT)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda said: problems.append(said.text) if is_problem(said) else None)
    page.on("request", lambda sent: None if sent.url.startswith(own) else problems.append(sent.url))
    own = (f"http://127.0.0.1:{server.site.port}/", "blob:")
    page.goto(f"http://127.0.0.1:{server.site.port}/#{TOKEN}")
    expect(page.get_by_role("tab", name="Convert")).to_have_attribute("aria-selected", "true")
    assert TOKEN not in page.url
    yield page
    context.close()
    assert not problems


def is_problem(said: ConsoleMessage) -> bool:
    """Chromium itself logs each refused request, with its status."""
    return said.type == "error" and not re.search("status of (404|422)", said.text)


def panel(page: Page, name: str) -> Locator:
    page.get_by_role("tab", name=name).click()
    return page.get_by_role("tabpanel", name=name)


def drop(place: Locator, path: Path) -> None:
    """Drop a file on a card, as from a file manager."""
    data = place.page.evaluate_handle(
        """([content, name]) => {
            const transfer = new DataTransfer();
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            transfer.items.add(new File([bytes], name));
            return transfer;
        }""",
        [base64.b64encode(path.read_bytes()).decode(), path.name],
    )
    place.dispatch_event("drop", {"dataTransfer": data})
    expect(place.locator("li[data-id]")).to_have_count(1)


def convert(page: Page) -> Locator:
    """Convert the examples; the view."""
    view = panel(page, "Convert")
    drop(view.get_by_role("region", name="Source"), EXAMPLES / "source.flac")
    drop(view.get_by_role("region", name="Target"), EXAMPLES / "target.flac")
    view.get_by_role("button", name="Convert", exact=True).click()
    expect(view.get_by_role("region", name="Result")).to_be_visible(timeout=WAIT)
    return view


def downloaded(page: Page, button: Locator) -> bytes:
    with page.expect_download() as download:
        button.click()
    return Path(download.value.path()).read_bytes()


def test_convert_compare_and_download(page: Page, tmp_path: Path, vconv_cli: Cli) -> None:
    view = convert(page)
    expected = tmp_path / "expected.wav"
    assert vconv_cli("convert", EXAMPLES / "source.flac", "-t", EXAMPLES / "target.flac", "-o", expected).code == 0
    made = soundfile.read(io.BytesIO(downloaded(page, view.get_by_role("button", name="Download wav"))))[0]
    np.testing.assert_array_equal(made, soundfile.read(expected)[0])

    view.get_by_role("button", name="Play", exact=True).click()
    position = view.get_by_role("slider", name="Position")
    expect(position).to_have_attribute("aria-valuenow", re.compile(r"[1-9]|0\.[5-9]"))
    page.keyboard.press("3")  # while a button has the focus
    expect(view.get_by_role("radio", name="Target")).to_be_checked()
    page.keyboard.press("Tab")
    page.locator("h2").first.click()  # away from controls, so that keys are the player's
    page.keyboard.press("2")
    expect(view.get_by_role("radio", name="Source")).to_be_checked()
    expect(view.get_by_role("button", name="Pause")).to_be_visible()  # goes on at the same position
    page.keyboard.press(" ")
    expect(view.get_by_role("button", name="Play", exact=True)).to_be_visible()

    view.get_by_role("button", name="Copy as command line").click()
    command = page.evaluate("navigator.clipboard.readText()")
    assert command == "vconv convert source.flac --target target.flac -o source_as_target.wav"
    assert view.get_by_text("the target", exact=True).is_visible()


def test_a_result_is_shown_though_its_source_was_replaced_meanwhile(page: Page) -> None:
    view = panel(page, "Convert")
    source = view.get_by_role("region", name="Source")
    drop(source, EXAMPLES / "source.flac")
    drop(view.get_by_role("region", name="Target"), EXAMPLES / "target.flac")

    def replace(route: Route) -> None:
        source.get_by_role("button", name="Remove source.flac").click()
        route.continue_()

    page.route("**/api/jobs/*/pictures", replace)  # is asked for when the job is done
    view.get_by_role("button", name="Convert", exact=True).click()
    result = view.get_by_role("region", name="Result")
    expect(result).to_be_visible(timeout=WAIT)
    expect(result.get_by_role("radio")).to_have_count(2)  # result and target


def test_a_recorded_source(page: Page) -> None:
    view = panel(page, "Convert")
    source = view.get_by_role("region", name="Source")
    source.get_by_role("button", name="Record").click()
    expect(source.get_by_text(re.compile("Recording 0:0[2-9]"))).to_be_visible(timeout=WAIT)
    source.get_by_role("button", name="Stop").click()
    expect(source.locator("li[data-id]")).to_have_count(1)
    drop(view.get_by_role("region", name="Target"), EXAMPLES / "target.flac")
    page.keyboard.press("Control+Enter")
    expect(view.get_by_role("region", name="Result")).to_be_visible(timeout=WAIT)


def test_a_conversion_is_cancelled(page: Page, tmp_path: Path) -> None:
    wave, rate = audio.read(EXAMPLES / "source.flac")
    audio.write(tmp_path / "long.flac", np.tile(wave, 40), rate)
    view = panel(page, "Convert")
    drop(view.get_by_role("region", name="Source"), tmp_path / "long.flac")
    drop(view.get_by_role("region", name="Target"), EXAMPLES / "target.flac")
    view.get_by_role("button", name="Convert", exact=True).click()
    view.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("Cancelled.")).to_be_visible()
    expect(view.get_by_role("button", name="Convert", exact=True)).to_be_enabled()


def test_many_files_with_a_bad_one(page: Page, tmp_path: Path) -> None:
    bad = tmp_path / "<img src=x onerror=alert(1)>.wav"
    bad.write_text("no audio")
    view = panel(page, "Many files")
    drop(view.get_by_role("region", name="Target"), EXAMPLES / "target.flac")
    view.get_by_label("Sources: files").set_input_files([EXAMPLES / "source.flac", bad, EXAMPLES / "target.flac"])
    view.get_by_role("button", name="Convert all").click()
    expect(view.get_by_text("2 of 3 done, 1 failed")).to_be_visible(timeout=WAIT)
    expect(view.get_by_role("cell", name=bad.name, exact=True)).to_be_visible()  # as text
    assert page.locator("img[src=x]").count() == 0
    archive = zipfile.ZipFile(io.BytesIO(downloaded(page, view.get_by_role("button", name="Download all as zip"))))
    assert archive.namelist() == ["source_as_target.wav", "target_as_target.wav"]


def test_voices_are_made_mixed_moved_exported_and_deleted(page: Page, server: Server) -> None:
    view = panel(page, "Voices")
    library = view.get_by_role("region", name="Your voices")

    def save(kind: str, name: str) -> None:
        view.get_by_label("Name", exact=True).locator("visible=true").fill(name)
        view.get_by_role("button", name="Save").locator("visible=true").click()
        expect(library.get_by_text(name, exact=True)).to_be_visible(timeout=WAIT)

    drop(view.get_by_role("region", name="Recordings").locator("visible=true"), EXAMPLES / "target.flac")
    save("clips", "Ännä")
    view.get_by_text("Dice", exact=True).click()
    view.get_by_label("Number").fill("7")
    save("dice", "Nobody")
    view.get_by_text("Mix", exact=True).click()
    for name, share in (("Ännä", "70"), ("Nobody", "30")):
        view.get_by_role("slider", name=name).fill(share)
    save("mix", "Between")
    view.get_by_text("Move", exact=True).click()
    view.get_by_label("Voice", exact=True).select_option("Nobody")
    view.get_by_role("slider", name="Lower – higher").fill("1.5")
    save("move", "Higher")
    assert {path.stem for path in server.services.library.folder.iterdir()} == {"Ännä", "Nobody", "Between", "Higher"}

    library.get_by_role("button", name="Play Ännä").click()
    expect(library.get_by_role("button", name="Stop Ännä")).to_be_visible(timeout=WAIT)
    content = downloaded(page, library.get_by_role("button", name="Export Higher"))
    assert content == server.services.library.path("Higher").read_bytes()
    page.once("dialog", lambda dialog: dialog.accept())
    library.get_by_role("button", name="Delete Higher").click()
    expect(library.get_by_text("Higher", exact=True)).to_have_count(0)
    imported = {"name": "Higher.npz", "mimeType": "application/octet-stream", "buffer": content}
    view.get_by_label("Voice files").set_input_files(imported)
    expect(library.get_by_text("Higher", exact=True)).to_be_visible()


def test_live_for_five_seconds(page: Page) -> None:
    sent: list[dict] = []
    page.on("websocket", lambda socket: socket.on("framesent", lambda frame: note(frame, sent)))
    view = panel(page, "Live")
    drop(view.get_by_role("region", name="Target"), EXAMPLES / "target.flac")
    view.get_by_role("button", name="Start").click()
    expect(page.locator("[data-state=live]")).to_be_visible(timeout=WAIT)
    latency = view.locator("dt", has_text="Latency").locator("xpath=following-sibling::dd")
    expect(latency).to_have_text(re.compile(r"\d+ ms"), timeout=WAIT)
    pitch = view.get_by_role("slider", name="Pitch")
    pitch.fill("3")
    pitch.dblclick(position={"x": 2, "y": 2})  # the clicks move it first
    page.wait_for_timeout(5000)
    assert {"pitch", "keep_pitch", "bypass"} <= set(sent[1])  # which may have changed since the first message
    assert pitch.input_value() == "0" and sent[-1]["pitch"] == 0
    view.get_by_role("button", name="Mute").focus()
    page.keyboard.press("b")
    expect(view.get_by_role("button", name="Bypass")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("tab", name="Live").click()  # where the page is already
    expect(page.locator("[data-state=live]")).to_be_visible()  # still
    view.get_by_role("button", name="Stop").click()
    expect(view.get_by_role("button", name="Start")).to_be_enabled()


def note(frame: str | bytes, sent: list[dict]) -> None:
    """Settings that the page sends; samples are bytes."""
    if isinstance(frame, str):
        sent.append(json.loads(frame))


def test_without_the_token_the_page_says_what_to_do(browser: Browser, server: Server) -> None:
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{server.site.port}/")
    expect(page.get_by_role("alert")).to_contain_text("open the address that vconv web printed")
    page.evaluate(f"location.hash = '{TOKEN}'")  # as when the address is opened in this tab
    expect(page.get_by_role("tab", name="Convert")).to_have_attribute("aria-selected", "true")
    page.close()
