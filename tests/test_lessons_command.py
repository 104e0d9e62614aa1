"""``fp16sim lessons``: the reader's way through the course."""

import importlib
import json

import pytest
from click.testing import CliRunner

from fp16sim.cli import main

command = importlib.import_module("fp16sim.cli.lessons")

RIGHT = """
import math

def spacing(x, fmt):
    return 2.0 ** (max(math.frexp(x)[1] - 1, fmt.emin) - fmt.precision + 1)
"""
TINY = """# %% [markdown]
# # {number:02} · {title}
#
# - **Time:** a minute to read;
#   no computing
# %%
from checks import check_it
def it(): return {answer}
check_it(it)
"""


@pytest.fixture
def home(monkeypatch, tmp_path):
    """What is remembered goes here."""
    monkeypatch.setattr(command.click, "get_app_dir", lambda name: str(tmp_path / name))
    return tmp_path


@pytest.fixture
def course(monkeypatch, tmp_path):
    """Two lessons of one cell each; the second one fails."""
    folder = tmp_path / "lessons"
    folder.mkdir()
    (folder / "01_one.py").write_text(TINY.format(number=1, title="One", answer=1))
    (folder / "07_seven.py").write_text(TINY.format(number=7, title="Seven", answer="1 / 0"))
    check = "def check_it(it):\n    print('asked')\n    return it() == 1\n"
    (folder / "checks.py").write_text(check)
    monkeypatch.setattr(command, "FOLDER", folder)
    return folder


def fp16sim(*arguments):
    return CliRunner().invoke(main, ["lessons", *map(str, arguments)])


def test_list_has_all_lessons_and_what_was_passed(home):
    assert command.passed() == set()
    command._note(2)
    command._note(12)
    done = fp16sim("list")
    assert done.exit_code == 0, done.output
    for one in command.found():
        assert f"{one.number:02}" in done.output
    assert done.output.count("passed") == 2
    assert "What fp16 can hold" in done.output
    assert json.loads((home / "fp16sim" / "lessons.json").read_text()) == [2, 12]


@pytest.mark.parametrize("text", ["{", '{"1": 2}', '["x"]', ""])
def test_a_record_that_is_broken_is_no_record(home, text):
    (home / "fp16sim").mkdir()
    (home / "fp16sim" / "lessons.json").write_text(text)
    assert command.passed() == set()
    command._note(3)
    assert command.passed() == {3}


def test_every_lesson_says_what_it_is():
    for one in command.found():
        assert one.title[0].isupper()
        assert "half an hour" in one.time
        assert "\n" not in one.time
        assert one.check.startswith("check_")


def test_check_of_ones_own_file(home, tmp_path, capfd):
    mine = tmp_path / "mine.py"
    mine.write_text(RIGHT)
    assert fp16sim("check", 2, mine).exit_code == 0
    assert capfd.readouterr().out.count("Right:") == 1
    assert command.passed() == {2}
    mine.write_text(RIGHT.replace("fmt.precision", "11"))
    assert fp16sim("check", 3, mine).exit_code == 1
    assert "has no function round_even" in capfd.readouterr().err
    assert fp16sim("check", 2, mine).exit_code == 1
    assert "Is 2^-10 built in" in capfd.readouterr().out
    mine.write_text("1 / 0")
    assert fp16sim("check", 2, mine).exit_code == 1
    assert "ZeroDivisionError" in capfd.readouterr().err
    assert command.passed() == {2}


def test_the_lessons_own_file_is_asked_once(home, course, capfd):
    assert fp16sim("check", 1).exit_code == 0
    assert capfd.readouterr().out.split() == ["asked"]
    assert command.passed() == {1}


def test_run_ends_as_the_lesson_does(course, capfd):
    assert fp16sim("run", 1, "--fast").exit_code == 0
    assert fp16sim("run", 7).exit_code == 1
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_all_says_which_failed(course):
    done = fp16sim("all", "--fast")
    assert done.exit_code == 1
    assert "failed: 07" in done.output
    assert "01 One: " in done.output
    (course / "07_seven.py").unlink()
    assert fp16sim("all").exit_code == 0


def test_notebook(tmp_path):
    done = fp16sim("notebook", 2, "--out", tmp_path / "new")
    assert done.exit_code == 0, done.output
    made = json.loads((tmp_path / "new" / "02_what_fp16_can_hold.ipynb").read_text())
    kinds = [cell["cell_type"] for cell in made["cells"]]
    assert kinds[:2] == ["markdown", "code"]
    assert "".join(made["cells"][0]["source"]).startswith("# 02 · What fp16 can hold")


def test_mistakes(monkeypatch, tmp_path):
    done = fp16sim("run", 99)
    assert done.exit_code == 2
    assert "there is no lesson 99; there are 1, 2" in done.output
    assert fp16sim("check", 2, tmp_path / "none.py").exit_code == 2
    monkeypatch.setattr(command, "FOLDER", tmp_path)
    done = fp16sim("list")
    assert done.exit_code == 1
    assert "clone it" in done.output
    (tmp_path / "01_x.py").write_text("nothing")
    with pytest.raises(ValueError, match="has no title, no time, or no check"):
        command.found()


def test_without_jupytext(monkeypatch, tmp_path):
    monkeypatch.setitem(command.sys.modules, "jupytext", None)
    done = fp16sim("notebook", 2, "--out", tmp_path)
    assert done.exit_code == 1
    assert "pip install 'fp16sim[lessons]'" in done.output
