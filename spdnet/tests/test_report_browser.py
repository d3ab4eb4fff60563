"""The report in a real browser: what is on the screen is what is in the files.

Needs playwright and a Chromium: the one that SPD_CHROMIUM names, else one found on the path.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spdnet.cli.report import main
from spdnet.report.cases import CaseData, read_case
from spdnet.report.planes import choose_grey_scale
from spdnet.report.sources import prediction_source
from spdnet.tests.report_data import DATASET_JSON, SHAPE_ZYX, ReportFolders, write_report_data
from spdnet.tests.tiny import write_volume

pytestmark = pytest.mark.browser
sync_api = pytest.importorskip("playwright.sync_api")

LAST = SHAPE_ZYX[0] - 1
WORST = LAST - 3
KEPT, SALIENCY, PREDICTION = (0, 158, 115), (204, 121, 167), (230, 159, 0)
HOSTILE = "<img src=x onerror=\"document.title='broken'\"><b>&amp;'"


def find_chromium() -> str | None:
    """A Chromium to drive."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return os.environ.get("SPD_CHROMIUM") or next((path for name in names if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A running browser."""
    executable = find_chromium()
    if executable is None:
        pytest.skip("no Chromium: install one (apt-get install chromium) or name it with SPD_CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> ReportFolders:
    """Two cases with fates and saliency."""
    return write_report_data(tmp_path_factory.mktemp("report") / "data")


@pytest.fixture(scope="module")
def report(folders: ReportFolders) -> Path:
    """One prediction, all in one file."""
    page = folders.root / "one.html"
    main([*folders.arguments(), "-o", str(page)])
    return page


@pytest.fixture(scope="module")
def comparison(folders: ReportFolders) -> Path:
    """Two predictions, cases in files of their own."""
    page = folders.root / "two.html"
    main([*folders.arguments("preds", "other"), "-names", "SPD", "other", "-o", str(page), "--split"])
    return page


@pytest.fixture(scope="module")
def data(folders: ReportFolders) -> CaseData:
    """The first case, as the report reads it."""
    source = prediction_source(folders.images, [folders.predictions()], references=folders.references)
    return read_case(source.cases[0], source)


class Screen:
    """A page under test, with everything that it complained of or asked for."""

    def __init__(self, browser: Any, file: Path, place: str = "", width: int = 1300, scheme: str = "light") -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 850}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri() + place)

    def wait_for_slice(self, index: int, case: str = "case_a") -> None:
        """Until every pane shows a slice."""
        condition = """([index, name]) => { const all = [...document.querySelectorAll("#panes canvas")];
            return all.length > 0 && all.every((c) => c.dataset.slice == index && c.dataset.case === name); }"""
        self.page.wait_for_function(condition, arg=[index, case], timeout=5000)
        self.settle()

    def settle(self) -> None:
        """Until what was asked for is drawn."""
        frame = "() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 40)))"
        for _ in range(2):
            self.page.evaluate(frame)

    def view(self, pane: int = 0) -> np.ndarray:
        """Origin x, y and scale x, y of a pane."""
        text = self.page.locator("#panes canvas").nth(pane).get_attribute("data-view")
        return np.array([float(v) for v in text.split()])

    def place(self, y: float, x: float, pane: int = 0) -> tuple[float, float]:
        """Where the centre of an image pixel is on a pane, x, y."""
        x0, y0, sx, sy = self.view(pane)
        return float(x0 + (x + 0.5) * sx), float(y0 + (y + 0.5) * sy)

    def colour(self, y: float, x: float, pane: int = 0) -> tuple[int, int, int]:
        """What is drawn at an image pixel."""
        at = [int(v) for v in self.place(y, x, pane)]
        canvas = self.page.locator("#panes canvas").nth(pane)
        read = """(c, [x, y]) => {
            const copy = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
            copy.drawImage(c, -x, -y);
            return [...copy.getImageData(0, 0, 1, 1).data].slice(0, 3); }"""
        return tuple(canvas.evaluate(read, at))

    def uncheck_smooth(self) -> None:
        """Show pixels as they are."""
        self.page.locator("#smooth").uncheck()
        self.settle()


