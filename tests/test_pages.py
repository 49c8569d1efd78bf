"""The two pages beside the lessons keep what they say: terms stand where the glossary sends, times and exercises agree."""

import re
from pathlib import Path

import jupytext
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"
SOURCES = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.py"))
GLOSSARY, TEACHERS = NOTEBOOKS / "GLOSSARY.md", NOTEBOOKS / "FOR_TEACHERS.md"


def rows(page: Path) -> list[list[str]]:
    """The cells of every row of a page's tables, their heads left out."""
    lines = [line for line in page.read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def prose(source: Path) -> str:
    """What a lesson says, in one line, without the signs of markdown and in small letters."""
    cells = jupytext.read(source, fmt="py:percent").cells
    text = " ".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return " ".join(re.sub(r"[*`]", "", text).split()).lower()


PROSE = {source.stem: prose(source) for source in SOURCES}
TERMS = rows(GLOSSARY)[1:]


@pytest.mark.parametrize("row", TERMS, ids=lambda row: row[0])
def test_a_term_stands_in_the_lesson_that_introduces_it(row):
    term, meaning, lesson = row
    number, stem = re.fullmatch(r"\[(\d\d)\]\((\w+)\.ipynb\)", lesson).groups()
    assert stem.startswith(number) and len(meaning) > 15
    assert re.search(rf"\b{re.escape(term.lower())}", PROSE[stem]), f"{stem} does not say {term!r}"


def test_the_glossary_is_in_order_and_every_lesson_is_in_it():
    terms = [row[0].casefold() for row in TERMS]
    assert len(terms) >= 60 and terms == sorted(set(terms))
    assert {row[2][1:3] for row in TERMS} == {source.name[:2] for source in SOURCES}


def test_the_teachers_table_has_every_lesson_with_its_time_and_its_exercises():
    listed = {row[0]: row[1:] for row in rows(TEACHERS) if re.match(r"\[\d\d · ", row[0])}
    for source in SOURCES:
        text = source.read_text()
        title = re.search(r"^# # (.+)$", text, re.MULTILINE)[1]
        minutes = re.search(r"\*\*Time\*\* \| (\d+) minutes", text)[1]
        exercises = sorted(set(re.findall(r"= check_(\w+)\(", text)))
        assert listed[f"[{title}]({source.stem}.ipynb)"] == [minutes, ", ".join(exercises) or "-"]


@pytest.mark.parametrize(
    ("heading", "total"),
    [("45 minutes", 45), ("Half a day", 210), ("Two days", 720)],
    ids=lambda one: str(one),
)
def test_a_route_takes_as_long_as_it_says(heading, total):
    section = re.search(rf"^## {heading}.*?(?=^## )", TEACHERS.read_text(), re.MULTILINE | re.DOTALL)[0]
    assert sum(map(int, re.findall(r"^\| (\d+) \|", section, re.MULTILINE))) == total


@pytest.mark.parametrize("page", [GLOSSARY, TEACHERS], ids=lambda page: page.stem)
def test_links_lead_somewhere_and_the_front_page_leads_here(page):
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        assert (page.parent / link).exists() or (page.parent / link).with_suffix(".py").exists(), link
    assert f"notebooks/{page.name}" in (ROOT / "README.md").read_text()


def test_parts_of_lessons_that_the_teacher_is_sent_to_are_there():
    """Words in italics beside a lesson's number are a heading, an exercise or the quiz of that lesson."""
    for row in rows(TEACHERS):
        for stem, part in re.findall(r"\((\d\d_\w+)\.ipynb\)[^\[]*?, \*([^*]+)\*", " | ".join(row)):
            assert (
                part.lower() in PROSE[stem] or f"check_{part}(" in (NOTEBOOKS / f"{stem}.py").read_text()
            ), part
