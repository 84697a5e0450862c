"""A pretended CUDA device: what goes wrong or costs time on a GPU is seen without one.

    with pretended_cuda() as ledger:
        sample(cgn, 1_000, seed=0, device="cuda")
    assert ledger.counts().launches <= 300, str(ledger)

Inside the block tensors can be moved to `cuda:0`; they are computed on the CPU. Tensors of both
devices in one operation, generators of the CPU for tensors of the GPU, arrays of what NumPy cannot
reach, and host memory in a graph raise what CUDA raises. Launches, copies that the host waits for
and its other waits are counted by the line of the product that caused them.

Counts are those of eager kernels: a backward convolution is two, a multi-tensor operation as many
as its tensors need; casts of `torch.autocast` are not kept between uses. Time is not seen.

Source:
    https://docs.pytorch.org/docs/stable/notes/cuda.html#asynchronous-execution
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from pretended_ledger import VIEWS, Ledger, line, names
from pretended_streams import OF_CUDA, Stream
from pretended_tensors import (
    CPU,
    CUDA,
    LEDGER,
    PINNED,
    RECORDINGS,
    STATE,
    STORED,
    Pretended,
    address,
    copy_from_host,
    copy_to_host,
    is_pretended,
    on_gpu,
    operate,
    replaced,
    require_own_generator,
    tensors_in,
    wait_for,
)
from torch import Tensor
from torch.optim import optimizer
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

# What `torch.autocast` computes in the lower precision, in float32, and in the widest of its inputs
LOWER = names(
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear matmul "
    "__matmul__ __rmatmul__ mm bmm mv addmm addmv baddbmm scaled_dot_product_attention prelu "
    "einsum"
)
FULL = names(
    "acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow "
    "__pow__ __rpow__ softplus layer_norm group_norm norm cosine_similarity nll_loss kl_div "
    "l1_loss smooth_l1_loss mse_loss binary_cross_entropy_with_logits dist cdist renorm "
    "logsumexp softmax log_softmax cross_entropy cumsum cumprod prod sum interpolate"
)
WIDEST = names("addcdiv addcmul atan2 bilinear cross dot grid_sample cat stack tensordot")
CAST = LOWER | FULL | WIDEST


class Operations(TorchDispatchMode):
    """Sees every operation, also those that make a tensor from nothing."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return operate(func, args, kwargs or {})


class Functions(TorchFunctionMode):
    """Sees every function that names a device, and casts as `torch.autocast` does."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "backward" and is_pretended(args[0]):
            return run_backward(self, *args, **kwargs)
        if name in MOVES:
            return MOVES[name](func, *args, **kwargs)
        if func == Tensor.data.__set__ and is_pretended(args[0]):  # type: ignore[attr-defined]
            args[0].held = args[1].held
        if on_gpu(kwargs.get("device")):
            return make(func, name, args, kwargs)
        if torch.is_autocast_enabled("cuda"):
            args, kwargs = cast(name, args, kwargs)
        return call(func, args, kwargs)


def call(func: Any, args: Any, kwargs: Any) -> Any:
    """Call a function; if it is of pretended tensors, what it makes on its way is, too."""
    before, inside = STATE.inside, any(map(is_pretended, tensors_in(args, kwargs)))
    if inside:
        require_own_generator(kwargs.get("generator"))
    STATE.inside = inside
    try:
        return func(*args, **kwargs)
    finally:
        STATE.inside = before


def run_backward(
    mode: Functions,
    tensor: Tensor,
    gradient: Tensor | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Any = (),
) -> None:
    """Do what `Tensor.backward` does, under the mode: functions may have to be computed again.

    What gradients make on their way, as zeros for what was not used, is on the GPU.
    """
    gradients = torch.autograd._make_grads((tensor,), (gradient,), is_grads_batched=False)
    retain = create_graph if retain_graph is None else retain_graph
    how = {"allow_unreachable": True, "accumulate_grad": True}
    run = torch.autograd.graph._engine_run_backward
    before, STATE.inside = STATE.inside, True
    try:
        with mode:
            run((tensor,), gradients, retain, create_graph, tuple(inputs or ()), **how)
    finally:
        STATE.inside = before


def make(func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
    """Make a tensor on the device."""
    require_own_generator(kwargs.get("generator"))
    kwargs |= {"device": CPU}
    learns = kwargs.pop("requires_grad", False)
    if name in ("tensor", "as_tensor"):
        copy_from_host(name, None)
    elif name not in VIEWS:
        LEDGER.launches[line()] += 1
    before, STATE.inside = STATE.inside, False
    try:
        made = func(*args, **kwargs)
    finally:
        STATE.inside = before
    if RECORDINGS:
        RECORDINGS[-1].add(func, args, kwargs, made)
    return Pretended(made).requires_grad_(learns)


def cast(name: str, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Cast what `torch.autocast` would cast."""
    if name not in CAST:
        return args, kwargs
    floats = [e for e in tensors_in(args, kwargs) if is_pretended(e) and e.is_floating_point()]
    wide = name in FULL or (name in WIDEST and any(e.dtype == torch.float32 for e in floats))
    dtype = torch.float32 if wide else torch.get_autocast_dtype("cuda")

    def one(tensor: Tensor) -> Any:
        eligible = is_pretended(tensor) and tensor.is_floating_point()
        if not eligible or tensor.dtype in (dtype, torch.float64):
            return tensor
        return call(Tensor.to, (tensor, dtype), {})

    return replaced(args, one), replaced(kwargs, one)