@pytest.fixture
def screens(chromium: Any) -> Iterator[Any]:
    """Opens pages; at the end none may have complained or used a network."""
    opened: list[Screen] = []

    def open_page(file: Path, place: str = "", **options: Any) -> Screen:
        opened.append(Screen(chromium, file, place, **options))
        return opened[-1]

    yield open_page
    for screen in opened:
        screen.context.close()
        assert screen.complaints == []
        assert all(url.startswith(("file:", "data:")) for url in screen.requests)


def close_to(first: Any, second: Any, tolerance: float) -> bool:
    return bool(np.abs(np.subtract(first, second)).max() <= tolerance)


# ---- the right slice --------------------------------------------------------------------------------------------


def test_the_image_alone_is_the_slice_of_the_file_in_its_window(screens: Any, report: Path, data: CaseData) -> None:
    screen = screens(report, "#case=case_a&slice=2")
    screen.wait_for_slice(2)
    screen.uncheck_smooth()
    low, high = choose_grey_scale(data.image, None).shown
    for s in (2, 3):
        for y, x in ((0, 0), (5, 20), (12, 9), (29, 25), (17, 3)):
            expected = 255 * np.clip((data.image[s, y, x] - low) / (high - low), 0, 1)
            assert close_to(screen.colour(y, x), (expected,) * 3, 3), (s, y, x)
        screen.page.keyboard.press("ArrowDown")
        screen.wait_for_slice(s + 1)


def test_every_way_to_scroll_leads_to_its_slice(screens: Any, report: Path) -> None:
    screen = screens(report, "#case=case_a&slice=3")
    screen.wait_for_slice(3)
    press = screen.page.keyboard.press
    for key, expected in (
        ("ArrowDown", 4), ("ArrowUp", 3), ("ArrowRight", 4), ("ArrowLeft", 3), ("End", LAST), ("Home", 0),
        ("PageDown", LAST), ("PageUp", 0), ("ArrowUp", 0), ("w", WORST),
    ):  # fmt: skip
        press(key)
        screen.wait_for_slice(expected)
    screen.page.locator("#panes canvas").first.hover()
    screen.page.mouse.wheel(0, 100)
    screen.wait_for_slice(WORST + 1)
    screen.page.mouse.wheel(0, -100)
    screen.wait_for_slice(WORST)
    screen.page.locator("#slice").focus()
    press("ArrowRight")
    screen.wait_for_slice(WORST + 1)
    screen.page.locator("#slice").fill("1")
    screen.wait_for_slice(1)
    box = screen.page.locator(".strip canvas").bounding_box()
    screen.page.mouse.click(box["x"] + box["width"] * 5.5 / SHAPE_ZYX[0], box["y"] + 20)
    screen.wait_for_slice(5)
    screen.page.locator("#previous-slice").click()
    screen.wait_for_slice(4)
    screen.page.wait_for_url("**/*#case=case_a&slice=4", timeout=3000)


def test_pixels_keep_their_shape_also_when_closer(screens: Any, report: Path) -> None:
    for width in (390, 1300):
        screen = screens(report, "#case=case_a&slice=2", width=width)
        screen.wait_for_slice(2)
        _, _, sx, sy = screen.view()
        assert sy / sx == pytest.approx(1.5)
        screen.page.keyboard.press("+")
        screen.settle()
        _, _, closer_x, closer_y = screen.view()
        assert closer_x == pytest.approx(1.5 * sx) and closer_y / closer_x == pytest.approx(1.5)
        screen.page.keyboard.press("0")
        screen.settle()
        assert screen.view()[2] == pytest.approx(sx)


