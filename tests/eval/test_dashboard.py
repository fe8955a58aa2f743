"""The dashboard: what it shows of a small plan, and that a browser opens it without a request."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from eval.dashboard import main
from eval.pages.charts import MOST, Line, plot, thinned, ticks
from eval.pages.collect import costs, grid, progress, states_of, tail
from eval.programme.plan import read_plan
from tests.eval.plans import PlanMaker, small_plan


def arguments(runs: Path) -> list[str]:
    return ["table1", "--profile", "mini", "--runs", str(runs)]


class Page(HTMLParser):
    """Tags, ids, links and texts of a page; fails where tags are not closed in order."""

    VOID = ("meta", "link", "img", "br", "line", "path", "circle")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, Any]]] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:  # a browser closes lines and paths of an SVG by name
            assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, Any]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The page of the small plan, with a table that others wrote and one more page."""
    root = tmp_path_factory.mktemp("dashboard")
    folder = small_plan(root).folder
    table = "# Numbers\n\n| method | FID |\n| --- | --- |\n| Ours | 28.46 |\n\n"
    (folder / "table.md").write_text(table + "<script>alert(1)</script>\n")
    (folder / "pruning report.html").write_text("<title>another page</title>")
    assert main(arguments(root / "runs")) == 0
    return folder / "dashboard.html", (folder / "dashboard.html").read_text()


def test_states_of_jobs_are_in_the_grid_with_letters_and_names(made) -> None:
    _, text = made
    page = Page(text)
    keys = [span for span in page.all("span") if span.get("title")]
    counts = {s: sum(k["class"] == f"key {s}" for k in keys) for s in ("done", "failed", "running")}
    assert counts["failed"] == 1 and counts["done"] > 40
    assert counts["running"] == 1
    assert {k["aria-label"] for k in keys if "failed" in k["class"]} == {"failed, seed 0"}
    bar = next(div for div in page.all("div") if div.get("class") == "bar")
    words = r"\d+ of \d+ jobs done, 1 running, 1 failed, \d+ missing"
    assert re.fullmatch(words, bar["aria-label"])


def test_a_failed_job_has_the_end_of_its_log_and_what_to_do(made) -> None:
    _, text = made
    failed = text[text.index('id="failed"') : text.index('id="cells"')]
    assert "error: CUDA out of memory" in failed and "git10m-full-train" in failed
    assert "PROFILE=mini bash experiments/table1.sh --only git10m/full" in failed


def test_the_table_is_shown_and_nothing_in_it_is_run(made) -> None:
    _, text = made
    assert "<td>28.46</td>" in text and "<h3>Numbers</h3>" in text
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)" in text


def test_curves_hold_the_numbers_of_the_records(made) -> None:
    _, text = made
    lines = [g for g in Page(text).all("g") if g.get("class") == "line"]
    ours = [g for g in lines if g["data-name"] == "RS-Prune, 70% pruned, seed 1"]
    points = [json.loads(g["data-points"]) for g in ours]
    assert len(points) == 4  # the loss, and three hold-outs
    assert points[0][0][:2] == [32 * 200, 1 / 200] and points[0][-1][:2] == [32 * 2000, 1 / 2000]
    assert [p[:2] for p in points[1]] == [[500, 10.0], [1000, 7.0], [1500, 4.5], [2000, 5.0]]
    buttons = [b for b in Page(text).all("button") if "data-line" in b]
    assert len(buttons) == len(lines) and all(b["aria-pressed"] == "true" for b in buttons)


def test_the_page_asks_for_nothing_and_names_what_it_shows(made) -> None:
    path, text = made
    page = Page(text)
    assert not re.search(r"https?://|@import|url\(", text)
    fetched = [attributes.get(name) for _, attributes in page.found for name in ("src", "srcset")]
    fetched += [link["href"] for link in page.all("link")]
    assert all(address.startswith("data:") for address in fetched if address is not None)
    assert all(image["alt"] for image in page.all("img"))
    assert len(page.all("img")) == 6  # samples, SR and SIS of two methods
    ids = {attributes["id"] for _, attributes in page.found if "id" in attributes}
    for link in page.all("a"):
        target = html.unescape(link["href"]).replace("%20", " ")
        assert target[1:] in ids if target.startswith("#") else (path.parent / target).exists()
    assert "pruning report.html" in {a["href"].replace("%20", " ") for a in page.all("a")}
    assert "http-equiv" not in text and "undefined" not in text.lower()
    assert path.stat().st_size < 1_000_000


