"""The page, in a real browser."""

import re
from dataclasses import replace

import pytest

from pages import CHROMIUM, chromium, watched
from potstill.serve import create_app
from potstill.serve.limits import Limits

playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

SENTENCE = "The cat is good today."


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver, chromium(driver) as browser:
        yield browser


@pytest.fixture
def open_page(browser, listen):
    """Open an application's page. What goes wrong in it, or leaves its origin, fails the test at its end."""

    def addresses(app):
        address = listen(app)
        return address, (f"{address}/", "data:")

    with watched(browser, addresses) as open_:
        yield open_


@pytest.fixture
def app(rule, make_rule):
    return create_app([rule.served(), make_rule("other").served()])


def row(page, model, number=0):
    return page.locator("#results > li").nth(number).locator(".verdict", has_text=model)


def test_keyboard(open_page, app):
    page = open_page(app)
    page.get_by_label("One text per line").check()
    page.locator("#texts").focus()
    page.keyboard.type(f"{SENTENCE}\nSo so.")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#results > li")).to_have_count(2)
    for model in ("rule", "other"):
        expect(row(page, model).locator(".label")).to_have_text("good")
        expect(row(page, model).locator(".share")).to_have_text(re.compile(r"90\.0\s%"))
        expect(row(page, model).locator(".others")).to_have_text(re.compile(r"^bad 10\.0\s%$"))
        expect(row(page, model).locator(".time")).to_have_text(re.compile(r"^[\d.]+ ms$"))
        expect(row(page, model).locator(".why")).to_have_text(re.compile(r"without good: bad, 80\.0\s%"))
        expect(row(page, model, 1).locator(".label")).to_have_text("bad")
        expect(row(page, model, 1).locator(".why")).to_have_text("no single word decides")
    expect(page.locator("mark")).to_have_text(["good"])
    expect(page.get_by_role("status")).to_contain_text("2 texts, 2 models")
    bar, level = (row(page, "rule").locator(part).bounding_box()["width"] for part in (".bar", ".bar i"))
    assert level <= bar
    expect(row(page, "rule").locator(".bar i")).to_have_attribute("style", "width: 90%;")


def test_a_message_of_several_lines_is_one_text(open_page, app):
    page = open_page(app)
    expect(page.locator("#texts")).to_be_focused()
    page.keyboard.type(f"{SENTENCE}\n\nSo so.")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".sentence")).to_have_text(f"{SENTENCE}\n\nSo so.")
    expect(page.get_by_role("status")).to_contain_text("1 text, 2 models")


def test_a_model_that_is_not_sure_shows_its_best_guess(open_page, make_rule):
    page = open_page(create_app([make_rule("careful", least=0.85).served()]))
    page.get_by_label("One text per line").check()
    page.locator("#texts").fill(f"{SENTENCE}\nSo so.")
    page.locator("#submit").click()
    expect(row(page, "careful").locator(".label")).to_have_text("good")
    expect(row(page, "careful").locator(".why")).to_have_text(re.compile(r"without good: bad, 80\.0\s%"))
    expect(row(page, "careful", 1).locator(".label")).to_have_text("no answer")
    expect(row(page, "careful", 1).locator(".note")).to_contain_text("ask a person. The best guess is bad.")
    expect(row(page, "careful", 1).locator(".others")).to_have_text(re.compile(r"^good 20\.0\s%$"))


def test_long_labels_break_between_words(open_page, make_rule):
    served = make_rule("other").served()
    labels = ("transaction_charged_twice_by_the_same_merchant", "wrong_amount_of_cash_received_from_the_machine")
    page = open_page(create_app([replace(served, labels=labels)]), viewport={"width": 320, "height": 640})
    page.locator("#texts").fill(SENTENCE)
    page.locator("#submit").click()
    expect(page.locator(".label wbr")).to_have_count(7)
    assert page.locator("html").evaluate("root => root.scrollWidth") == 320