def test_the_window_can_be_moved_and_reset(screens: Any, report: Path, data: CaseData) -> None:
    screen = screens(report, "#case=case_a&slice=2")
    screen.wait_for_slice(2)
    screen.uncheck_smooth()
    y, x = np.argwhere(data.reference[2] == 1).mean(axis=0).round().astype(int)
    before = screen.colour(y, x)
    screen.page.locator("#level").fill("255")
    screen.settle()
    assert screen.colour(y, x)[0] < before[0]
    screen.page.keyboard.press("r")
    screen.settle()
    assert close_to(screen.colour(y, x), before, 1)
    screen.page.locator("#panes canvas").first.hover()
    screen.page.mouse.down(button="right")
    screen.page.mouse.move(500, 600, steps=3)
    screen.page.mouse.up(button="right")
    screen.settle()
    assert not close_to(screen.colour(y, x), before, 3)


# ---- masks, saliency, points ------------------------------------------------------------------------------------


def test_masks_are_filled_where_they_are(screens: Any, report: Path, data: CaseData) -> None:
    screen = screens(report, f"#case=case_a&slice={WORST}")
    screen.wait_for_slice(WORST)
    screen.uncheck_smooth()
    for key in "42f":  # no points, no reference, fills
        screen.page.keyboard.press(key)
    screen.settle()
    mask = data.predictions[0].label_map[WORST] > 0
    inner = mask & np.roll(mask, 1, 0) & np.roll(mask, -1, 0) & np.roll(mask, 1, 1) & np.roll(mask, -1, 1)
    far = ~(mask | np.roll(mask, 1, 0) | np.roll(mask, -1, 0) | np.roll(mask, 1, 1) | np.roll(mask, -1, 1))
    for y, x in [*np.argwhere(inner)[::7], *np.argwhere(far)[::60]]:
        plain, shown = screen.colour(y, x, 0), screen.colour(y, x, 1)
        expected = 0.55 * np.array(plain) + 0.45 * np.array(PREDICTION) if inner[y, x] else plain
        if not (abs(x - 0) < 2 or abs(x - 25) < 2 or abs(y - 0) < 2 or abs(y - 29) < 2):  # letters
            assert close_to(shown, expected, 4), (y, x)
    screen.page.keyboard.press("1")
    screen.settle()
    y, x = np.argwhere(inner)[0]
    assert close_to(screen.colour(y, x, 1), screen.colour(y, x, 0), 1), "hidden"


def test_contours_run_along_the_edges_of_pixels(screens: Any, report: Path, data: CaseData) -> None:
    screen = screens(report, "#case=case_a&slice=2")
    screen.wait_for_slice(2)
    for key in "42":
        screen.page.keyboard.press(key)
    screen.settle()
    mask = data.predictions[0].label_map[2] == 1
    y, x = np.argwhere(mask & ~np.roll(mask, 1, 0))[2]  # top edges
    assert close_to(screen.colour(y - 0.5, x, 1), PREDICTION, 30)
    assert not close_to(screen.colour(y + 0.2, x, 1), PREDICTION, 30)


def test_a_class_can_be_shown_alone(screens: Any, report: Path, data: CaseData) -> None:
    screen = screens(report, "#case=case_a&slice=2")
    screen.wait_for_slice(2)
    for key in "42f":
        screen.page.keyboard.press(key)
    screen.page.locator("#class").select_option(label="right")
    screen.uncheck_smooth()
    for value, is_shown in ((1, False), (2, True)):
        y, x = np.argwhere(data.predictions[0].label_map[2] == value).mean(axis=0).round().astype(int)
        assert close_to(screen.colour(y, x, 1), screen.colour(y, x, 0), 2) != is_shown