def test_pictures_beyond_the_pages_size_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = small_plan(tmp_path).folder
    monkeypatch.setattr("eval.pages.images.MOST_BYTES", 3000)
    assert main(arguments(tmp_path / "runs")) == 0
    text = (folder / "dashboard.html").read_text()
    shown = len(Page(text).all("img"))
    assert 0 < shown < 6 and f"{6 - shown} more are in their folders" in text


def test_what_has_no_records_is_not_shown(tmp_path: Path) -> None:
    maker = PlanMaker(tmp_path)
    maker.family("git10m/full", "full", stop={"scores": "missing", "reference": "missing"})
    folder = maker.write().parent
    assert main(arguments(maker.runs)) == 0
    text = (folder / "dashboard.html").read_text()
    ids = {attributes.get("id") for _, attributes in Page(text).found}
    assert {"cells", "costs", "settings", "files"} <= ids
    assert not {"failed", "table", "figures", "curves", "pictures"} & ids


def test_again_nothing_is_written_until_a_record_changes(tmp_path: Path, capsys) -> None:
    maker = PlanMaker(tmp_path)
    maker.family("git10m/full", "full", tasks=("generation",))
    page = maker.write().parent / "dashboard.html"
    main(arguments(maker.runs))
    before = page.stat().st_mtime_ns
    main(arguments(maker.runs))
    assert page.stat().st_mtime_ns == before and "already done" in capsys.readouterr().out
    maker.out("git10m/full", "generation").with_name("metrics.manifest.json").unlink()
    main(arguments(maker.runs))
    assert page.stat().st_mtime_ns > before


def test_watching_reloads_while_jobs_run_and_ends_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = PlanMaker(tmp_path)
    maker.family("git10m/full", "full", tasks=("generation",), stop={"train": "running"})
    page = maker.write().parent / "dashboard.html"
    running = next(tmp_path.rglob("*.running"))
    seen = []

    def wait(seconds: float) -> None:
        seen.append('http-equiv="refresh" content="5"' in page.read_text())
        if len(seen) == 2:
            running.unlink()

    monkeypatch.setattr("eval.pages.page.time.sleep", wait)
    assert main([*arguments(maker.runs), "--watch", "5"]) == 0
    assert seen == [True] * 4  # two with the job, two without
    assert "http-equiv" not in page.read_text()


def test_progress_and_costs_are_sums_of_the_records(tmp_path: Path) -> None:
    maker = PlanMaker(tmp_path)
    maker.family("a", "full", tasks=("generation",), seconds=1800.0)
    maker.family("b", "random", tasks=("generation",), stop={"samples": "failed"}, seconds=1800.0)
    from eval.programme.plan import read_plan

    plan = read_plan(maker.write())
    states = states_of(plan)
    found = progress(plan, states)
    # Three shared; a: subset, encode, train, samples, generation; b: subset, encode and train.
    assert found["counts"] == {"done": 11, "running": 0, "failed": 1, "missing": 1}
    assert found["seconds"] == 11 * 1800 and found["gpu_hours_left"] == 1.25
    rows = {row["stage"]: row for row in costs(plan, states)}
    assert rows["dit.train"]["done"] == 2 and rows["dit.train"]["seconds"] == 3600
    assert rows["prune.score"]["shared"] == 1 and rows["dit.sample"]["done"] == 1
    shown = grid(plan, states)
    assert [len(field) for field in shown["rows"][0]["fields"]] == [1] * 8
    assert shown["parts"] == ["scores", "reference", "holdout", "subset", "encode", "train",
                              "samples", "generation"]  # fmt: skip


def test_ticks_and_lines_are_within_the_chart() -> None:
    assert ticks(0, 2000) == [0, 500, 1000, 1500, 2000]
    assert ticks(0.12, 0.5) == pytest.approx([0.2, 0.3, 0.4, 0.5])
    points = [(float(n), 1.0 + n) for n in range(5000)]
    few = thinned(points)
    assert len(few) == MOST and few[0] == points[0] and few[-1] == points[-1]
    gap = [(1.0, float("nan"))]
    drawn = plot([Line("a", "#000000", "", few), Line("b", "#111111", "", gap)], True)
    left, top, right, bottom = drawn["box"]
    for _, _, x, y in json.loads(drawn["lines"][0]["data"]):
        assert left <= x <= right and top <= y <= bottom
    assert drawn["log"] and drawn["lines"][1]["path"] == ""


