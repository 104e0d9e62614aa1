"""Networks: modules that hold parameters and name the scopes in which things happen."""

from fp16sim.nn import init
from fp16sim.nn.layers import (
    GELU,
    BatchNorm2d,
    Conv2d,
    ConvTranspose2d,
    Dropout,
    Embedding,
    Flatten,
    GroupNorm,
    LayerNorm,
    Linear,
    MaxPool2d,
    ReLU,
    RMSNorm,
    Sigmoid,
    SiLU,
    Tanh,
)
from fp16sim.nn.module import Module, Sequential
from fp16sim.nn.recompute import checkpoint
from fp16sim.nn.summary import Summary, summary
from fp16sim.nn.transformer import MultiheadAttention, TransformerBlock

__all__ = [
    "GELU",
    "BatchNorm2d",
    "Conv2d",
    "ConvTranspose2d",
    "Dropout",
    "Embedding",
    "Flatten",
    "GroupNorm",
    "LayerNorm",
    "Linear",
    "MaxPool2d",
    "Module",
    "MultiheadAttention",
    "RMSNorm",
    "ReLU",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Summary",
    "Tanh",
    "TransformerBlock",
    "checkpoint",
    "init",
    "summary",
]
