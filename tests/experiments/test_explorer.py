"""The report in a real browser: it opens by itself, and what the reader points at is what is drawn."""

import json
import shutil

import numpy as np
import pytest

from research.reports.page import run_page
from research.reports.records import read_run
from research.reports.samples import layer, png

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
SIZES = {"wide": (1280, 800), "narrow": (390, 844)}
SOURCE, TARGET = ["Haus", " <b>", "</script>", "你好"], ["مرحبا", "بك", "</s>"]

BLANKS = ["", " ", "\n\t", "\u200b", "\u00a0", "\u0301"]


def weights(seed, heads, queries, keys):
    return np.random.default_rng(seed).dirichlet(np.full(keys, 0.3), (heads, queries)).astype(np.float32)


def write_page(folder, looks, rows=50):
    folder.mkdir()
    log = (
        {"step": n, "train/loss": 1 / n, "train/grad_norm": 1.0, "validation/loss": 2 / n} for n in range(1, rows + 1)
    )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    shown = {"samples": [], "attention": looks, "memory": {}, "split": "test", "step": rows}
    (folder / "report.json").write_text(json.dumps(shown))
    (folder / "report.html").write_text(run_page([read_run(folder)]))
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Addresses of a page about a text, one about an image with a class token and a register, one with a long log."""
    folder = tmp_path_factory.mktemp("pages")
    text = {"kind": "text", "title": "</script>", "tokens": {"source": SOURCE, "target_output": TARGET}}
    text["layers"] = [
        layer("encoder/layer_0/self_attention", weights(0, 2, 4, 4), "source", "source"),
        layer("decoder/layer_0/cross_attention", weights(1, 2, 3, 4), "target_output", "source"),
    ]
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    image = {"kind": "image", "title": "cat", "image": png(pixels), "grid": [4, 4], "special": 1}
    image["layers"] = [
        layer(f"layer_{n}/self_attention", weights(n, 3, 18, 18), "patches", "patches") for n in range(2)
    ]
    words = image | {"tokens": {"written": TARGET, "read": ["<s>", *TARGET[:-1]]}}
    words["layers"] = [
        layer("image/layer_0/self_attention", weights(0, 2, 17, 17), "patches", "patches"),
        layer("decoder/layer_0/cross_attention", weights(1, 2, 3, 16), "written", "patches"),
        layer("decoder/layer_0/self_attention", weights(2, 2, 3, 3), "written", "read"),
    ]
    blank = {"kind": "text", "title": "blank", "tokens": {"source": BLANKS}}
    blank["layers"] = [layer("layer_0/self_attention", weights(0, 1, 6, 6), "source", "source")]
    special = image | {"special": 3}
    special["layers"] = [layer("layer_0/self_attention", weights(0, 1, 20, 20), "patches", "patches")]
    return {
        "text": write_page(folder / "text", [text]),
        "blank": write_page(folder / "blank", [blank]),
        "special": write_page(folder / "special", [special]),
        "image": write_page(folder / "image", [image]),
        "words": write_page(folder / "words", [words]),
        "long": write_page(folder / "long", [], rows=100_000),
    }


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as engine:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, pages):
    """`visit("text", "wide")`: the opened page; at the end it must have asked for and complained about nothing."""
    wrong, contexts = [], []

    def open_page(name, size, scheme="light"):
        width, height = SIZES[size]
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme))
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: wrong.append(message.text))
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("request", lambda request: wrong.append(request.url) if request.url.startswith("http") else None)
        tab.goto(pages[name])
        assert tab.locator(".js-plotly-plot").count() >= 2
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def shades(tab):
    """The weights that the tokens looked at are shaded with."""
    spans = tab.locator("span.token").all()
    return [float(span.evaluate("element => element.style.getPropertyValue('--weight')")) for span in spans]


def picker(tab, name):
    return tab.get_by_role("combobox", name=name, exact=True)


def picture(tab):
    return tab.locator(".pair canvas").evaluate("canvas => canvas.toDataURL()")


@pytest.mark.parametrize("size", SIZES)
def test_pointing_at_a_token_shows_where_it_looks(visit, size):
    tab = visit("text", size)
    encoder, decoder = weights(0, 2, 4, 4), weights(1, 2, 3, 4)
    buttons = tab.locator("button.token")
    assert buttons.all_text_contents() == SOURCE
    for query in (0, 3):
        buttons.nth(query).hover()
        np.testing.assert_allclose(shades(tab), encoder[:, query].mean(0), atol=0.006)
    picker(tab, "Layer").select_option(label="decoder layer 1 cross attention")
    picker(tab, "Head").select_option(label="head 2")
    assert buttons.all_text_contents() == TARGET
    buttons.nth(1).click()
    np.testing.assert_allclose(shades(tab), decoder[1, 1], atol=0.006)
    assert tab.locator(".said").text_content().startswith("بك → ")


def test_everything_can_be_reached_by_keyboard(visit):
    tab = visit("text", "wide")
    picker(tab, "Layer").focus()
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("Tab")
    tab.keyboard.press("End")
    assert picker(tab, "Head").input_value() == "2"
    tab.keyboard.press("Tab")
    tab.keyboard.press("Home")
    tab.keyboard.press("ArrowLeft")  # forward, where the text runs from right to left
    np.testing.assert_allclose(shades(tab), weights(1, 2, 3, 4)[1, 1], atol=0.006)
    tab.keyboard.press("Tab")
    tab.keyboard.press("Home")
    assert (
        tab.locator(".maps [aria-pressed=true]").get_attribute("aria-label") == "encoder layer 1 self attention, head 1"
    )
    assert picker(tab, "Layer").input_value() == "0"


@pytest.mark.parametrize("size", SIZES)
def test_pointing_at_a_patch_lights_what_it_looks_at(visit, size):
    tab = visit("image", size)
    patches = tab.locator(".patches button")
    assert patches.count() == 16
    patches.nth(2).click()
    first, maps = picture(tab), tab.locator(".maps canvas").first.evaluate("canvas => canvas.toDataURL()")
    tab.keyboard.press("ArrowDown")
    assert tab.locator(".patches [aria-pressed=true]").get_attribute("aria-label") == "row 2, column 3"
    second = picture(tab)
    assert second != first
    assert tab.locator(".maps canvas").first.evaluate("canvas => canvas.toDataURL()") != maps
    tab.locator(".maps button").nth(4).click()
    assert picker(tab, "Head").input_value() == "2" and picker(tab, "Layer").input_value() == "1"
    assert picture(tab) != second
    places = [f"row {place // 4 + 1}, column {place % 4 + 1}" for place in range(16)]
    names = ["class token", *places, "register 1"]
    for number in (0, 3, 17):
        tab.get_by_role("button", name=names[number], exact=True).click()
        seen = weights(1, 3, 18, 18)[1, number]
        said = f"{names[number]} → {names[seen.argmax()]} ({100 * seen.max():.0f} %)"
        assert said in tab.locator(".said").text_content()


def test_words_look_at_the_image_and_at_words(visit):
    """A captioner's layers: among patches, where there is a class token, from words to patches, among words."""
    tab = visit("words", "wide")
    assert tab.locator(".patches button").count() == 16
    assert tab.locator("button.token").all_text_contents() == ["class token"]
    picker(tab, "Layer").select_option(label="decoder layer 1 cross attention")
    words = tab.locator("button.token")
    assert words.all_text_contents() == TARGET and tab.locator(".patches button").count() == 0
    words.nth(0).click()
    first = picture(tab)
    words.nth(2).click()
    assert picture(tab) != first
    seen = weights(1, 2, 3, 16)[:, 2].mean(axis=0)
    place = f"row {seen.argmax() // 4 + 1}, column {seen.argmax() % 4 + 1}"
    assert tab.locator(".said").text_content().startswith(f"</s> → {place} ({100 * seen.max():.0f} %)")
    picker(tab, "Layer").select_option(label="decoder layer 1 self attention")
    words.nth(1).click()
    np.testing.assert_allclose(shades(tab), weights(2, 2, 3, 3)[:, 1].mean(axis=0), atol=0.006)