def test_the_end_of_a_log_is_of_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    log.write_text("".join(f"line {n}\n" for n in range(5000)))
    assert tail(log, 2) == ["line 4998", "line 4999"]
    assert tail(tmp_path / "none.log", 2) == []


PROBE = """<script>
const chart = document.querySelector(".chart"), svg = chart.querySelector("svg");
svg.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight"}));
document.body.dataset.first = chart.querySelector(".readout").textContent;
chart.querySelector(".names button").click();
document.body.dataset.hidden = chart.querySelectorAll(".line.off").length;
document.body.dataset.then = chart.querySelector(".readout").textContent;
addEventListener("load", () => {
  const asked = performance.getEntriesByType("resource").map((entry) => entry.name);
  document.body.dataset.asked = asked.filter((name) => !name.startsWith("data:")).join(" ");
});
document.body.dataset.wide = document.documentElement.scrollWidth - window.innerWidth;
</script></body>"""


def open_in_browser(page: Path, profile: Path) -> tuple[dict[str, str], str]:
    """What the probe found on the page, and what the browser said. Skips where there is none."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), "")
    if not browser:
        pytest.skip("no Chromium on the PATH")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
             "--no-first-run", "--disable-background-networking", "--disable-component-update",
             "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={profile}",
             "--window-size=500,900", "--dump-dom", page.as_uri()]  # fmt: skip
    done = subprocess.run([browser, *flags], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    body = re.search(r"<body[^>]*>", done.stdout)
    assert body is not None
    parser = HTMLParser()
    found: dict[str, str] = {}
    parser.handle_starttag = lambda tag, attributes: found.update(attributes)  # type: ignore
    parser.feed(body[0])
    return found, done.stderr


def test_a_browser_opens_it_without_error_or_request(made, tmp_path: Path) -> None:
    _, text = made
    probed = tmp_path / "dashboard.html"
    probed.write_text(text.replace("</body>", PROBE))
    body, said = open_in_browser(probed, tmp_path / "profile")
    assert "CONSOLE" not in said, said
    assert body["data-asked"] == ""
    assert body["data-first"].startswith("6,400 samples seen:")
    assert "RS-Prune, 70% pruned, seed 0 0.005" in body["data-first"]
    assert body["data-hidden"] == "1"
    assert "seed 0" not in body["data-then"] and "seed 1" in body["data-then"]
    assert int(body["data-wide"]) <= 0  # nothing wider than the window


def test_the_browsers_probe_sees_a_request_and_an_error(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    more = '<img src="https://images.invalid/a.png"><script>console.error("seen")</script>'
    probe = PROBE[PROBE.index("addEventListener") : PROBE.index("document.body.dataset.wide")]
    page.write_text(f"<body>{more}<script>{probe}</script></body>")
    body, said = open_in_browser(page, tmp_path / "profile")
    assert body["data-asked"] == "https://images.invalid/a.png"
    assert "CONSOLE" in said and "seen" in said


def test_samples_of_four_bands_are_shown_in_colour_infrared_too(tmp_path: Path) -> None:
    maker = PlanMaker(tmp_path)
    maker.family("usa1m/random-70", "random", corpus="usa1m", infrared=True)
    maker.family("git10m/random-70", "random", tasks=("generation",))
    samples = maker.out("usa1m/random-70", "samples")
    (samples / "infrared").mkdir()
    for path in sorted(samples.glob("*.png"))[:6]:
        shutil.copy(path, samples / "infrared" / path.name)
    plan = read_plan(maker.write())
    assert main(arguments(maker.runs)) == 0
    page = Page((plan.folder / "dashboard.html").read_text())
    alts = [image["alt"] for image in page.all("img")]
    (shown,) = (alt for alt in alts if alt.startswith("Generated images in colour infrared"))
    assert shown.endswith("usa1m")
    assert sum(alt.startswith("Generated images by") for alt in alts) == 2
    parts = grid(plan, states_of(plan))["parts"]
    assert parts.index("encode") < parts.index("reconstruction") < parts.index("train")
