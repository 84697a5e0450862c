"""Tensors that say they are on `cuda:0` and are computed on the CPU, and what CUDA refuses them.

How the device is put in place is not here: see `pretended_cuda`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from pretended_ledger import VIEWS, WAITS, Ledger, line, n_launches, names
from torch import Tensor, nn

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
# They change where a tensor's memory is or what shape it has; both accounts of it would differ.
REFUSED = names("set_ resize_ unsqueeze_ squeeze_ t_ transpose_")
INDEXED = {"index", "index_put", "_index_put_impl", "_unsafe_index", "_unsafe_index_put"}


class Pretended(Tensor):
    """A tensor that says it is on `cuda:0`.

    Attributes:
        held: The same numbers in the same memory, as the CPU knows them.
    """

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: Tensor, requires_grad: bool = False) -> Pretended:
        held = held.detach() if held.requires_grad else held
        pretended: Pretended = Tensor._make_subclass(
            cls, held, requires_grad, device_for_backend_keys=CUDA
        )
        pretended.held = held
        return pretended

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def get_device(self) -> int:
        """Return the number of the device."""
        return 0

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"{self.held!r} on {CUDA}"

    def __deepcopy__(self, memo: dict[int, Any]) -> Pretended:
        if id(self) not in memo:
            copy = Pretended(self.held.clone(), self.requires_grad)
            if isinstance(self, nn.Parameter):
                copy._is_param = True
            memo[id(self)] = copy
        copied: Pretended = memo[id(self)]
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Be written as a plain tensor; its memory will say where it was."""
        STORED.add(address(self.held))
        return self.held.__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return operate(func, args, kwargs or {})


@dataclass
class Recording:
    """A graph that is being captured.

    Attributes:
        steps: Each operation, its arguments and its result, all as the CPU knows them.
        before: What memory held that was there before.
        own: Memory that the graph has taken for itself.
    """

    steps: list[tuple[Callable[..., Any], Any, Any, Any]] = field(default_factory=list)
    before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = field(
        default_factory=dict
    )
    own: set[int] = field(default_factory=set)

    def look_at(self, inputs: Any) -> None:
        """Remember memory before an operation may change it."""
        for each in tensors_in(inputs):
            if address(each) not in self.own and address(each) not in self.before:
                storage = each.untyped_storage()
                self.before[address(each)] = storage, storage.clone()

    def add(self, function: Callable[..., Any], args: Any, kwargs: Any, result: Any) -> None:
        """Keep an operation."""
        self.own |= {address(each) for each in tensors_in(result)} - self.before.keys()
        self.steps.append((function, args, kwargs, result))

    def finish(self) -> None:
        """Leave memory as it was, for capturing runs nothing; results are not there yet."""
        for storage, old in self.before.values():
            storage.copy_(old)
        for *_, result in self.steps:
            for each in tensors_in(result):
                if address(each) in self.own:
                    each.detach().fill_(float("nan") if each.is_floating_point() else 0)

    @torch.no_grad()
    def replay(self) -> None:
        """Do it all again, in the same memory."""
        for function, args, kwargs, result in self.steps:
            anew = function(*args, **kwargs)
            for old, new in zip(tensors_in(result), tensors_in(anew), strict=True):
                if address(old) != address(new):
                    old.detach().copy_(new)


class State(threading.local):
    """What each thread is in the middle of.

    Attributes:
        active: It pretends already.
        inside: It runs a function of pretended tensors: what that makes on its way is on the GPU.
    """

    active = False
    inside = False


LEDGER, STATE = Ledger(), State()
RECORDINGS: list[Recording] = []  # the one that is being captured, if any
PINNED: dict[int, Tensor] = {}  # by address; tensors are held, so that no other takes their place
STORED: set[int] = set()  # addresses of memory that files shall say was on the GPU


def address(tensor: Tensor) -> int:
    """Tell tensors of one piece of memory from others."""
    return tensor.untyped_storage().data_ptr()


def is_pretended(value: object) -> bool:
    """Tell whether something is a tensor of the pretended device."""
    return isinstance(value, Pretended)


def on_gpu(device: object) -> bool:
    """Tell whether a device, however it is written, is a GPU."""
    return isinstance(device, str | torch.device) and torch.device(device).type == "cuda"