def test_saliency_lies_over_the_target_only(screens: Any, report: Path, data: CaseData) -> None:
    screen = screens(report, "#case=case_a&slice=2")
    screen.wait_for_slice(2)
    for key in "124":
        screen.page.keyboard.press(key)
    screen.uncheck_smooth()
    y, x = np.argwhere(data.reference[2] == 1).mean(axis=0).round().astype(int)
    plain = screen.colour(y, x, 0)
    assert close_to(screen.colour(y, x, 1), plain, 1)
    screen.page.keyboard.press("3")
    screen.settle()
    share = 0.6 * 0.9
    assert close_to(screen.colour(y, x, 1), (1 - share) * np.array(plain) + share * np.array(SALIENCY), 5)
    assert close_to(screen.colour(27, 12, 1), screen.colour(27, 12, 0), 1)


def fates_of(folders: ReportFolders, judged_for: int) -> list[dict[str, str]]:
    with (folders.predictions() / "prompts" / "case_a.csv").open(encoding="utf-8") as stream:
        return [row for row in csv.DictReader(stream) if int(row["judged_for_slice"]) == judged_for]


def test_the_points_of_a_slice_are_those_of_the_table(
    screens: Any, report: Path, folders: ReportFolders, data: CaseData
) -> None:
    kinds = {"kept: local": "kept", "kept: from a neighbouring slice": "borrowed"}
    screen = screens(report)
    screen.page.locator("#to-cases").click()
    for s in range(SHAPE_ZYX[0]):
        screen.page.locator("#slice").fill(str(s))
        screen.wait_for_slice(s)
        items = screen.page.locator("#point-list button.point")
        shown = [(i.get_attribute("data-kind"), float(i.get_attribute("data-x"))) for i in items.all()]
        rows = [r for r in fates_of(folders, s) if r["fate"] != "rejected: not salient here"]
        assert sorted(k for k, _ in shown) == sorted(kinds.get(r["fate"], "rejected") for r in rows)
        own = [p for p in data.predictions[0].points if p.target_slice == s and p.fate.is_kept]
        assert sorted(x for k, x in shown if k != "rejected") == pytest.approx(sorted(p.x for p in own), abs=0.01)


def test_points_are_drawn_and_told_where_they_lie(screens: Any, report: Path, data: CaseData) -> None:
    point = next(p for p in data.predictions[0].points if p.fate.name == "KEPT_LOCAL")
    s = point.target_slice
    screen = screens(report, f"#case=case_a&slice={s}")
    screen.wait_for_slice(s)
    assert close_to(screen.colour(point.y, point.x, 1), KEPT, 12)
    canvas = screen.page.locator("#panes canvas").nth(1)
    x, y = screen.place(point.y, point.x, 1)
    canvas.hover(position={"x": x, "y": y})
    tooltip = screen.page.locator("#tooltip")
    assert f"saliency here {point.saliency:.2f}, threshold 0.50" in tooltip.inner_text()
    assert "Point as given" in tooltip.inner_text()
    for kind in ("kept", "raw", "rejected"):
        screen.page.locator(f"#show-{kind}").uncheck()
    screen.settle()
    assert not close_to(screen.colour(point.y, point.x, 1), KEPT, 12)
    canvas.hover(position={"x": x + 1, "y": y})
    assert not tooltip.is_visible()


def test_a_borrowed_point_leads_to_its_lender(screens: Any, report: Path, data: CaseData) -> None:
    point = next(p for p in data.predictions[0].points if p.fate.name == "KEPT_CONTEXT")
    screen = screens(report, f"#case=case_a&slice={point.target_slice}")
    screen.wait_for_slice(point.target_slice)
    canvas = screen.page.locator("#panes canvas").nth(1)
    x, y = screen.place(point.y, point.x, 1)
    canvas.hover(position={"x": x, "y": y})
    assert (
        f"from slice {point.source_slice}, saliency there {point.own_saliency:.2f}"
        in screen.page.locator("#tooltip").inner_text()
    )
    canvas.click(position={"x": x + 26, "y": y - 19})  # the tag
    screen.wait_for_slice(point.source_slice)
    screen.page.locator("#slice").fill(str(point.target_slice))
    screen.wait_for_slice(point.target_slice)
    screen.page.locator("#point-list button.jump", has_text=f"slice {point.source_slice}").first.click()
    screen.wait_for_slice(point.source_slice)


