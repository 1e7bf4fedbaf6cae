"""Quizzes: the questions, the rules they keep, and the three ways they are shown."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import nbformat
import pytest

from heclip_course import quiz

ROOT = Path(__file__).resolve().parents[2]
each_chapter = pytest.mark.parametrize("chapter", quiz.chapters())


def choice(number: int, kind: str = "single") -> dict:
    rights = [True, kind == "multiple", False]
    return {
        "kind": kind,
        "question": f"Question {number}?",
        "options": [
            {"text": f"answer {n}", "right": right, "why": f"reason {n} of {number}"}
            for n, right in enumerate(rights)
        ],
    }


def number_question() -> dict:
    return {
        "kind": "numeric",
        "question": "How many?",
        "options": [
            {"value": 2, "tolerance": 0.1, "right": True, "why": "count them"},
            {"value": 4, "tolerance": 0.1, "right": False, "why": "twice as many"},
        ],
        "otherwise": "Count again.",
    }


def valid() -> dict:
    return {"questions": [choice(1), choice(2), choice(3, "multiple"), number_question()]}


# The questions of the book


def test_each_chapter_has_a_quiz():
    notebooks = (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")
    assert quiz.chapters() == sorted(path.name[:2] for path in notebooks)


@each_chapter
def test_questions_keep_the_rules_and_right_answers_change_place(chapter):
    questions = quiz.load(chapter)  # raises where a rule is broken
    assert {"single"} < {question.kind for question in questions}, "kinds vary"
    single = [question for question in questions if question.kind == "single"]
    places = {[option.right for option in question.options].index(True) for question in single}
    assert len(places) > 1, "the right answer always stands in the same place"
    reasons = [option.why for question in questions for option in question.options]
    assert len(set(reasons)) == len(reasons), "a reason that fits two answers explains neither"


@each_chapter
@pytest.mark.parametrize("write", [quiz.as_markdown, quiz.as_text])
def test_text_holds_every_question_answer_and_reason(chapter, write):
    questions = quiz.load(chapter)
    text = write(questions)
    for question in questions:
        assert question.question in text and question.otherwise in text
        for option in question.options:
            assert option.why in text
            assert (option.text or f"{option.value:g}") in text


@each_chapter
def test_text_gives_no_answer_away_before_it_is_unfolded(chapter):
    """Also to those who see it all at once: the plain text puts its answers last."""
    questions = quiz.load(chapter)
    asked = quiz.as_text(questions).split("Answer first, then read on.")[0]
    shown = ""
    folded = False
    for line in quiz.as_markdown(questions).splitlines():
        folded = folded or line.startswith(":::{dropdown}")
        shown += "" if folded else line
        folded = folded and line != ":::"
    for question in questions:
        assert question.question in shown
        assert not any(option.why in shown + asked for option in question.options)


# The rules


def broken(change) -> dict:
    content = copy.deepcopy(valid())
    change(content["questions"])
    return content


def test_a_valid_quiz_is_read():
    questions = quiz.parse(valid())
    assert [question.kind for question in questions] == ["single", "single", "multiple", "numeric"]
    assert questions[3].options[0] == quiz.Option(True, "count them", value=2.0, tolerance=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q: q.pop(), "has 3 questions; 4 to 6"),
        (lambda q: q.extend(choice(n) for n in (5, 6, 7)), "has 7 questions"),
        (lambda q: q.__setitem__(1, choice(1)), "question 2 is question 1 again"),
        (lambda q: q[0].update(kind="guess"), "question 1: kind is 'guess'"),
        (lambda q: q.__setitem__(2, "Why?"), "question 3: kind is None"),
        (lambda q: q[0].pop("options"), "question 1 lacks options"),
        (lambda q: q[0].update(hint="none"), "question 1 has unknown hint"),
        (lambda q: q[0].update(question="  "), "question 1: question is empty"),
        (lambda q: q[0].update(question="What is $x$?"), "holds a formula"),
        (lambda q: q[0].update(question="See [here](x.md)."), "a link"),
        (lambda q: q[0].update(question="What is `x?"), "markup"),
        (lambda q: q[0]["options"].pop(), "list of 3 or more"),
        (lambda q: q[0]["options"][0].pop("why"), "option 1 lacks why"),
        (lambda q: q[0]["options"][2].update(why=""), "option 3: why is empty"),
        (lambda q: q[0]["options"][1].update(text="answer 0"), "an option comes twice"),
        (lambda q: q[0]["options"][0].update(right=False), "0 of 3 options are right"),
        (lambda q: q[0]["options"][1].update(right=True), "2 of 3 options are right"),
        (lambda q: q[2]["options"][1].update(right=False), "1 of 3 options are right"),
        (lambda q: q[2]["options"][2].update(right=True), "something must be wrong"),
        (lambda q: q[0]["options"][0].update(right="yes"), "write true or false"),
        (lambda q: q[0]["options"].__setitem__(0, "yes"), "option 1 is no object"),
        (lambda q: q[3].pop("otherwise"), "question 4 lacks otherwise"),
        (lambda q: q[3]["options"][0].update(value="2"), "are numbers"),
        (lambda q: q[3]["options"][0].update(value=float("nan")), "value is finite"),
        (lambda q: q[3]["options"][0].update(tolerance=0), "tolerance above 0"),
        (lambda q: q[3]["options"][1].update(value=2.15), "accept the same number"),
    ],
)
def test_a_broken_rule_is_named_with_its_place(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        quiz.parse(broken(change), "99.json")
    assert str(caught.value).startswith("99.json")


@pytest.mark.parametrize("content", [[], {}, {"questions": "none"}, None])
def test_what_is_no_quiz_is_refused(content):
    with pytest.raises(ValueError, match="a quiz is"):
        quiz.parse(content)


def test_a_missing_chapter_and_a_damaged_file_are_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no quiz for chapter '77'; there are 00, 01"):
        quiz.load("77")
    (tmp_path / "00.json").write_text('{"questions": [\n{"kind" "single"}]}')
    monkeypatch.setattr(quiz, "_folder", lambda: tmp_path)
    with pytest.raises(ValueError, match=r"00\.json, line 2: this is no JSON"):
        quiz.load("00")


# The three ways


@pytest.fixture(scope="module")
def shell():
    """A kernel's shell without a kernel."""
    from IPython.core.interactiveshell import InteractiveShell

    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