class ToGPU(torch.autograd.Function):
    """A copy to the device; its gradient is copied back."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, dtype: torch.dtype, memory_format: Any) -> Tensor:
        """Copy."""
        return Pretended(tensor.detach().to(dtype).clone(memory_format=memory_format))

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        """Copy the gradient back."""
        copy_to_host(None)
        return gradient.held, None, None


class ToHost(torch.autograd.Function):
    """A copy from the device; its gradient is copied there."""

    @staticmethod
    def forward(ctx: Any, tensor: Any, dtype: torch.dtype) -> Tensor:
        """Copy."""
        copy: Tensor = tensor.held.detach().clone().to(dtype)
        return copy

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Copy the gradient back."""
        copy_from_host("gradient", gradient)
        return Pretended(gradient), None


def to(func: Any, tensor: Any, *args: Any, **kwargs: Any) -> Any:
    """Move a tensor to the other device, or do on its own what the CPU would do."""
    kwargs.pop("copy", None)
    if args and isinstance(args[0], Tensor):  # as another one is
        args = args[0].device, args[0].dtype, *args[1:]
    device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **kwargs)
    dtype = dtype or tensor.dtype
    memory_format = memory_format or torch.preserve_format
    if device is None or on_gpu(device) == is_pretended(tensor):
        return call(func, (tensor, dtype), {"memory_format": memory_format})
    if on_gpu(device):
        return to_gpu(tensor, dtype, memory_format, non_blocking=non_blocking)
    copy_to_host(None, non_blocking=non_blocking)
    copy = ToHost.apply(tensor, dtype)
    return pin(copy) if non_blocking else copy


def to_gpu(tensor: Tensor, dtype: torch.dtype, memory_format: Any, *, non_blocking: bool) -> Any:
    """Copy a tensor to the device."""
    copy_from_host("copy", tensor, non_blocking=non_blocking)
    if dtype != tensor.dtype:
        LEDGER.launches[line()] += 1
    copy: Any = ToGPU.apply(tensor, dtype, memory_format)
    if RECORDINGS:
        RECORDINGS[-1].add(Tensor.to, (tensor, dtype), {}, copy.held)
    return copy


def pin(tensor: Tensor) -> Tensor:
    """Lock a tensor of the CPU in memory."""
    PINNED[address(tensor)] = tensor
    return tensor