# ---- overview and comparison ------------------------------------------------------------------------------------


def test_the_worst_case_is_first_and_opens_at_its_worst_slice(screens: Any, comparison: Path) -> None:
    screen = screens(comparison)
    rows = screen.page.locator("#overview-page table").first.locator("tbody tr")
    scores = [float(row.locator("td.number").first.inner_text()) for row in rows.all()]
    assert len(scores) == 4 and scores == sorted(scores) and scores[-1] == 1
    heading = screen.page.locator("th[data-key=dsc] button")
    heading.click()
    assert float(rows.first.locator("td.number").first.inner_text()) == 1
    heading.click()
    name = rows.first.locator("button.link").inner_text()
    rows.first.locator("button.link").click()
    screen.wait_for_slice(WORST, name)
    screen.page.locator("#to-overview").click()
    screen.page.locator("#score-filter").fill("case_b")
    assert rows.count() == 2


def test_predictions_stand_side_by_side_on_one_slice(screens: Any, comparison: Path) -> None:
    screen = screens(comparison, "#case=case_b&slice=2")
    screen.wait_for_slice(2, "case_b")
    canvases = screen.page.locator("#panes canvas")
    assert canvases.count() == 2
    assert [n.inner_text() for n in screen.page.locator("#panes .name").all()] == ["SPD", "other"]
    assert screen.page.locator("#panes .score").nth(1).inner_text() == "DSC 1.00"
    canvases.nth(1).hover()
    screen.page.mouse.wheel(0, 100)
    screen.wait_for_slice(3, "case_b")
    screen.page.keyboard.press("p")
    screen.wait_for_slice(3, "case_a")
    assert any("two_files/case_0000.js" in url for url in screen.requests)


def test_a_case_without_reference_stands_beside_scored_ones(screens: Any, tmp_path: Path) -> None:
    folders = write_report_data(tmp_path / "data")
    (folders.references / "case_a.nii.gz").unlink()
    main([*folders.arguments(), "-o", str(tmp_path / "r.html")])
    screen = screens(tmp_path / "r.html")
    rows = screen.page.locator("#overview-page table").first.locator("tbody tr")
    assert [row.locator("td").nth(1).inner_text() for row in rows.all()][1] == "–"
    rows.nth(1).locator("button.link").click()
    screen.page.wait_for_selector("canvas[data-case=case_a]")
    screen.settle()
    assert not screen.page.locator("#reference-option").is_visible()
    assert screen.page.locator("#worst-slice").is_disabled()
    screen.page.keyboard.press("n")
    screen.page.wait_for_selector("canvas[data-case=case_b]")
    assert screen.page.locator("#reference-option").is_visible()


def test_a_missing_case_file_is_named_on_the_page(chromium: Any, comparison: Path, tmp_path: Path) -> None:
    moved = tmp_path / "two.html"
    shutil.copyfile(comparison, moved)
    screen = Screen(chromium, moved, "#case=case_a")
    screen.page.locator("#message").wait_for()
    assert "two_files/case_0000.js" in screen.page.locator("#message").inner_text()
    screen.context.close()


def test_all_can_be_done_with_the_keyboard(screens: Any, report: Path) -> None:
    screen = screens(report)
    press, focused = screen.page.keyboard.press, "document.activeElement.id || document.activeElement.textContent"
    seen = []
    for _ in range(30):
        press("Tab")
        seen.append(screen.page.evaluate(focused))
        if seen[-1] in ("case_a", "case_b"):
            break
    assert {"to-overview", "to-cases", "theme"} <= set(seen)
    press("Enter")
    screen.wait_for_slice(WORST, seen[-1])
    reachable = set()
    for _ in range(60):
        press("Tab")
        reachable.add(screen.page.evaluate(focused))
    assert reachable >= {
        "slice",
        "case",
        "show-prediction",
        "show-saliency",
        "show-kept",
        "level",
        "zoom-in",
        "worst-slice",
    }


