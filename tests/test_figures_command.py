"""``fp16sim figures``: figures are made again by what the figures' page says makes them."""

import importlib
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from fp16sim.cli import main
from fp16sim.plots import ENDINGS

command = importlib.import_module("fp16sim.cli.figures")
LESSONS = Path(__file__).parents[1] / "lessons"

DRAW = """
import sys
from pathlib import Path
from fp16sim import plots

with plots.style():
    figure = plots.new_figure(2, 1)
    figure.add_subplot().plot([1, 2])
plots.save(figure, Path("figures"), sys.argv[1])
sys.exit(sys.argv[1] == "line")  # as the doctor, who ends with 1 if something is wrong
"""
PAGE = """# Figures
| figure | made by | what it shows |
| --- | --- | --- |
| `line` | `python lessons/draw.py line` | A line. |
| `other` | `python lessons/draw.py wrong_name` | Nothing. |
| `broken` | `fp16sim no-such-command` | Nothing. |
| `bench` | `fp16sim bench`, or another | Not kept here. |
"""


@pytest.fixture
def clone(monkeypatch, tmp_path):
    """A repository of a page and a script."""
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "README.md").write_text(PAGE)
    (tmp_path / "lessons").mkdir()
    (tmp_path / "lessons" / "draw.py").write_text(DRAW)
    monkeypatch.setattr(command, "FOLDER", tmp_path / "figures")
    return tmp_path


def fp16sim(*arguments):
    return CliRunner().invoke(main, ["figures", *map(str, arguments)])


def test_a_figure_is_made_twice_the_same(clone, tmp_path):
    for out in ("a", "b"):
        done = fp16sim("line", "--out", tmp_path / out)
        assert done.exit_code == 0, done.output
    names = {"line.svg", "line.png", "line-dark.svg", "line-dark.png"}
    assert names == {"line" + ending for ending in ENDINGS}
    assert {path.name for path in (tmp_path / "a").iterdir()} == names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_what_fails_is_named_and_the_rest_is_made(clone, tmp_path):
    done = fp16sim("--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "not made: other, broken" in done.output
    assert "ended with code 0 and did not write other.svg" in done.output
    assert "No such command" in done.output
    assert {path.stem for path in (tmp_path / "out").iterdir()} == {"line", "line-dark"}


def test_list_says_what_there_is_and_draws_nothing(clone):
    done = fp16sim("--list")
    first = done.output.splitlines()[0]
    assert first.split() == ["line", "python", "lessons/draw.py", "line"]
    assert "bench" not in done.output


def test_an_unknown_name_is_bad_usage(clone):
    done = fp16sim("lines")
    assert done.exit_code == 2
    assert "there is no figure lines; there are line, other" in done.output


def test_without_the_repository_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(command, "FOLDER", tmp_path / "nowhere")
    done = fp16sim()
    assert done.exit_code == 1
    assert "clone it" in done.output


def test_the_page_and_the_files_agree():
    """Every figure has its four files and an alternative text; every lesson has a figure."""
    known = command.sources()
    files = {path.name for path in command.FOLDER.iterdir()} - {"README.md"}
    assert files == {name + ending for name in known for ending in ENDINGS}
    page = (command.FOLDER / "README.md").read_text()
    for name in known:
        section = re.search(
            rf"^## {name}\n\n\*\*Alt text\.\*\* (.+?)(?:\n\n|\Z)", page, re.M | re.S
        )
        assert section, name
        assert len(section[1]) > 20, name
    lessons = {path.stem for path in LESSONS.glob("[0-9][0-9]_*.py")}
    assert lessons <= set(known)