def to_numpy(func: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Raise what PyTorch raises: NumPy cannot reach the device."""
    if is_pretended(tensor):
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor "
            f"to host memory first. ({line()})"
        )
    return func(tensor, *args, **kwargs)


def to_list(func: Any, tensor: Any) -> Any:
    """Wait for the device once."""
    if not is_pretended(tensor):
        return func(tensor)
    wait_for("tolist")
    return tensor.held.tolist()


MOVES: dict[str, Callable[..., Any]] = {
    "to": to,
    "cpu": lambda func, tensor, **given: to(Tensor.to, tensor, CPU, **given),
    "cuda": lambda func, tensor, *at, **given: to(Tensor.to, tensor, CUDA, **given),
    "numpy": to_numpy,
    "__array__": to_numpy,
    "tolist": to_list,
    "pin_memory": lambda func, tensor, *at: pin(tensor.clone()),
    "is_pinned": lambda func, tensor, *at: address(tensor) in PINNED,
}


class Generator(torch.Generator):
    """A generator of either device."""

    def __new__(cls, device: Any = "cpu") -> Generator:
        made: Generator = super().__new__(cls)
        made.of = torch.device(device)
        return made

    of: torch.device
    device = property(lambda self: self.of)


def load(file: Any, map_location: Any = None, **given: Any) -> Any:
    """Read a file as `torch.load` does where there is a GPU: what says so lies there again."""
    of_gpu: set[int] = set()

    def place(storage: Any, location: str) -> Any:
        if on_gpu(location if map_location is None else map_location):
            of_gpu.add(storage.data_ptr())
        return storage

    def pretend(value: Any) -> Any:
        there = isinstance(value, Tensor) and address(value) in of_gpu
        return Pretended(value) if there else value

    return tree_map(pretend, LOAD(file, map_location=place, **given))


LOAD, SUBMIT, RUN = torch.load, ThreadPoolExecutor.submit, threading.Thread.run
TAG, GROUP = torch.serialization.location_tag, torch._C._group_tensors_by_device_and_dtype


def location_tag(storage: Any) -> Any:
    """Say where memory that is being stored was."""
    return "cuda:0" if storage.data_ptr() in STORED else TAG(storage)


def group(tensors: Any, with_indices: bool) -> dict[Any, Any]:
    """Group lists of tensors by device and type, as optimisers do before multi-tensor launches."""
    return {
        (CUDA if is_pretended(lists[0][0]) else device, dtype): (lists, indices)
        for (device, dtype), (lists, indices) in GROUP(tensors, with_indices).items()
    }


def submit(pool: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
    """Let a thread of a pool do something, pretending as this one does."""

    def task() -> Any:
        with on_this_thread():
            return function(*args, **kwargs)

    return SUBMIT(pool, task)


def run(thread: threading.Thread) -> None:
    """Let a thread pretend, unless it belongs to a pool, which outlives its tasks."""
    if getattr(thread, "_target", None).__module__ == "concurrent.futures.thread":
        return RUN(thread)
    with on_this_thread():
        return RUN(thread)


@contextmanager
def on_this_thread() -> Iterator[None]:
    """Pretend in this thread, if it does not already."""
    if STATE.active:
        yield
        return
    STATE.active = True
    try:
        with Operations(), Functions():  # type: ignore[no-untyped-call]
            yield
    finally:
        STATE.active = False


def stored_on_cuda() -> AbstractContextManager[Any]:
    """Let what `torch.save` writes inside the block say that it was on `cuda:0`."""
    return patch("torch.serialization.location_tag", lambda storage: "cuda:0")


@contextmanager
def pretended_cuda() -> Iterator[Ledger]:
    """Let this process have a CUDA device.

    Yields:
        What is counted, from nothing.
    """
    LEDGER.reset()
    foreach: tuple[list[Any], ...] = (
        torch.utils._foreach_utils._foreach_supported_types,
        optimizer._foreach_supported_types,
    )
    convert = torch.__future__.get_overwrite_module_params_on_conversion()
    with ExitStack() as stack:
        for name, value in OF_CUDA.items():
            stack.enter_context(patch.object(torch.cuda, name, value))
        stack.enter_context(patch.object(torch.accelerator, "current_stream", Stream))
        found = patch.object(torch.accelerator, "current_accelerator", lambda **given: CUDA)
        stack.enter_context(found)
        stack.enter_context(patch.object(torch._C, "_group_tensors_by_device_and_dtype", group))
        stack.enter_context(patch.object(torch, "load", load))
        stack.enter_context(patch.object(torch, "Generator", Generator))
        stack.enter_context(patch.object(torch.serialization, "location_tag", location_tag))
        stack.enter_context(patch.object(ThreadPoolExecutor, "submit", submit))
        stack.enter_context(patch.object(threading.Thread, "run", run))
        # A module's parameters become others when it is moved, as they are of another class.
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, convert)
        for types in foreach:
            types.append(Pretended)
            stack.callback(types.remove, Pretended)
        stack.callback(PINNED.clear)
        stack.callback(STORED.clear)
        with on_this_thread():
            yield LEDGER
