"""The networks of the zoo against straight PyTorch: in float64, trained in fp32, and in fp16.

``share_of_equal_bits`` compares two results in fp16; the tests print what they find (``-s``).
"""

from contextlib import ExitStack
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.nn import functional as T
from torch.overrides import TorchFunctionMode

import fp16sim as fs
from fp16sim.autograd.primitive import PRIMITIVES
from fp16sim.bench.torch_zoo import network

# The references, ``bench.torch_zoo``, have the zoo's names, so that its weights load by name.


def twins(name, dtype=torch.float32):
    """A task of size tiny, and PyTorch's network with its weights."""
    task = fs.models.task(name, "tiny", seed=1)
    return task, network(task).to(dtype)


def outputs_of(reference, batch):
    """The network's output, and the loss, from one forward pass of PyTorch's."""
    outputs = []
    handle = reference.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    loss = reference.loss(*batch)
    handle.remove()
    (output,) = outputs
    return output, loss


def torchs(batch):
    return [torch.tensor(x) for x in batch]


def ours_of(model, batch):
    """The network's output, and the loss, from one forward pass."""
    outputs = []
    with model.hook(lambda module, inputs, output: outputs.append(output)):
        loss = model.loss(*batch)
    return outputs[0], loss


@pytest.mark.parametrize("name", fs.models.TASKS)
def test_loss_and_gradients_in_float64(name):
    task, reference = twins(name, torch.float64)
    model = task.model.to("fp64")
    batch = [x.astype(float) if x.dtype.kind == "f" else x for x in task.batch(0)]
    y, loss = ours_of(model, batch)
    z, other = outputs_of(reference, torchs(batch))
    assert loss.fmt == fs.FP64
    loss.backward()
    other.backward()
    theirs = dict(reference.named_parameters())
    pairs = [("output", y, z), ("loss", loss, other)]
    pairs += [(n, p.grad, theirs[n].grad) for n, p in model.named_parameters()]
    for what, mine, expected in pairs:
        expected = expected.detach().numpy()
        largest = np.abs(expected).max()
        assert largest > 0, what
        np.testing.assert_allclose(
            mine.data, expected, rtol=1e-10, atol=1e-10 * largest, err_msg=what
        )


@pytest.mark.parametrize("name", fs.models.TASKS)
@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_training_follows_torch(name, precision):
    """50 steps with warm-up and cosine; both add in other orders, 2^-24 or 2^-53 apart at first.

    In fp64 that stays far below the bound. In fp32 batch norm, ReLUs and Adam, which divides by
    small numbers at the start, may multiply it: of the detector's losses in steps 8 to 50 a few
    were 3e-3 apart with one BLAS thread, and 6e-7 with two. The first steps are near with any.
    """
    double = precision == "fp64"
    task, reference = twins(name, torch.float64 if double else torch.float32)
    task.model.to(precision)
    mine = task.optimizer
    mine.lr = task.schedule.base_lr if task.schedule else mine.lr
    schedule = fs.optim.Schedule(mine, fs.optim.schedules.cosine(50, warmup=5))
    task = replace(task, schedule=schedule)
    settings = {k: getattr(mine, k) for k in ("lr", "betas", "eps", "weight_decay")}
    theirs = getattr(torch.optim, type(mine).__name__)(reference.parameters(), **settings)
    losses = []
    for step in range(50):
        batch = [x.astype(float) if double and x.dtype.kind == "f" else x for x in task.batch(step)]
        theirs.param_groups[0]["lr"] = mine.lr
        theirs.zero_grad()
        loss = reference.loss(*torchs(batch))
        loss.backward()
        theirs.step()
        own = replace(task, batch=lambda _, batch=batch: tuple(batch)).train_step(step).loss
        losses.append((own, loss.item()))
    curves = np.array(losses)
    assert curves[-5:].mean() < 0.9 * curves[:5].mean()
    np.testing.assert_allclose(curves[:5, 0], curves[:5, 1], rtol=1e-10 if double else 1e-5)
    np.testing.assert_allclose(curves[:, 0], curves[:, 1], rtol=1e-7 if double else 0.02)


# --- fp16 ----------------------------------------------------------------------------------------
#
# PyTorch's CPU kernels for float16 do not all compute in fp32 and round once, as a GPU with fp32
# accumulation does: gradients of convolutions, transposed convolutions, attention and the gradient
# of sigmoid round on the way. So there are two references: CPU autocast as it is, and ``Once``,
# PyTorch's fp32 kernels on fp16 inputs with one rounding of each result and each gradient.


