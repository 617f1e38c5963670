from __future__ import annotations

import base64
import csv
import html
import io
import json
import re
import shutil
import subprocess
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from goodparts.errors import ImageError, OutputError
from goodparts.evaluation.evaluation import ClassCount, Evaluation, TestImage
from goodparts.report.page import result_names, summary, write_report
from goodparts.report.plots import PLOTS
from goodparts.report.results_folder import write_zip
from goodparts.report.tables import write_csv, write_metrics

# (path below the test folder, score, borderline); bad above 2, labels from the folder.
ROWS = (
    ("good/000.png", 1.0, False),
    ("good/001.png", 2.5, False),  # a false reject
    ("good/010.png", 1.999, True),
    ("bent/000.png", 4.0, False),
    ("bent/001.png", 1.5, False),  # a miss
    ("stain/000.png", 3.0, False),
    ("stain/001.png", 2.001, True),
)
WORST_FIRST = [
    "bent/000.png",
    "stain/000.png",
    "good/001.png",
    "stain/001.png",
    "good/010.png",
    "bent/001.png",
    "good/000.png",
]


def test_that_test_images_were_learnt_from_is_said() -> None:
    assert "learnt from" not in summary(evaluation())
    assert summary(evaluation(learnt_from=3)).endswith(
        " But the model learnt from 3 of these 7 images, which flatters it."
    )


def evaluation(
    rows: tuple[tuple[str, float, bool], ...] = ROWS,
    *,
    name: str = "washer",
    rule: str = "sigma",
    **metrics: object,
) -> Evaluation:
    images = tuple(
        TestImage(
            path=Path("data/washer/test", path),
            defect_class=path.rpartition("/")[0],
            label=not path.startswith("good/"),
            score=score,
            p_value=0.1 + 0.2,
            verdict="BAD" if score > 2 else "GOOD",
            borderline=borderline,
        )
        for path, score, borderline in rows
    )
    values = {"image_auroc": 0.75, "pixel_auroc": None, "true_good": 2} | metrics
    return Evaluation(name, images, 2.0, rule, float("nan"), np.linspace(1, 2, 20), values, 1.25)  # type: ignore[arg-type]


def draw_panels(
    folder: Path, what: Evaluation, size: tuple[int, int] = (120, 40), *, noise: bool = False
) -> Path:
    """Panels whose colour tells their index; with noise they are hard to compress."""
    rng = np.random.default_rng(0)
    for i, name in enumerate(result_names(what.images)):
        pixels = np.full((size[1], size[0], 3), 10 * i % 250, dtype=np.uint8)
        if noise:
            pixels = rng.integers(0, 256, pixels.shape, dtype=np.uint8)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