# ---- appearance -------------------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    return float(np.mean([int(v) for v in colour[colour.index("(") + 1 : -1].split(",")[:3]]))


@pytest.mark.parametrize("width", [390, 800, 1600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_narrow_and_wide_light_and_dark(
    screens: Any, report: Path, comparison: Path, scheme: str, width: int
) -> None:
    for file in (report, comparison):
        screen = screens(file, width=width, scheme=scheme)
        for part in ("#to-overview", "#to-cases"):
            screen.page.locator(part).click()
            screen.settle()
            assert screen.page.evaluate("document.documentElement.scrollWidth") <= width
        screen.wait_for_slice(int(screen.page.locator("#slice").input_value()))
        background = screen.page.evaluate("getComputedStyle(document.body).backgroundColor")
        text = screen.page.evaluate("getComputedStyle(document.body).color")
        assert (luminance(background) > luminance(text)) == (scheme == "light")


def test_the_theme_can_be_chosen(screens: Any, report: Path) -> None:
    screen = screens(report, scheme="light")
    button, background = screen.page.locator("#theme"), "getComputedStyle(document.body).backgroundColor"
    shades = []
    for expected in ("auto", "light", "dark"):
        assert button.inner_text() == f"Theme: {expected}"
        shades.append(luminance(screen.page.evaluate(background)))
        button.click()
    assert shades[0] == shades[1] > 200 > 50 > shades[2]


def test_names_from_files_stay_text(screens: Any, tmp_path: Path) -> None:
    folders = write_report_data(tmp_path / "data", cases=[HOSTILE.replace("/", "")], with_fates=False)
    labels = {"background": 0, HOSTILE + "</script><script>document.title='broken'</script>": 1, "right": 2}
    (folders.predictions() / "dataset.json").write_text(
        json.dumps({**DATASET_JSON, "labels": labels}), encoding="utf-8"
    )
    page = tmp_path / "r.html"
    main(
        [
            *folders.arguments("preds", "other"),
            "-djfile",
            str(folders.predictions() / "dataset.json"),
            "-o",
            str(page),
            "-names",
            HOSTILE,
            "b",
        ]
    )
    screen = screens(page)
    title = screen.page.title()
    screen.page.locator("#to-cases").click()
    screen.page.wait_for_selector("canvas[data-slice]")
    screen.page.locator("#panes canvas").first.hover()
    screen.settle()
    assert screen.page.title() == title != "broken"
    assert screen.page.locator("img, main b").count() == 0
    assert HOSTILE in screen.page.locator("#panes .name").first.inner_text()


@pytest.mark.slow
def test_a_case_of_a_hundred_large_slices_is_small_and_opens_soon(screens: Any, tmp_path: Path) -> None:
    folders = ReportFolders(tmp_path / "data")
    shape = (100, 512, 512)
    z, y, x = np.ogrid[:100, :512, :512]
    ball = (np.hypot(y - 256, x - 200 - z) < 90).astype(np.uint8)
    image = 200.0 * ball + np.random.default_rng(0).normal(0, 25, shape) + 40 * np.sin(x / 20)
    write_volume(folders.images / "c_0000.nii.gz", image.astype(np.float32), np.eye(3), (2.0, 0.7, 0.7))
    for folder, shift in ((folders.references, 0), (folders.predictions(), 6)):
        write_volume(folder / "c.nii.gz", np.roll(ball, shift, 1), np.eye(3), (2.0, 0.7, 0.7))
    (folders.predictions() / "dataset.json").write_text(json.dumps(DATASET_JSON), encoding="utf-8")
    page = tmp_path / "r.html"
    main([*folders.arguments(), "-o", str(page)])
    assert page.stat().st_size < 10e6
    started = time.perf_counter()
    screen = screens(page, "#case=c&slice=50")
    screen.wait_for_slice(50, "c")
    assert time.perf_counter() - started < 5, "under 1 s on an idle machine"