class Once(TorchFunctionMode):
    """What autocast runs in fp16 is computed by PyTorch in fp32, and rounded to fp16 once."""

    LOW = (T.linear, T.conv2d, T.conv_transpose2d)
    NARROW = (T.batch_norm, T.gelu)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, first = kwargs or {}, args[0] if args else None
        if function in self.LOW:  # .half() also rounds the gradient, on its way back
            args = [x.half().float() if isinstance(x, torch.Tensor) else x for x in args]
            return function(*args, **kwargs).half()
        if function is T.scaled_dot_product_attention:
            return attention(*(x.half().float() for x in args)).half()
        if isinstance(first, torch.Tensor) and first.dtype == torch.float16:
            if function in self.NARROW:
                return function(first.float(), *args[1:], **kwargs).half()
            if function is torch.sigmoid:
                return Sigmoid.apply(first)
        return function(*args, **kwargs)


class Sigmoid(torch.autograd.Function):
    """Of fp16; the gradient is made from the stored result, and rounded once."""

    @staticmethod
    def forward(ctx, x):
        y = torch.sigmoid(x.float()).half()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        y = ctx.saved_tensors[0].float()
        return (g.float() * (1 - y) * y).half()


class Probabilities(torch.autograd.Function):
    """softmax(scores · scale) in fp32, rounded to fp16, and so is the scores' gradient."""

    @staticmethod
    def forward(ctx, scores, scale):
        p = torch.softmax(scores * scale, -1).half().float()
        ctx.save_for_backward(p)
        ctx.scale = scale
        return p

    @staticmethod
    def backward(ctx, g):
        (p,) = ctx.saved_tensors
        h = p * (g - (g * p).sum(-1, keepdim=True))
        return (h * ctx.scale).half().float(), None


def attention(q, k, v):
    scores = q @ k.transpose(-1, -2)
    seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    return Probabilities.apply(scores.masked_fill(~seen, -torch.inf), q.shape[-1] ** -0.5) @ v


class Comparison(NamedTuple):
    share: float  #: of the elements that are the same bits in fp16
    ulps: float  #: the largest difference, in units of fp16's spacing at the largest value


def share_of_equal_bits(actual, expected):
    """Two arrays, or PyTorch's tensors, rounded to fp16 and compared."""
    mine, theirs = (np.asarray(x, np.float32).astype(np.float16) for x in (actual, expected))
    assert mine.shape == theirs.shape
    assert np.isfinite(mine).all()
    assert np.isfinite(theirs).all()
    largest = np.abs(theirs).max()
    difference = np.abs(mine.astype(float) - theirs.astype(float)).max()
    share = (mine.view(np.uint16) == theirs.view(np.uint16)).mean()
    return Comparison(float(share), float(difference / np.spacing(largest)))


class Results(NamedTuple):
    outputs: dict[str, Comparison]  #: of every module
    gradients: dict[str, Comparison]  #: of these outputs
    parameters: dict[str, Comparison]  #: their gradients
    losses: tuple[float, float]


SCALE = 1024.0
MODES = {"once": Once, "cpu": lambda: torch.autocast("cpu", torch.float16)}


@fs.primitive(exact=True)
def seen_on_the_way_back(x, *, tell):
    return x, (tell,)


@seen_on_the_way_back.backward
def _(g, tell):
    tell(g.copy())
    return (g,)


del PRIMITIVES["seen_on_the_way_back"]  # for these tests only


class Given(torch.autograd.Function):
    """The given value in place of x's, and what ``answer`` says in place of the gradient."""

    @staticmethod
    def forward(ctx, x, value, answer):
        ctx.answer = answer
        return value.to(x.dtype)

    @staticmethod
    def backward(ctx, g):
        return ctx.answer(g).to(g.dtype), None, None


def in_fp16(name, mode, forced):
    """Both networks forward and backward in mixed precision, compared module by module.

    forced: after each comparison PyTorch goes on with our output, and our gradient, so that every
    module is compared on the same inputs.
    """
    task, reference = twins(name)
    batch, modules = task.batch(0), dict(reference.named_modules())
    values, slopes, outputs, gradients = {}, {}, {}, {}
    with ExitStack() as stack:
        for path, module in task.model.named_modules():
            if path in modules:  # activations are no modules there

                def keep(_, inputs, output, path=path):
                    values[path] = output.data
                    tell = lambda g: slopes.__setitem__(path, g)  # noqa: E731
                    return seen_on_the_way_back(output, tell=tell)

                stack.enter_context(module.hook(keep))
        with fs.autocast("fp16"):
            loss = task.model.loss(*batch)
    (loss * SCALE).backward()

    for path in values:

        def check(_, inputs, output, path=path):
            outputs[path] = share_of_equal_bits(values[path], output.detach())

            def answer(g):
                gradients[path] = share_of_equal_bits(slopes[path], g)
                return torch.tensor(slopes[path]) if forced else g

            value = torch.tensor(values[path]) if forced else output
            return Given.apply(output, value, answer)

        modules[path].register_forward_hook(check)
    with MODES[mode]():
        other = reference.loss(*torchs(batch))
    (other * SCALE).backward()
    theirs = dict(reference.named_parameters())
    assert outputs.keys() == gradients.keys() == values.keys()
    parameters = {
        path: share_of_equal_bits(p.grad.data, theirs[path].grad)
        for path, p in task.model.named_parameters()
    }
    return Results(outputs, gradients, parameters, (loss.item(), other.item()))