class Page(HTMLParser):
    """What is on the page, as far as the tests ask."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._silent = False
        self.feed(self.source)
        self.text = " ".join(" ".join(self.words).replace("\N{NO-BREAK SPACE}", " ").split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._silent = tag in ("script", "style")
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        self._silent = False

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.words.append(data)

    def all(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        found = [attributes for name, attributes in self.tags if name == tag]
        return [a for a in found if all(a.get(key.rstrip("_")) == value for key, value in wanted.items())]

    @property
    def cards(self) -> list[str]:
        return [card["data-name"] for card in self.all("li", class_="card box")]

    @property
    def panels(self) -> list[dict[str, str]]:
        return [image for image in self.all("img") if image["src"].startswith("data:image/webp")]


def report(out: Path, what: Evaluation | None = None, **options: object) -> Page:
    what = what or evaluation()
    if "panels" not in options:
        options["panels"] = draw_panels(out / "panels", what)
    options.setdefault("model", {})
    return Page(write_report(out, what, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong_good", "good", "wrong_bad", "bad", "sentence"),
    [
        (2, 22, 1, 93, "2 of 22 good parts were rejected, 1 of 93 bad parts was missed."),
        (0, 22, 0, 93, "None of 22 good parts was rejected, none of 93 bad parts was missed."),
        (0, 22, 3, 3, "None of 22 good parts was rejected, all of 3 bad parts were missed."),
        (1, 22, 0, 0, "1 of 22 good parts was rejected."),
        (0, 0, 2, 7, "2 of 7 bad parts were missed."),
        (0, 0, 1, 1, "1 of 1 bad parts was missed."),
        (0, 0, 0, 0, "No images were tested."),
    ],
)
def test_in_words(wrong_good: int, good: int, wrong_bad: int, bad: int, sentence: str) -> None:
    rows = [(f"good/{i}.png", 3.0 if i < wrong_good else 1.0, False) for i in range(good)]
    rows += [(f"bent/{i}.png", 1.0 if i < wrong_bad else 3.0, False) for i in range(bad)]
    assert summary(evaluation(tuple(rows))) == sentence


def test_result_names_are_told_apart_on_every_file_system() -> None:
    rows = ("good/a.png", "good/a.jpg", "good/A.bmp", "bent/a.png", "good/a_2.png")
    names = result_names(evaluation(tuple((row, 1.0, False) for row in rows)).images)
    assert names == ("good/a", "good/a_2", "good/A_3", "bent/a", "good/a_2_2")
    assert len({name.lower() for name in names}) == len(rows)


def test_what_was_found_of_each_class(tmp_path: Path) -> None:
    assert evaluation().by_class == (ClassCount("bent", 2, 1, 0), ClassCount("stain", 2, 2, 0))
    text = report(tmp_path).text
    assert "Found, by class of defect class found missed bent 1 of 2 1 stain 2 of 2 0" in text


def test_what_is_to_be_known_of_the_data_is_said(tmp_path: Path) -> None:
    write_report(tmp_path, evaluation(), model={}, panels={}, notes=["2 masks belong to no image: <a>.png"])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert '<p class="note box">2 masks belong to no image: &lt;a&gt;.png</p>' in page


def test_csv_holds_exactly_what_was_measured(tmp_path: Path) -> None:
    what = evaluation((("bent/a, b.png", 0.1 + 0.2, True), ("good/0.png", 1e-17, False)))
    write_csv(tmp_path / "scores.csv", what)
    data = (tmp_path / "scores.csv").read_bytes()
    assert b"\r" not in data
    assert data.endswith(b"\n")
    rows = list(csv.DictReader(io.StringIO(data.decode())))
    assert [float(row["score"]) for row in rows] == [0.1 + 0.2, 1e-17]
    assert [float(row["p_value"]) for row in rows] == [0.1 + 0.2] * 2
    assert rows[0] == {
        "image": "bent/a, b.png",
        "defect_class": "bent",
        "label": "bad",
        "score": "0.30000000000000004",
        "p_value": "0.30000000000000004",
        "verdict": "GOOD",
        "borderline": "true",
    }


@pytest.mark.parametrize(
    ("root", "first"),
    [
        (None, "good/000.png"),
        (Path("data/washer"), "test/good/000.png"),
        (Path("elsewhere"), "data/washer/test/good/000.png"),
    ],
)
def test_csv_paths_are_relative(tmp_path: Path, root: Path | None, first: str) -> None:
    write_csv(tmp_path / "scores.csv", evaluation(), root=root)
    assert (tmp_path / "scores.csv").read_text().splitlines()[1].startswith(f"{first},good,good,1.0,")


def test_csv_of_no_images_has_a_header(tmp_path: Path) -> None:
    write_csv(tmp_path / "scores.csv", evaluation(()))
    assert (
        tmp_path / "scores.csv"
    ).read_text() == "image,defect_class,label,score,p_value,verdict,borderline\n"


def test_metrics_are_json_without_nan(tmp_path: Path) -> None:
    what = evaluation(
        odd=float("nan"), far=float("inf"), single=np.float32(0.5), count=np.int64(3), name="größe"
    )
    write_metrics(tmp_path / "metrics.json", what)

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    values = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert values["image_auroc"] == 0.75
    assert [values[key] for key in ("pixel_auroc", "odd", "far", "oracle_threshold")] == [None] * 4
    assert (values["single"], values["count"], values["images"], values["name"]) == (0.5, 3, 7, "größe")


def test_the_page_needs_no_network(tmp_path: Path) -> None:
    page = report(tmp_path, model={"backbone_source": "https://example.org/weights"})
    for tag, attributes in page.tags:
        for key in ("src", "href", "srcset", "action", "poster"):
            assert not re.match(r"(?i)\s*(https?:)?//", attributes.get(key, "")), (tag, attributes)
    assert not page.all("link")
    assert "url(" not in page.source
    assert "@import" not in page.source
    policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_the_page_says_what_happened_in_words(tmp_path: Path) -> None:
    page = report(tmp_path)
    assert "1 of 3 good parts was rejected, 1 of 4 bad parts was missed." in page.text
    assert "2 verdicts are borderline" in page.text
    assert (
        "With 95 % confidence the true share of rejected good parts lies between 0.8 % and 90.6 %"
        in page.text
    )
    assert "oracle" not in page.text.lower().replace("(oracle)", "")
    assert "of the pixels were not looked at" not in page.text


def test_an_oracle_threshold_is_called_one(tmp_path: Path) -> None:
    assert "The threshold is an oracle." in report(tmp_path, evaluation(rule="f1")).text


def test_what_was_not_looked_at_is_stated(tmp_path: Path) -> None:
    assert (
        "23.4 % of the pixels were not looked at."
        in report(tmp_path, model={"share_not_looked_at": 0.234}).text
    )


def test_metrics_are_explained_and_undefined_ones_say_why(tmp_path: Path) -> None:
    page = report(tmp_path)
    assert "Image AUROC 75.0 % what this means The chance that a bad part has a higher score" in page.text
    assert "Pixel AUROC undefined" in page.text
    assert "lacks good images, bad images or masks" in page.text
    assert "true_good 2" in page.text


def test_cards_come_worst_first_without_script(tmp_path: Path) -> None:
    page = report(tmp_path)
    assert page.cards == WORST_FIRST
    assert [image["alt"].partition(":")[0] for image in page.panels] == WORST_FIRST
    for image in page.panels:
        with Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))) as picture:
            index = [row[0] for row in ROWS].index(image["alt"].partition(":")[0])
            assert picture.size == (120, 40)
            assert np.asarray(picture).mean() == pytest.approx(10 * index, abs=6)


def test_every_card_says_class_verdict_score_and_rarity(tmp_path: Path) -> None:
    text = report(tmp_path).text
    assert (
        "BAD FALSE REJECT good/001.png 1.25 × threshold class good score 2.5 30 good parts in 100 score this high"
        in text
    )
    assert (
        "GOOD MISSED bent/001.png 0.75 × threshold class bent score 1.5 30 good parts in 100 score this high"
        in text
    )
    assert (
        "BAD BORDERLINE stain/001.png 1.0005 × threshold class stain score 2.001 30 good parts in 100 score this high"
        in text
    )
    assert (
        "GOOD good/000.png 0.50 × threshold class good score 1 30 good parts in 100 score this high" in text
    )


def test_every_control_and_picture_has_a_name(tmp_path: Path) -> None:
    write_report(tmp_path, evaluation(), model={}, panels={})
    for name in PLOTS:
        Image.new("RGB", (30, 20)).save(tmp_path / name)
    page = report(tmp_path)
    assert all(image.get("alt") for image in page.all("img") if image.get("id") != "large")
    assert len([image for image in page.all("img") if image["src"].startswith("data:image/png")]) == 4
    assert all(button.get("type") == "button" for button in page.all("button"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert page.all("html", lang="en")
    assert page.all("meta", name="viewport")


def test_names_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('1')</script>\"&amp;"
    rows = ((f'{evil.replace("/", "")}/x" onload=y.png', 3.0, False),)
    page = report(
        tmp_path,
        evaluation(rows, name=evil),
        panels={},
        model={"name": evil, "recipe": evil, "card": [{"title": evil, "lines": [evil]}], evil: evil},
    )
    assert len(page.all("script")) == 2
    assert page.all("li", class_="card box")[0]["data-name"] == f'{evil.replace("/", "")}/x" onload=y.png'
    assert page.text.count(html.unescape(html.escape(evil))) >= 6


def test_names_that_are_no_text_are_written(tmp_path: Path) -> None:
    """On Linux a file name may be any bytes; Python keeps those that are no UTF-8 as lone surrogates."""
    what = evaluation((("good/pr\udcfcfling.png", 1.0, False),), name="pr\udcfcf")
    assert "good/pr?fling.png" in report(tmp_path, what, panels={}).text
    write_csv(tmp_path / "scores.csv", what)
    assert "pr?fling.png,good" in (tmp_path / "scores.csv").read_text(encoding="utf-8")
    write_metrics(tmp_path / "metrics.json", what)
    assert json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["name"] == "pr?f"


def test_the_model_is_described(tmp_path: Path) -> None:
    model = {
        "backbone": "resnet50",
        "backbone_licence": "Apache-2.0",
        "training_images": 17248,
        "inspect_ms": 31.25678,
        "recipe": 'backbone = "resnet50"\n',
        "card": [{"title": "The decision", "lines": ["held out: 220 good images"]}],
        "camera": "line 3",
        "identity": None,
    }
    text = report(tmp_path, model=model).text
    for words in (
        "backbone resnet50",
        "backbone, licence Apache-2.0",
        "good images learnt from 17,248",
        "time to inspect an image, ms 31.26",
        'backbone = "resnet50"',
        "held out: 220 good images",
        "camera line 3",
    ):
        assert words in text
    assert "identity" not in text


@pytest.mark.parametrize("rows", [(), ROWS[:3], ROWS[3:]], ids=["none", "good", "bad"])
def test_test_sets_of_one_class_are_reported(
    tmp_path: Path, rows: tuple[tuple[str, float, bool], ...]
) -> None:
    page = report(tmp_path, evaluation(rows))
    assert len(page.cards) == len(rows)
    assert len(page.all("section", class_="kind box")) == bool(rows)


def test_panels_that_are_missing_leave_their_cards(tmp_path: Path) -> None:
    panels = draw_panels(tmp_path / "panels", evaluation())
    (panels / "good" / "000.png").unlink()
    page = report(tmp_path, panels=panels)
    assert page.cards == WORST_FIRST
    assert len(page.panels) == 6
    assert "6 of 7 images are shown with their picture" in page.text


def test_a_damaged_panel_is_named(tmp_path: Path) -> None:
    panels = draw_panels(tmp_path / "panels", evaluation())
    (panels / "good" / "000.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"000\.png"):
        report(tmp_path, panels=panels)


def test_panels_are_scaled_down_until_all_fit(tmp_path: Path) -> None:
    panels = draw_panels(tmp_path / "panels", evaluation(), (400, 140), noise=True)
    widths = []
    for limit in (10**7, 400_000, 220_000):
        page = report(tmp_path, panels=panels, size_limit=limit)
        assert len(page.source.encode()) <= limit
        assert len(page.panels) == 7
        widths.append(int(page.panels[0]["width"]))
    assert widths[0] == 400
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 400


def test_when_not_all_panels_fit_the_most_telling_are_shown(tmp_path: Path) -> None:
    what = evaluation()
    panels = draw_panels(tmp_path / "panels", what, (600, 200), noise=True)
    bare = len(report(tmp_path, what, panels=panels, size_limit=0).source.encode())
    shown = []
    for extra in (0, 60_000, 120_000, 150_000, 200_000):
        page = report(tmp_path, what, panels=panels, size_limit=bare + extra)
        assert len(page.source.encode()) <= bare + extra
        assert page.cards == WORST_FIRST, "all images are listed"
        shown.append({image["alt"].partition(":")[0] for image in page.panels})
        if shown[-1] != set(WORST_FIRST):
            assert f"{len(shown[-1])} of 7 images are shown with their picture" in page.text
    assert shown[0] == set()
    order = ["good/001.png", "bent/001.png", "stain/001.png", "good/010.png", "bent/000.png"]
    for names in shown:
        assert names == set(order[: len(names)]) or len(names) > len(order)
    assert 0 < len(shown[1]) < 7


def test_pictures_left_out_are_linked(tmp_path: Path) -> None:
    rows = (("bent/50 % #1.png", 3.0, False),)
    what = evaluation(rows)
    panels = draw_panels(tmp_path / "panels", what)
    page = report(tmp_path, what, panels=panels, size_limit=0)
    assert page.all("a", class_="file") == [{"class": "file", "href": "panels/bent/50%20%25%20%231.png"}]


def test_progress_is_told(tmp_path: Path) -> None:
    reported: list[tuple[str, int, int]] = []
    report(tmp_path, progress=lambda *state: reported.append(state))
    assert reported == [("report", done, 7) for done in range(1, 8)]


def test_the_same_evaluation_gives_the_same_page(tmp_path: Path) -> None:
    assert report(tmp_path).source == report(tmp_path).source


def fill(out: Path) -> None:
    for name in ("report.html", "metrics.json", "scores.csv", "recipe.toml", *PLOTS, "washer.goodparts"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(f"content of {name} " * 100)
    for name in ("panels/bent/000.png", "masks/bent/000.png", "maps/bent/000.tiff", "panels/.left.part"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(f"content of {name} " * 100)


@pytest.mark.parametrize("everything", [False, True])
def test_zip_holds_the_results(tmp_path: Path, everything: bool) -> None:
    fill(tmp_path)
    path = write_zip(tmp_path, everything=everything)
    expected = {"report.html", "metrics.json", "scores.csv", "recipe.toml", *PLOTS}
    expected |= {"panels/bent/000.png", "masks/bent/000.png"}
    expected |= {"maps/bent/000.tiff", "washer.goodparts"} if everything else set()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == sorted(expected)
        for member in archive.infolist():
            assert archive.read(member) == (tmp_path / member.filename).read_bytes()
            stored = member.filename.endswith((".png", ".goodparts"))
            assert (member.compress_type == zipfile.ZIP_STORED) == stored
            assert member.date_time == (1980, 1, 1, 0, 0, 0)
    assert not list(tmp_path.glob(".results*"))


def test_zip_is_the_same_every_time(tmp_path: Path) -> None:
    fill(tmp_path)
    first = write_zip(tmp_path).read_bytes()
    (tmp_path / "scores.csv").touch()
    assert write_zip(tmp_path).read_bytes() == first


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("scores.csv", lambda out: write_csv(out / "scores.csv", evaluation())),
        ("metrics.json", lambda out: write_metrics(out / "metrics.json", evaluation())),
        ("report.html", lambda out: write_report(out, evaluation(), model={}, panels={})),
        ("results.zip", lambda out: write_zip(out)),
    ],
)
def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, name: str, write) -> None:
    (tmp_path / name / "in the way").mkdir(parents=True)
    with pytest.raises(OutputError, match=re.escape(name)):
        write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name], "nothing half-written is left"


# Works the page as a person would and leaves what it saw in the page itself, for --dump-dom to show.
WORK_THE_PAGE = """
<script>
(() => {
  const seen = {}, $ = (id) => document.getElementById(id);
  const shown = () => [...document.querySelectorAll(".card")].filter((c) => !c.hidden).map((c) => c.dataset.name);
  const set = (id, value, event) => { $(id).value = value; $(id).dispatchEvent(new Event(event)); };
  const press = (key) => $("viewer").dispatchEvent(new KeyboardEvent("keydown", { key }));
  const chip = (name) => document.querySelector(`[data-show="${name}"]`).click();
  addEventListener("error", (event) => { seen.error = String(event.message); });
  seen.start = shown();
  for (const order of ["worst", "best", "nearest", "name", "class"]) {
    set("sort", order, "change");
    seen[order] = shown();
  }
  set("sort", "worst", "change");
  for (const name of ["MISSED", "FALSE REJECT", "borderline", "all"]) { chip(name); seen["only " + name] = shown(); }
  set("class", "stain", "change"); seen["class stain"] = shown(); seen.count = $("count").textContent;
  set("search", "nowhere", "input"); seen.empty = [shown().length, $("empty").hidden];
  $("reset").click(); seen.reset = shown().length;
  set("search", "BENT 001", "input"); seen.search = shown(); set("search", "", "input");
  document.querySelector('[data-jump="MISSED"]').click(); seen.jump = shown(); chip("all");
  document.querySelector(".card a").click();
  seen.open = [$("viewer").open, $("large").alt.split(":")[0], $("previous").disabled];
  press("ArrowRight"); press("ArrowRight"); press("ArrowLeft"); seen.step = $("large").alt.split(":")[0];
  for (let i = 0; i < 20; i += 1) press("ArrowRight");
  seen.last = [$("large").alt.split(":")[0], $("next").disabled];
  $("close").click(); seen.closed = !$("viewer").open;
  document.body.dataset.seen = JSON.stringify(seen);
})();
</script></body>"""


def test_the_script_sorts_filters_and_enlarges(tmp_path: Path) -> None:
    browser = next(
        (
            found
            for name in ("chromium", "chromium-browser", "google-chrome")
            if (found := shutil.which(name))
        ),
        None,
    )
    if browser is None:
        pytest.skip("no Chromium here")
    page = report(tmp_path)
    worked = tmp_path / "worked.html"
    worked.write_text(page.source.replace("</body>", WORK_THE_PAGE), encoding="utf-8")
    options = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --dump-dom"
    )
    command = [browser, *options.split(), f"--user-data-dir={tmp_path / 'profile'}", worked.as_uri()]
    dom = subprocess.run(command, capture_output=True, timeout=120, check=True).stdout.decode()
    found = re.search(r'data-seen="([^"]*)"', dom)
    assert found, "the script stopped before its end"
    seen = json.loads(html.unescape(found[1]))
    nearest = seen.pop("nearest")
    assert set(nearest[:2]) == {"good/010.png", "stain/001.png"}
    assert set(nearest[2:4]) == {"good/001.png", "bent/001.png"}
    assert seen == {
        "start": WORST_FIRST,
        "worst": WORST_FIRST,
        "best": WORST_FIRST[::-1],
        "name": sorted(WORST_FIRST),
        "class": [name for start in "bgs" for name in WORST_FIRST if name.startswith(start)],
        "only MISSED": ["bent/001.png"],
        "only FALSE REJECT": ["good/001.png"],
        "only borderline": ["stain/001.png", "good/010.png"],
        "only all": WORST_FIRST,
        "class stain": ["stain/000.png", "stain/001.png"],
        "count": "2 of 7 images",
        "empty": [0, False],
        "reset": 7,
        "search": ["bent/001.png"],
        "jump": ["bent/001.png"],
        "open": [True, "bent/000.png", True],
        "step": "stain/000.png",
        "last": ["good/000.png", True],
        "closed": True,
    }