@pytest.mark.parametrize(
    ("kind", "names"),
    [("int", ("0", "1")), ("float", ("0.5", "1.0")), ("bool", ("False", "True")), ("str", ("a", "A"))],
)
def test_labels_of_any_type_are_named(open_page, rule, kind, names):
    page = open_page(create_app([replace(rule.served(), labels=names, label_type=kind)]))
    page.locator("#texts").fill("good food")
    page.locator("#submit").click()
    expect(page.locator(".label")).to_have_text(names[1])
    expect(page.locator(".others")).to_have_text(re.compile(rf"^{names[0]} \d"))


def test_several_labels_are_one_verdict(open_page, make_rule):
    page = open_page(create_app([make_rule("many", threshold=(0.15, 0.5)).served()]))
    page.get_by_label("One text per line").check()
    page.locator("#texts").fill(f"{SENTENCE}\nSo so.")
    page.keyboard.press("Control+Enter")
    expect(row(page, "many").locator(".label")).to_have_text("good")
    expect(row(page, "many").locator(".share")).to_have_text(re.compile(r"90\.0\s%"))
    expect(row(page, "many").locator(".others")).to_have_text(re.compile(r"^bad 10\.0\s%$"))
    expect(row(page, "many").locator(".why")).to_have_text(re.compile(r"without good: bad, 80\.0\s%"))
    expect(row(page, "many", 1).locator(".label")).to_have_text("bad")
    page = open_page(create_app([make_rule("strict", threshold=(0.95, 0.95)).served()]))
    page.locator("#texts").fill(SENTENCE)
    page.keyboard.press("Control+Enter")
    expect(row(page, "strict").locator(".label")).to_have_text("no class")
    expect(row(page, "strict").locator(".share")).to_have_text(re.compile(r"10\.0\s%"))


def test_texts_that_are_cut_are_marked(open_page, rule):
    page = open_page(create_app([rule.served()]))
    page.locator("#texts").fill("good " * 30)
    page.locator("#submit").click()
    expect(page.locator(".note")).to_contain_text("Only a part of the text was read")


def test_no_examples_are_made_up(open_page, app):
    page = open_page(app)
    expect(page.locator("#models input")).to_have_count(2)
    expect(page.locator(".examples")).to_be_hidden()


def test_tab_order_and_focus(open_page, rule, make_rule):
    examples = [SENTENCE, "two", "three", "four", "five"]
    page = open_page(create_app([rule.served(), make_rule("other").served()], examples=examples))
    expect(page.locator("#examples button")).to_have_count(5)
    found = []
    for _ in range(9):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        found.append(focused.evaluate("element => element.id || element.textContent"))
        assert focused.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
    assert found[:4] == ["model-0", "model-1", "by-line", "submit"]
    assert found[4:] == page.locator("#examples button").all_text_contents()
    page.keyboard.press("Enter")
    expect(page.locator(".sentence")).to_have_text(found[-1])


def test_examples_and_model_choice(open_page, rule, make_rule):
    page = open_page(create_app([rule.served(), make_rule("other").served()], examples=[SENTENCE, "<b>bad</b> & so"]))
    page.get_by_label("other").uncheck()
    page.get_by_role("button", name="<b>bad</b> & so").click()
    expect(page.locator(".sentence")).to_have_text("<b>bad</b> & so")
    expect(page.locator(".verdict")).to_have_count(1)
    expect(page.locator("#texts")).to_have_value("<b>bad</b> & so")


def test_pairs(open_page, make_rule):
    page = open_page(create_app([make_rule("pairs", in_pairs=True).served()]))
    page.locator("#texts").fill("It is so. | It is good.")
    page.keyboard.press("Control+Enter")
    expect(row(page, "pairs").locator(".why")).to_contain_text("without good: bad")
    expect(page.locator("mark")).to_have_text(["good"])
    page.locator("#texts").fill("Only one.")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("alert")).to_contain_text("with | between them")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone(open_page, app, scheme):
    page = open_page(app, viewport={"width": 320, "height": 640}, is_mobile=True, has_touch=True, color_scheme=scheme)
    page.get_by_label("One text per line").check()
    page.locator("#texts").fill(f"{SENTENCE}\n{'good' * 40}")
    page.locator("#submit").tap()
    expect(page.locator(".why")).to_have_count(2)
    root = page.locator("html")
    assert root.evaluate("root => root.scrollWidth") == 320
    paper = page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper))) < 200) == (scheme == "dark")