def shown_by_ask(chapter: str) -> list:
    from IPython.utils.capture import capture_output

    with capture_output() as shown:
        quiz.ask(chapter)
    return [shown.outputs, shown.stdout]


def test_outside_a_notebook_it_is_text(capsys):
    quiz.ask("01")
    assert capsys.readouterr().out.strip() == quiz.as_text(quiz.load("01"))


def test_without_jupyterquiz_it_is_text(shell, monkeypatch):
    monkeypatch.setitem(sys.modules, "jupyterquiz", None)
    outputs, text = shown_by_ask("01")
    assert not outputs
    assert text.strip() == quiz.as_text(quiz.load("01"))


@each_chapter
def test_in_a_notebook_it_answers_with_every_reason(chapter, shell):
    (output,), text = shown_by_ask(chapter)
    assert not text
    assert set(output.data) == {"text/html", "text/plain"}
    for question in quiz.load(chapter):
        for option in question.options:
            told = ("Right. " if option.right else "No. ") + option.why
            assert json.dumps(quiz.as_html(told)) in output.data["text/html"]


@pytest.fixture
def staged_quiz(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from book.tools.build import stage

    return stage


def test_on_the_site_it_is_text_and_the_cell_is_hidden(staged_quiz):
    cell = nbformat.v4.new_code_cell('quiz.ask("03")', metadata={"tags": ["quiz"]})
    cell.outputs = [nbformat.v4.new_output("display_data", {"text/html": "<script></script>"})]
    other = nbformat.v4.new_markdown_cell("## Quiz")
    page = staged_quiz.for_the_site(nbformat.v4.new_notebook(cells=[other, cell]))
    before, hidden, text = page.cells
    assert before.source == "## Quiz"
    assert "remove-cell" in hidden.metadata.tags and not hidden.outputs
    assert text.cell_type == "markdown" and text.source == quiz.as_markdown(quiz.load("03"))


def test_a_tagged_cell_that_asks_nothing_stops_the_staging(staged_quiz):
    cell = nbformat.v4.new_code_cell("quiz.ask(number)", metadata={"tags": ["quiz"]})
    with pytest.raises(staged_quiz.BuildError, match="has to call quiz"):
        staged_quiz.quiz_as_text(cell)


# In a browser


@pytest.fixture
def page(chromium, shell, tmp_path):
    """Opens a quiz in a page that has an unfinished MathJax, and notes whatever is fetched."""
    fetched = []

    def open_page(chapter: str):
        (output,), _ = shown_by_ask(chapter)
        path = tmp_path / "quiz.html"
        body = f"<script>MathJax = {{version: '3.2.2'}}</script>{output.data['text/html']}"
        path.write_text(f"<!doctype html><html lang=en><body>{body}</body></html>", "utf-8")
        page = chromium.new_page(viewport={"width": 900, "height": 1400})
        page.on("request", lambda request: fetched.append(request.url))
        page.goto(path.as_uri())
        page.locator(".Feedback[aria-live]").first.wait_for(state="attached")
        assert page.locator(".Quiz").count() == len(quiz.load(chapter))
        return page

    yield open_page
    assert [url for url in fetched if not url.startswith("file:")] == []


def place(question: quiz.Question, *, right: bool) -> int:
    return [option.right for option in question.options].index(right)


@pytest.mark.browser
@pytest.mark.slow
@each_chapter
def test_a_wrong_and_a_right_answer_get_their_reasons(chapter, page):
    there = page(chapter)
    for number, question in enumerate(quiz.load(chapter)):
        box = there.locator(".Quiz").nth(number)
        for right in (False, True):
            option = question.options[place(question, right=right)]
            if question.kind == "numeric":
                box.locator("input").fill(f"{option.value:g}")
                box.locator("input").press("Enter")
            else:
                box.locator(".MCButton").nth(question.options.index(option)).click()
            said = box.locator(".Feedback").inner_text()
            assert said.startswith("Right. " if right else "No. ")
            assert (
                said.removeprefix("Right. ")
                .removeprefix("No. ")
                .startswith(option.why.replace("`", ""))
            )
    there.wait_for_timeout(700)  # jupyterquiz looks for MathJax after half a second
    there.close()


@pytest.mark.browser
@pytest.mark.slow
def test_several_answers_are_chosen_by_keyboard(page):
    there = page("00")
    questions = quiz.load("00")
    number = next(n for n, q in enumerate(questions) if q.kind == "multiple")
    box = there.locator(".Quiz").nth(number)
    rights = [n for n, option in enumerate(questions[number].options) if option.right]
    box.locator("input").nth(0).focus()
    for n in range(len(questions[number].options)):
        if n in rights:
            there.keyboard.press("Space")
        there.keyboard.press("Tab")
    assert f"[{len(rights)}/{len(rights)}]" in box.locator(".Feedback").inner_text()
    there.close()


@pytest.mark.browser
@pytest.mark.slow
def test_one_answer_is_chosen_by_keyboard_and_jupyterlab_leaves_it_the_arrows(page):
    there = page("00")
    question = quiz.load("00")[0]
    box = there.locator(".Quiz").first
    box.locator("input").first.focus()
    there.keyboard.press("Space")
    assert question.options[0].why in box.locator(".Feedback").inner_text()
    there.keyboard.press("ArrowDown")
    assert question.options[1].why in box.locator(".Feedback").inner_text()
    inputs = there.locator(".Quiz input")
    assert inputs.count() == there.locator("input[data-lm-suppress-shortcuts]").count() > 0
    there.close()
