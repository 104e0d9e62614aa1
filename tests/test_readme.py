"""The README's code runs, and does what it says."""

import re
from pathlib import Path

import fp16sim as fs

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_code_blocks_run_in_order_and_give_what_they_promise(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 10
    names = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
        for line in block.splitlines():
            code, _, promise = line.partition("  # ")
            if promise.strip():
                value = eval(code, names)
                expected = re.match(r"-?[\d.]+|\[.*?\]|\(.*?\)", promise.strip())[0]
                value = list(value) if expected.startswith("[") else value
                assert value == eval(expected, {"inf": float("inf"), "fs": fs}), line
    assert "flushed" in capsys.readouterr().out


def test_both_commands_are_there():
    for name in ("main", "test"):
        match = re.search(rf"<!-- command: {name} -->\n```\n(.+)\n```\n<!-- end -->", README)
        assert match, name
        assert "\n" not in match[1]


def test_linked_files_exist():
    for target in re.findall(r"\]\(([^)#:]+)\)|(?:src|srcset)=\"([^\"]+)\"", README):
        assert (Path(__file__).parents[1] / "".join(target)).exists(), target
