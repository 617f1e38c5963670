"""The page Try: images dropped, and what a place was compared with."""

from __future__ import annotations

import base64

from browsing import Visit, drawn, hand_in
from playwright.sync_api import expect
from serving import Running

DROP = """([name, type, data]) => {
    const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
    const carried = new DataTransfer();
    carried.items.add(new File([bytes], name, {type}));
    for (const kind of ['dragenter', 'dragover', 'drop'])
        document.querySelector('#drop').dispatchEvent(
            new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer: carried}));
}"""


def test_an_image_is_dropped_and_a_place_compared(visit: Visit, line: Running, bad_png: bytes) -> None:
    visitor = visit()
    page = visitor.login("olga")
    page.get_by_role("link", name="Try").click()
    page.wait_for_load_state()
    expect(page.get_by_text("Nothing handed in yet")).to_be_visible()
    page.evaluate(DROP, ["stain.png", "image/png", base64.b64encode(bad_png).decode()])
    expect(page.locator("#verdict .verdict")).to_have_text("✕BAD")
    drawn(page, ".picture .over")
    page.locator(".picture").click(position={"x": 150, "y": 150})
    expect(page.locator("#nearest figcaption").nth(1)).to_contain_text("on good image 0")
    drawn(page, ".pair img")
    assert visitor.violations() == []
    page.locator(".cross").focus()
    for _ in range(12):
        page.keyboard.press("ArrowLeft")
    before = page.locator("#nearest figcaption").first.inner_text()
    page.keyboard.press("Enter")
    expect(page.locator("#nearest figcaption").first).not_to_have_text(before)
    with line.http() as client:  # what is tried counts for no shift
        assert client.get("/api/v1/counts?from=2020-01-01").json() == []


def test_what_can_not_be_read_is_said(visit: Visit) -> None:
    visitor = visit("phone")
    page = visitor.login("olga")
    page.goto("/try")
    page.set_input_files("#files", {"name": "list.txt", "mimeType": "text/plain", "buffer": b"no image"})
    expect(page.locator(".list .error")).to_contain_text("not an image")
    assert visitor.violations() == []


def test_the_nearest_patch_of_what_was_learnt_is_itself(
    line: Running, mini_dataset_train: list[bytes]
) -> None:
    bank = line.service.models.get("disc").predictor.model.bank
    number = int(bank.image_ids[0])
    found = hand_in(line, mini_dataset_train[number], line="try")
    itself = 0
    with line.http() as client:
        place = f"/api/v1/inspections/{found['id']}/nearest"
        for x in range(20, 80, 4):
            for y in range(20, 80, 4):
                nearest = client.get(place, params={"x": x, "y": y}).json()
                assert nearest["here"]
                if nearest["good_image"] == f"{number:03d}.png" and nearest["box"] == nearest["good_box"]:
                    itself += 1
                    last = nearest
        assert itself >= 1  # where the bank has an entry of just that patch
        assert client.get(last["links"]["image"]).headers["content-type"] == "image/jpeg"
        assert client.get(last["links"]["good_image"]).content == client.get(last["links"]["image"]).content
        assert client.get(place, params={"x": 5000, "y": 1}).status_code == 422
        assert client.get(f"/api/v1/inspections/{'0' * 32}/nearest?x=1&y=1").status_code == 404
