"""Networks: modules that hold parameters and name the scopes in which things happen."""

from fp16sim.nn import init
from fp16sim.nn.layers import Linear, ReLU, Sigmoid, Tanh
from fp16sim.nn.module import Module, Sequential

__all__ = ["Linear", "Module", "ReLU", "Sequential", "Sigmoid", "Tanh", "init"]
