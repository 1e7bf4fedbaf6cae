"""Quizzes: a few questions for each chapter, where every answer, right or wrong, has its reason.

The questions lie beside this file, as ``quizzes/NN.json``.
In JupyterLab they answer by mouse and keyboard, without a network;
on the site, and where jupyterquiz is missing, they are text.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

FEWEST, MOST = 4, 6  # questions of a chapter
KINDS = {"single": "one answer", "multiple": "all that apply", "numeric": "a number"}
_LETTERS = "abcdefghij"
# Dark enough for white letters, and told apart by readers with any colour vision.
_COLOURS = {
    "--jq-multiple-choice-bg": "#005a8c",
    "--jq-many-choice-bg": "#005a8c",
    "--jq-numeric-bg": "#005a8c",
    "--jq-numeric-input-bg": "#ffffff",
    "--jq-numeric-input-label": "inherit",
    "--jq-correct-color": "#00664d",
    "--jq-incorrect-color": "#a34500",
    "--jq-text-color": "#ffffff",
}
_STYLE = """<style>
.course-quiz .Quiz { font-size: 1em; line-height: 1.4; }
.course-quiz .Answer { grid-template-columns: 1fr; }
.course-quiz .MCButton { font-size: 1em; justify-content: left; text-align: left; }
.course-quiz .MCButton:focus-within, .course-quiz .Input-text:focus {
  outline: 3px solid #e69f00; outline-offset: 2px; }
.course-quiz .sr-only { position: absolute; width: 1px; height: 1px; opacity: 0; }
.course-quiz .InpLabel { float: none; font-size: 1em; }
.course-quiz .Input-text { border: 1px solid #666666; color: #1a1a1a; font-size: 1em; }
.course-quiz .Input-text.correctButton, .course-quiz .Input-text.incorrectButton { color: #ffffff; }
.course-quiz .Feedback { font-size: 1em; text-align: left; }
.course-quiz .Feedback.correct, .course-quiz .Feedback.incorrect {
  background: #ffffff; border-left: 4px solid; border-radius: 4px; padding: 0.5em 0.8em; }
</style>"""
# What jupyterquiz leaves out: answers of which several count are boxes of their own to a keyboard,
# JupyterLab leaves the arrow keys to them, reasons are read aloud, and the field for a number has
# its label.
_TIDY = """
(function tidy() {
  const box = document.getElementById("%s");
  if (!box || box.querySelectorAll(".Quiz").length < %d) { setTimeout(tidy, 100); return; }
  box.querySelectorAll(".Feedback").forEach((e) => e.setAttribute("aria-live", "polite"));
  box.querySelectorAll(".ManyChoiceQn").forEach((e) =>
    e.parentElement.querySelectorAll("input").forEach((i) => { i.type = "checkbox"; }));
  box.querySelectorAll("input").forEach((i) => { i.dataset.lmSuppressShortcuts = "true"; });
  box.querySelectorAll(".InpLabel").forEach((e) => {
    e.htmlFor = e.parentElement.querySelector("input").id;
    e.textContent = "Your number, then Enter:";
  });
})();
"""


@dataclass(frozen=True)
class Option:
    """One possible answer: a text, or a number with the tolerance that it is compared with."""

    right: bool
    why: str
    text: str = ""
    value: float = math.nan
    tolerance: float = math.nan


@dataclass(frozen=True)
class Question:
    """A question, its kind (``single``, ``multiple`` or ``numeric``) and its possible answers.

    `otherwise` is what a number is told that no option foresees.
    """

    kind: str
    question: str
    options: tuple[Option, ...]
    otherwise: str = ""


def chapters() -> list[str]:
    """The chapters that have a quiz, as ``"00"``, ``"01"`` ..."""
    return sorted(p.name[:2] for p in _folder().iterdir() if re.fullmatch(r"\d\d\.json", p.name))


def load(chapter: str) -> list[Question]:
    """The questions of a chapter, checked.

    Parameters
    ----------
    chapter
        Two digits, such as ``"02"``.

    Raises
    ------
    ValueError
        If there is no quiz for the chapter, or its file breaks a rule: `parse` has the rules.
    """
    if chapter not in chapters():
        raise ValueError(
            f"There is no quiz for chapter {chapter!r}; there are {', '.join(chapters())}."
        )
    name = f"{chapter}.json"
    try:
        content = json.loads((_folder() / name).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{name}, line {error.lineno}: this is no JSON: {error.msg}.") from None
    return parse(content, name)


def parse(content: Any, name: str = "quiz") -> list[Question]:
    """Questions from what a quiz file holds: ``{"questions": [...]}``.

    A question has ``kind``, ``question`` and ``options``; an option has ``right``, ``why`` and
    ``text``, or for a number ``value`` and ``tolerance`` in place of ``text``.
    A numeric question has ``otherwise`` too.

    Raises
    ------
    ValueError
        If there are fewer than four questions or more than six, a question comes twice,
        a number of right answers does not fit its kind, an answer comes twice or has no reason,
        two numbers accept the same answer, or a text holds what is not shown everywhere alike,
        such as formulas and links. The message names the file and the question.
    """
    if not isinstance(content, dict) or not isinstance(content.get("questions"), list):
        raise ValueError(f'{name}: a quiz is {{"questions": [...]}}.')
    given = content["questions"]
    if not FEWEST <= len(given) <= MOST:
        raise ValueError(f"{name} has {len(given)} questions; {FEWEST} to {MOST} are wanted.")
    questions = [_question(one, f"{name}, question {n}") for n, one in enumerate(given, start=1)]
    asked = [question.question for question in questions]
    for number, text in enumerate(asked, start=1):
        if asked.index(text) != number - 1:
            raise ValueError(
                f"{name}, question {number} is question {asked.index(text) + 1} again."
            )
    return questions


def _question(given: Any, where: str) -> Question:
    kind = given.get("kind") if isinstance(given, dict) else None
    if kind not in KINDS:
        raise ValueError(f"{where}: kind is {kind!r}; it is one of {', '.join(KINDS)}.")
    numeric = kind == "numeric"
    _only(given, {"kind", "question", "options"} | ({"otherwise"} if numeric else set()), where)
    if not isinstance(given["options"], list) or len(given["options"]) < 3 - numeric:
        raise ValueError(f"{where}: `options` is a list of {3 - numeric} or more.")
    options = tuple(
        _option(one, f"{where}, option {n}", numeric=numeric)
        for n, one in enumerate(given["options"], start=1)
    )
    right = sum(option.right for option in options)
    wanted = {"single": right == 1, "multiple": right >= 2, "numeric": right == 1}
    if not wanted[kind] or right == len(options):
        raise ValueError(
            f"{where}: {right} of {len(options)} options are right. A question with several right "
            "ones is `multiple`, any other has one; and something must be wrong."
        )
    answers = [option.text for option in options]
    if not numeric and len(set(answers)) < len(answers):
        raise ValueError(f"{where}: an option comes twice.")
    ends = sorted((o.value - o.tolerance, o.value + o.tolerance) for o in options)
    if numeric and any(low <= high for (_, high), (low, _) in pairwise(ends)):
        raise ValueError(f"{where}: two options accept the same number; make tolerances smaller.")
    return Question(
        kind,
        _text(given["question"], f"{where}: question"),
        options,
        _text(given["otherwise"], f"{where}: otherwise") if numeric else "",
    )


def _option(given: Any, where: str, *, numeric: bool) -> Option:
    if not isinstance(given, dict):
        raise ValueError(f"{where} is no object with `right` and `why`.")
    _only(given, {"right", "why", *(("value", "tolerance") if numeric else ("text",))}, where)
    if not isinstance(given["right"], bool):
        raise ValueError(f"{where}: right is {given['right']!r}; write true or false.")
    why = _text(given["why"], f"{where}: why")
    if not numeric:
        return Option(given["right"], why, text=_text(given["text"], f"{where}: text"))
    numbers = [given["value"], given["tolerance"]]
    if any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
        raise ValueError(f"{where}: value and tolerance are numbers, not {numbers}.")
    if not all(map(math.isfinite, numbers)) or numbers[1] <= 0:
        raise ValueError(f"{where}: value is finite and tolerance above 0, not {numbers}.")
    return Option(given["right"], why, value=float(numbers[0]), tolerance=float(numbers[1]))


def _only(given: dict, names: set[str], where: str) -> None:
    for problem, found in (("lacks", names - given.keys()), ("has unknown", given.keys() - names)):
        if found:
            raise ValueError(f"{where} {problem} {', '.join(sorted(found))}.")


def _text(given: Any, where: str) -> str:
    if not isinstance(given, str) or not given.strip():
        raise ValueError(f"{where} is empty: every question and every option explains itself.")
    prose = re.sub(r"`[^`]*`", "", given)
    if "](" in given or any(sign in given for sign in "$\n") or any(s in prose for s in "*<`"):
        raise ValueError(
            f"{where} holds a formula, a link, markup or a new line. Write words and `code` only: "
            "they read the same in a notebook, on the site and as plain text."
        )
    return given.strip()


def ask(chapter: str) -> None:
    """Show the quiz of a chapter in a notebook; as plain text where jupyterquiz is missing.

    Raises
    ------
    ValueError
        If the chapter has no quiz, or its file is wrong.
    """
    questions = load(chapter)
    from IPython import get_ipython
    from IPython.display import display

    page = _interactive(questions) if get_ipython() else None
    if page is None:
        print(as_text(questions))
        return
    note = f"Quiz of chapter {chapter}: {len(questions)} questions. Run this cell to answer them."
    display({"text/html": page, "text/plain": note}, raw=True)


def _interactive(questions: list[Question]) -> str | None:
    """The page that answers, which loads nothing; None where jupyterquiz is missing."""
    try:
        from jupyterquiz import display_quiz
    except ImportError:
        return None
    from IPython.utils.capture import capture_output

    with capture_output() as shown:
        display_quiz(
            [_for_jupyterquiz(question, n) for n, question in enumerate(questions, start=1)],
            shuffle_answers=False,
            max_width=720,
            border_radius=6,
            colors=_COLOURS,
        )
    parts = {kind: part for output in shown.outputs for kind, part in output.data.items()}
    box, script = parts["text/html"], parts["application/javascript"]
    name = re.search(r'id="(\w+)"', box)[1]
    # In jupyterquiz's script a MathJax that it takes for unfinished is fetched from the network.
    # Our questions hold no formulas, so it gets to see none.
    script = f"(function (MathJax) {{\n{script}\n}})();\n{_TIDY % (name, len(questions))}"
    return f'<div class="course-quiz">{box}</div></div>\n{_STYLE}\n<script>\n{script}</script>'


def _for_jupyterquiz(question: Question, number: int) -> dict:
    told = [("Right. " if o.right else "No. ") + o.why for o in question.options]
    prompt = as_html(f"Question {number}. {question.question}")
    if question.kind == "multiple":
        prompt += " Choose all that apply."
    if question.kind != "numeric":
        answers = [
            {"answer": as_html(option.text), "correct": option.right, "feedback": as_html(why)}
            for option, why in zip(question.options, told, strict=True)
        ]
        kind = "many_choice" if question.kind == "multiple" else "multiple_choice"
        return {"question": prompt, "type": kind, "answers": answers, "answer_cols": 1}
    numbers = [
        {
            "type": "range",
            "range": [option.value - option.tolerance, option.value + option.tolerance],
            "correct": option.right,
            "feedback": as_html(why),
        }
        for option, why in zip(question.options, told, strict=True)
    ]
    other = {"type": "default", "feedback": as_html(f"No. {question.otherwise}")}
    return {"question": prompt, "type": "numeric", "answers": [*numbers, other]}


def as_html(text: str) -> str:
    """A text of a question as HTML: code is marked, everything else escaped."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))


def as_markdown(questions: list[Question]) -> str:
    """The quiz as MyST Markdown: under each question its answers, folded, each with its reason.

    It folds without a script and without a kernel.
    """
    lines = []
    for number, question in enumerate(questions, start=1):
        lines += [f"**Question {number}** ({KINDS[question.kind]}).", question.question, ""]
        if question.kind != "numeric":
            lines += [f"- **{key}.** {option.text}" for key, option in _lettered(question)]
            lines.append("")
        lines += [f":::{{dropdown}} Answer to question {number}"]
        lines += [f"- **{head}** {why}" for head, why in _reasons(question)]
        lines += [":::", ""]
    return "\n".join(lines).rstrip()


def as_text(questions: list[Question]) -> str:
    """The quiz as plain text: first all questions, then all answers, each with its reason."""
    asked, answered = [], []
    for number, question in enumerate(questions, start=1):
        asked.append(f"Question {number} ({KINDS[question.kind]}). {question.question}")
        if question.kind != "numeric":
            asked += [f"  {key}. {option.text}" for key, option in _lettered(question)]
        asked.append("")
        answered.append(f"Answer to question {number}")
        answered += [f"  {head} {why}" for head, why in _reasons(question)]
        answered.append("")
    parting = "Answer first, then read on.\n" + 27 * "-"
    return "\n".join([*asked, parting, "", *answered]).rstrip()


def _lettered(question: Question) -> Iterator[tuple[str, Option]]:
    return zip(_LETTERS, question.options, strict=False)


def _reasons(question: Question) -> Iterator[tuple[str, str]]:
    """How each answer is introduced, and its reason."""
    for key, option in _lettered(question):
        word = "right" if option.right else "wrong"
        if question.kind == "numeric":
            yield f"{option.value:g}, {word}.", option.why
        else:
            yield f"{key}, {word}.", option.why
    if question.otherwise:
        yield "Any other number.", question.otherwise


def _folder() -> Path:
    return Path(str(resources.files("heclip_course"))) / "quizzes"