def test_explanations_are_split_by_the_limits(open_page, rule):
    page = open_page(create_app([rule.served()], Limits(max_texts=3)))
    page.locator("#texts").fill("one two three four five six seven good")
    page.keyboard.press("Control+Enter")
    expect(page.locator("mark")).to_have_text(["good"])
    assert rule.batches == [1, 3, 3, 2]


def test_mistakes_are_explained(open_page, rule):
    page = open_page(create_app([rule.served()], Limits(max_texts=2, max_characters=9)))
    page.locator("#submit").click()
    expect(page.get_by_role("alert")).to_contain_text("Type a text first")
    expect(page.locator("#texts")).to_be_focused()
    page.get_by_label("One text per line").check()
    page.locator("#texts").fill("one\ntwo\nthree")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("alert")).to_contain_text("At most 2 texts at a time, please; these are 3.")
    page.locator("#texts").fill("far too long")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("alert")).to_contain_text("rule: Expected texts[0]: a text of at most 9 characters")
    expect(row(page, "rule")).to_contain_text("no answer")
    open_page.wrong.clear()  # Chromium writes every status from 400 to its console


def test_a_busy_server_is_waited_for(open_page, rule):
    rule.gate.clear()
    page = open_page(create_app([rule.served()], Limits(max_texts=1, max_queue=1, client_share=1)))
    page.evaluate(
        """() => void fetch("v1/predict", {method: "POST", body: '{"text": "first"}',
                                           headers: {"Content-Type": "application/json"}})"""
    )
    rule.entered.acquire()
    page.locator("#texts").fill(SENTENCE)
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("status")).to_contain_text("busy")
    rule.gate.set()
    expect(row(page, "rule").locator(".label")).to_have_text("good")
    open_page.wrong.clear()


def test_a_newer_request_replaces_the_one_under_way(open_page, rule):
    rule.gate.clear()
    page = open_page(create_app([rule.served()]))
    for text in ("first", "second", SENTENCE):
        page.locator("#texts").fill(text)
        page.keyboard.press("Control+Enter")
        if text == "first":
            rule.entered.acquire()
    rule.gate.set()
    expect(page.locator("mark")).to_have_text(["good"])
    expect(page.locator("#results > li")).to_have_count(1)


def test_the_token_form(open_page, rule):
    page = open_page(create_app([rule.served()], token="the token"))
    field = page.locator("#token")
    expect(field).to_be_focused()
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#token-form")).to_contain_text("not accepted")
    expect(field).to_have_value("")
    page.keyboard.type("the token")
    page.keyboard.press("Enter")
    expect(page.locator("#texts")).to_be_focused()
    page.keyboard.type(SENTENCE)
    page.keyboard.press("Control+Enter")
    expect(page.locator("mark")).to_have_text(["good"])
    page.reload()
    expect(page.locator("#models input")).not_to_have_count(0)
    expect(field).to_be_hidden()
    open_page.wrong.clear()


def test_the_policy_blocks_foreign_scripts(open_page, app):
    """The policy, not the good will of the page's script."""
    page = open_page(app)
    refused = page.evaluate(
        """() => new Promise(resolve => {
          document.addEventListener("securitypolicyviolation", event => resolve(event.violatedDirective));
          const script = document.createElement("script");
          script.textContent = "window.foreign = true";
          document.body.append(script);
        })"""
    )
    assert refused == "script-src-elem"
    assert page.evaluate("window.foreign") is None
    open_page.wrong.clear()