def test_every_token_has_a_name(visit):
    """Tokens without text or with blanks alone, and those beside the patches of an image."""
    names = visit("blank", "wide").locator("button.token").all_text_contents()
    assert names == ["(no text)", "␣", "↵ ⇥", "U+200B", "U+00A0", "U+0301"]
    others = visit("special", "wide").locator("button.token").all_text_contents()
    assert others == ["class token", "distillation token", "special token 3", "register 1"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["text", "image"])
def test_texts_stand_out_and_nothing_is_wider_than_a_phone(visit, name, scheme):
    tab = visit(name, "narrow", scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    contrast = """(pair) => {
      const light = (name) => {
        const hex = getComputedStyle(document.documentElement).getPropertyValue(name).match(/[0-9a-f]{2}/gi);
        const [r, g, b] = hex.map((part) => ((parseInt(part, 16) / 255 + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
      };
      const [a, b] = pair.map(light);
      return Math.max(a, b) / Math.min(a, b);
    }"""
    for ink in ("--ink", "--muted", "--accent", "--good", "--bad"):
        assert tab.evaluate(contrast, [ink, "--paper"]) >= 4.5, ink
    assert tab.evaluate(contrast, ["--ink", "--heat"]) >= 4.5
    assert all(tab.evaluate(contrast, [f"--series-{n}", "--paper"]) >= 3 for n in range(6))


def test_charts_follow_the_scale_and_a_long_log_opens(visit):
    tab = visit("long", "wide")
    drawn = tab.locator("[data-chart]").first
    last = "holder => holder.data[0].x.at(-1)"
    assert drawn.evaluate(last) == 100_000 and drawn.evaluate("holder => holder.data[0].x.length") <= 2000
    tab.get_by_label("Over").select_option(label="examples")
    assert drawn.evaluate(last) == 0  # this log does not tell how many examples a step has
