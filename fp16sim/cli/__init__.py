"""The command line: thin. Results go to standard output, progress and remarks to standard error."""

from __future__ import annotations

import click

from fp16sim.cli.accumulate import accumulate
from fp16sim.cli.bench import bench
from fp16sim.cli.clinic import clinic
from fp16sim.cli.doctor import doctor
from fp16sim.cli.figures import figures
from fp16sim.cli.lessons import lessons
from fp16sim.cli.memory import memory
from fp16sim.cli.numbers import explain
from fp16sim.cli.presets import presets
from fp16sim.cli.primitives import primitives
from fp16sim.cli.rescue import rescue
from fp16sim.cli.swamping import swamping
from fp16sim.cli.train import train
from fp16sim.cli.underflow import underflow


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="fp16sim")
def main() -> None:
    """See what half precision does to a neural network."""


COMMANDS = (
    lessons,
    figures,
    rescue,
    underflow,
    swamping,
    explain,
    accumulate,
    train,
    memory,
    bench,
    doctor,
    clinic,
    primitives,
    presets,
)
for command in COMMANDS:
    main.add_command(command)