def show(title, results):
    for what in ("outputs", "gradients", "parameters"):
        found = getattr(results, what)
        worst = min(found, key=lambda path: found[path].share)
        shares = [one.share for one in found.values()]
        ulps = max(one.ulps for one in found.values())
        print(
            f"{title:24} {what:10} equal bits: mean {np.mean(shares):.4f}, least "
            f"{found[worst].share:.4f} ({worst or 'all'}); largest difference {ulps:.3g} ulps"
        )
    print(f"{title:24} loss {results.losses[0]!r}, PyTorch's {results.losses[1]!r}")


def least(found):
    return min(one.share for one in found.values())


def mean(found):
    return np.mean([one.share for one in found.values()])


def largest_difference(*found):
    return max(one.ulps for part in found for one in part.values())


@pytest.mark.parametrize("name", fs.models.TASKS)
def test_every_module_in_fp16_gives_torchs_bits(name):
    """With equal inputs, fp32 inside and one rounding, only sums in another order are left.

    They turn one rounding in some thousands by one ulp; attention rounds the probabilities on the
    way, too. Found: outputs 99.58 % equal or more (attention), 99.9 % without it; gradients of
    outputs 99.78 %; gradients of parameters 98.2 % (behind attention), on average 99.89 %; nothing
    is off by more than one ulp of the largest value.
    """
    results = in_fp16(name, "once", forced=True)
    show(f"{name}, once, forced", results)
    outputs, gradients, parameters, losses = results
    assert least(outputs) > 0.99
    assert least(gradients) > 0.99
    assert least(parameters) > 0.95
    assert mean(parameters) > 0.99
    assert largest_difference(outputs, gradients, parameters) <= 1
    # Of the network's own last output, in which a rounding may have turned: 3e-6 on an Intel CPU.
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("name", fs.models.TASKS)
def test_every_module_in_fp16_is_close_to_torchs_cpu_kernels(name):
    """CPU autocast rounds more often: gradients of convolutions and sigmoid, attention, and
    transposed convolutions. Found: modules' outputs 96.5 % equal on average or more, their
    gradients 87.6 %, parameters' 81.3 %; the largest difference is two ulps of the largest value.
    """
    results = in_fp16(name, "cpu", forced=True)
    show(f"{name}, cpu, forced", results)
    outputs, gradients, parameters, losses = results
    assert mean(outputs) > 0.9
    assert mean(gradients) > 0.75
    assert mean(parameters) > 0.7
    assert largest_difference(outputs, gradients, parameters) <= 4
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


#: the share of equal bits in the output of the whole network that is asked for. One rounding that
#: differs reaches 9 x channels sums in the next convolution and turns some of their roundings:
#: in the six convolutions of yolo 0.02 % in the first become 70 % in the output, by an ulp each.
#: Found, with Once and on the CPU: autoencoder and mlp and cnn 99.9 % or more, gpt 98.8 and 61 %,
#: yolo 30 and 32 %, unet 82 and 63 %.
SHARES = {"autoencoder": 0.98, "mlp": 0.98, "cnn": 0.98, "gpt": 0.5, "yolo": 0.2, "unet": 0.5}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", fs.models.TASKS)
def test_the_whole_network_in_fp16(name, mode):
    """Found: outputs within 2 ulps of their largest, losses within 7e-6, gradients of parameters
    within 29 ulps: ReLU and max-pool send a gradient elsewhere when the last bit decides.
    """
    results = in_fp16(name, mode, forced=False)
    show(f"{name}, {mode}, free", results)
    assert results.outputs[""].share > SHARES[name]
    assert largest_difference(results.outputs) <= 4
    assert largest_difference(results.parameters) <= 64
    assert results.losses[0] == pytest.approx(results.losses[1], rel=5e-5)
