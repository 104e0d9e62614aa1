"""The networks of the lessons, one file each, and the tasks that they are trained for."""

from __future__ import annotations

from fp16sim.arguments import integer, one_of
from fp16sim.models import autoencoder, cnn, gpt, mlp, unet, yolo
from fp16sim.models.autoencoder import Autoencoder
from fp16sim.models.cnn import ConvNet
from fp16sim.models.gpt import GPT
from fp16sim.models.mlp import MLP
from fp16sim.models.task import SIZES, Network, Task
from fp16sim.models.unet import UNet
from fp16sim.models.yolo import Detector

__all__ = [
    "GPT",
    "MLP",
    "SIZES",
    "TASKS",
    "Autoencoder",
    "ConvNet",
    "Detector",
    "Network",
    "Task",
    "UNet",
    "task",
]

#: the zoo: from a name to the function that makes its task
TASKS = {
    "autoencoder": autoencoder.task,
    "mlp": mlp.task,
    "cnn": cnn.task,
    "gpt": gpt.task,
    "yolo": yolo.task,
    "unet": unet.task,
}


def task(name: str, size: str = "laptop", seed: int = 0) -> Task:
    """A network of the zoo with its data, optimiser and metric.

    name: one of ``TASKS``. size: one of ``SIZES``: "tiny" is for tests, "laptop" trains in about a
    minute on two cores, "gpu" fills a large GPU. seed: of the initial weights and the order of the
    data; the data itself does not depend on it.
    """
    one_of("name", name, TASKS)
    one_of("size", size, SIZES)
    return TASKS[name](size, integer("seed", seed, at_least=0))