def tensors_in(*values: Any) -> Iterator[Tensor]:
    """Find the tensors among arguments or results, and in lists, tuples and dicts of them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(*value)
        elif type(value) is dict:
            yield from tensors_in(*value.values())


def replaced(value: Any, replace: Callable[[Tensor], Any]) -> Any:
    """Replace the tensors among arguments or results."""
    if isinstance(value, Tensor):
        return replace(value)
    if type(value) in (list, tuple):
        return type(value)(replaced(each, replace) for each in value)
    if type(value) is dict:
        return {name: replaced(each, replace) for name, each in value.items()}
    return value


def held(arguments: Any) -> Any:
    """Replace pretended tensors by what the CPU knows of them."""
    return replaced(arguments, lambda each: each.held if isinstance(each, Pretended) else each)


def wait_for(what: str) -> None:
    """Count that the host waits for the device."""
    if RECORDINGS:
        refuse_in_capture(what)
    LEDGER.waits[f"{what} {line()}"] += 1


def copy_from_host(what: str, source: Tensor | None, *, non_blocking: bool = False) -> None:
    """Count a copy to the device, which the host waits for unless the memory is pinned."""
    if non_blocking and source is not None and address(source) in PINNED:
        LEDGER.copies[f"{what} {line()}"] += 1
        return
    if RECORDINGS:
        refuse_in_capture(what)
    LEDGER.blocking[f"{what} {line()}"] += 1


def copy_to_host(to: Tensor | None, *, non_blocking: bool = False) -> None:
    """Count a copy from the device, for which the host waits unless it goes to pinned memory."""
    if not (non_blocking and (to is None or address(to) in PINNED)):
        wait_for("copy to the host")


def refuse_in_capture(what: str) -> NoReturn:
    """Raise what CUDA raises for something that no graph can hold."""
    raise RuntimeError(
        f"CUDA error: operation not permitted when stream is capturing: {what} at {line()}"
    )


def require_own_generator(generator: torch.Generator | None) -> None:
    """Raise what CUDA raises for a generator of the CPU."""
    if generator is not None and not on_gpu(generator.device):
        raise RuntimeError(
            f"Expected a 'cuda' device type for generator but found 'cpu' at {line()}"
        )


def require_one_device(name: str, args: Sequence[Any], plain: Sequence[Tensor]) -> None:
    """Raise what CUDA raises where tensors of both devices meet; count the copies it makes."""
    base = name.rstrip("_")
    if base == "copy":
        return
    if base in INDEXED and is_pretended(args[0]):
        values = args[2] if len(args) > 2 and isinstance(args[2], Tensor) else None
        if values is None or is_pretended(values) or not values.dim():
            copy_from_host("index", None)
            return
    # A single number of the CPU is handed to a kernel, but not in lists of tensors.
    if base.startswith("_fused") or any(each.dim() for each in plain):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"cuda:0 and cpu! ({name} at {line()})"
        )


def account(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """Count what an operation of pretended tensors costs."""
    base = name.rstrip("_")
    if base == "copy" and not (is_pretended(args[0]) and is_pretended(args[1])):
        non_blocking = bool(kwargs.get("non_blocking", len(args) > 2 and args[2]))
        if is_pretended(args[0]):
            copy_from_host("copy", args[1], non_blocking=non_blocking)
        else:
            copy_to_host(args[0], non_blocking=non_blocking)
        return
    by_mask = base in INDEXED and any(
        isinstance(each, Tensor) and each.dtype in (torch.bool, torch.uint8)
        for each in args[1] or ()
    )
    # A single value goes to where a mask is set, without that anyone has to know how often it is.
    single = len(args) > 2 and isinstance(args[2], Tensor) and args[2].numel() == 1
    if base in WAITS or (by_mask and not single):
        wait_for(name)
    if launches := n_launches(name, args):
        LEDGER.launches[line()] += launches


def operate(func: Any, args: Any, kwargs: Any) -> Any:
    """Compute one operation on the CPU; if it is of pretended tensors, so is its result."""
    name = func._schema.name.split("::")[1]
    if name == "_has_compatible_shallow_copy_type":
        return False
    tensors = list(tensors_in(args, kwargs))
    ours = [each for each in tensors if isinstance(each, Pretended)]
    if ours:
        if name in REFUSED:
            raise NotImplementedError(f"{name} of a pretended tensor, at {line()}")
        if len(ours) < len(tensors):
            require_one_device(name, args, [each for each in tensors if not is_pretended(each)])
        account(name, args, kwargs)
    if on_gpu(kwargs.get("device")):
        kwargs = kwargs | {"device": CPU}
    plain_args, plain_kwargs = held(args), held(kwargs)
    pretends = bool(ours) or STATE.inside
    if RECORDINGS and pretends:
        RECORDINGS[-1].look_at((plain_args, plain_kwargs))
    result = func(*plain_args, **plain_kwargs)
    if not pretends:
        return result
    if RECORDINGS and name not in VIEWS:
        RECORDINGS[-1].add(func, plain_args, plain_kwargs, result)
    written = _written(func._schema, args, kwargs)
    return _pretended(result, ours) if written is None else written


def _written(schema: Any, args: Any, kwargs: Any) -> Any:
    """Return what an operation in place, or with an `out`, was given to write to; else None."""
    returns = schema.returns
    if len(returns) != 1 or returns[0].alias_info is None or not returns[0].alias_info.is_write:
        return None
    for place, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            return kwargs[argument.name] if argument.name in kwargs else args[place]
    return None


def _pretended(result: Any, ours: Sequence[Pretended]) -> Any:
    """Put the tensors of a result on the device; those that were given stay the same objects."""
    given = {id(each.held): each for each in ours}

    def pretend(tensor: Tensor) -> Tensor:
        if isinstance(tensor, Pretended):
            return tensor
        return given[id(tensor)] if id(tensor) in given else Pretended(tensor)

    return replaced(result, pretend)
