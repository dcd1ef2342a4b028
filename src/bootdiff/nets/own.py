"""Networks of one's own: a class, a function that makes one, or a module that is there already.

    f(c_in, c_out)                            called by position, or by whichever of these names it has:
    f(in_channels=, out_channels=, ...)       classes (or None), shape (C, *space), space, axes (their number)

A module that is there is a template: copied for each use, with its weights, and where more channels come in than it
takes, mixed down to them by W = [I | 0], so that it starts out as it is.

To be saved, a module needs a `config` with its constructor's arguments.  Where its class sets none, they are written
down while it is made: the factory is called a second time, from the same state of the generators, with the class's
`__init__` listening.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import random
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bootdiff.nets.contract import Network, NetworkError, check_network

__all__ = ["AdaptedInput", "OwnNetwork", "TemplateNetwork", "input_channels"]


@dataclass(frozen=True)
class OwnNetwork(Network):
    """A network that a class or function makes.

    Args:
        factory: called as the module's text says.
        options: further keyword arguments.
    """

    factory: Callable[..., nn.Module]
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(self, in_channels: int, shape: Sequence[int], classes: int | None = None) -> nn.Module:
        """A new module, checked by `check_network`; with classes, what knows none is refused."""
        net = _recorded(self._call(in_channels, tuple(shape), classes))
        check_network(net, in_channels, shape, classes)
        return net

    def describe(self) -> dict[str, Any]:
        """The factory's name, and a digest of its code and of what that names: Python has no better idea of equal."""
        return {"factory": _name(self.factory), "code": _digest(self.factory), "options": _plain(self.options)}

    def _call(self, in_channels: int, shape: tuple[int, ...], classes: int | None) -> Callable[[], nn.Module]:
        found: dict[str, Any] = {
            "in_channels": in_channels, "out_channels": shape[0], "classes": classes, "shape": shape,
            "space": list(shape[1:]), "axes": len(shape) - 1,
        }  # fmt: skip
        signature = inspect.signature(self.factory)
        named = {name: value for name, value in found.items() if name in signature.parameters}
        positional: tuple[Any, ...] = ()
        if not {"in_channels", "out_channels"} <= named.keys():
            positional = (in_channels, shape[0])
        if twice := [name for name in self.options if name in named]:
            raise NetworkError(f"{_name(self.factory)}: {', '.join(twice)} follow from the samples; leave them out")
        try:
            signature.bind(*positional, **named, **self.options)
        except TypeError as error:
            raise NetworkError(
                f"{_name(self.factory)}{signature} cannot make a network: {error}. Networks are made by f(c_in, c_out) "
                f"or by the names {', '.join(found)}, with further arguments as options"
            ) from None

        def call() -> nn.Module:
            net = self.factory(*positional, **named, **self.options)
            if not isinstance(net, nn.Module):
                raise NetworkError(f"{_name(self.factory)} made a {type(net).__name__}, not a torch module; return one")
            return net

        return call


@dataclass(frozen=True)
class TemplateNetwork(Network):
    """Copies of a module, weights included, with an adapted input where needed (`AdaptedInput`)."""

    net: nn.Module

    def build(self, in_channels: int, shape: Sequence[int], classes: int | None = None) -> nn.Module:
        takes = input_channels(self.net, shape)
        if takes > in_channels:
            raise NetworkError(
                f"{type(self.net).__name__} takes {takes} channels, and there are only {in_channels} for samples of "
                f"shape {tuple(shape)}; give one that takes as many, or its class in place of the module"
            )
        # A copy is where its original is, not where `torch.device` says that new tensors go.
        net = deepcopy(self.net).to(torch.get_default_device())
        net = net if takes == in_channels else AdaptedInput(net, in_channels - takes, takes)
        check_network(net, in_channels, shape, classes)
        return net

    def describe(self) -> dict[str, Any]:
        kind = type(self.net)
        return {"module": _name(kind), "code": _digest(kind), "weights": _weights(self.net), "net": str(self.net)}


class AdaptedInput(nn.Module):
    """A network behind a 1 x 1 convolution (a dense layer of vectors) from more channels, W = [I | 0] at first.

    Args:
        net: the network.
        extra: how many channels come in beyond those that it takes.
        channels: those that it takes; None: as `input_channels` finds.
    """

    def __init__(self, net: nn.Module, extra: int, channels: int | None = None) -> None:
        super().__init__()
        channels = input_channels(net) if channels is None else channels
        self.config: dict[str, Any] = {"net": net, "extra": extra, "channels": channels}
        self.net, self.mix = net, nn.Parameter(torch.eye(channels, channels + extra))

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        return self.net(torch.einsum("oi,bi...->bo...", self.mix, x), c_noise, label)


def input_channels(net: nn.Module, shape: Sequence[int] | None = None) -> int:
    """The channels of a sample that a network takes: `config["in_channels"]`, its attribute `in_channels`, or those of
    its first convolution (of vectors, or where there is none: dense layer).

    Raises:
        ValueError: none of these is there.
    """
    config = getattr(net, "config", None)
    said = config.get("in_channels") if isinstance(config, Mapping) else None
    said = getattr(net, "in_channels", None) if said is None else said
    if isinstance(said, int):
        return said
    layers = list(net.modules())
    convolutions = [m.in_channels for m in layers if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    dense = [m.in_features for m in layers if isinstance(m, nn.Linear)]
    vector = shape is not None and len(shape) == 1
    for found in (dense if vector else convolutions or dense)[:1]:
        return found
    raise NetworkError(
        f"how many channels {type(net).__name__} takes cannot be told: it has no `in_channels`, no convolution and no "
        "dense layer; set self.in_channels, or give its class in place of the module"
    )


def _recorded(call: Callable[[], nn.Module]) -> nn.Module:
    """What `call` makes, with a `config` of its class's arguments where it has none."""
    before = _generators()
    net = call()
    if getattr(net, "config", None) is not None:
        return net
    cls, after, heard = type(net), _generators(), {}
    init: Any = cls.__init__
    own = "__init__" in vars(cls)

    @functools.wraps(init)
    def listen(self: Any, *args: Any, **kwargs: Any) -> None:
        heard[id(self)] = args, kwargs
        init(self, *args, **kwargs)

    _set_generators(before)
    cls.__init__ = listen  # type: ignore[method-assign]
    try:
        again = call()
    finally:
        if own:
            cls.__init__ = init  # type: ignore[method-assign]
        else:
            del cls.__init__
        _set_generators(after)
    if id(again) in heard:
        args, kwargs = heard[id(again)]
        bound = inspect.signature(init).bind(again, *args, **kwargs)
        bound.apply_defaults()
        parameters = list(inspect.signature(init).parameters.values())[1:]
        if not any(p.kind is p.VAR_POSITIONAL and bound.arguments[p.name] for p in parameters):
            config: dict[str, Any] = {}
            for p in parameters:
                if p.kind is p.VAR_KEYWORD:
                    config |= bound.arguments[p.name]
                elif p.kind is not p.VAR_POSITIONAL:
                    config[p.name] = bound.arguments[p.name]
            net.config = config  # type: ignore[assignment]
    return net


def _generators() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    return torch.get_rng_state(), cuda, random.getstate(), np.random.get_state()  # noqa: NPY002 (theirs, not ours)


def _set_generators(state: tuple[Any, ...]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])
    random.setstate(state[2])
    np.random.set_state(state[3])  # noqa: NPY002


def _name(value: Any) -> str:
    value = value if hasattr(value, "__qualname__") else type(value)
    return f"{value.__module__}:{value.__qualname__}"


def _weights(net: nn.Module) -> str:
    """Hexadecimal digits of a module's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _plain(value: Any) -> Any:
    """A value as JSON has it; a digest of what it has not."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return list(map(_plain, value)) if isinstance(value, list | tuple) else _digest(value)


_INSTALLED = ("bootdiff", "builtins", "collections", "diffusers", "functools", "math", "numpy", "torch", "typing")


def _digest(value: Any) -> str:
    """Hexadecimal digits of the code of a function or class, and of what it names outside of installed packages."""
    parts: list[str] = []
    _read(value, parts, {})
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _read(value: Any, parts: list[str], seen: dict[int, Any]) -> None:
    """Write down what `value` is; `seen` keeps what was written, so that nothing takes its place in memory."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        parts.append(repr(value))
        return
    if isinstance(value, tuple | list):
        for part in value:
            _read(part, parts, seen)
        return
    if id(value) in seen:
        return
    seen[id(value)] = value
    if isinstance(value, CodeType):
        parts.append(f"{value.co_code.hex()} {value.co_names} {value.co_varnames} {value.co_freevars}")
        _read(value.co_consts, parts, seen)
    elif isinstance(value, FunctionType):
        _read(value.__code__, parts, seen)
        cells = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
        _read([value.__defaults__, list((value.__kwdefaults__ or {}).items()), cells], parts, seen)
        names = _names(value.__code__)
        for found in (value.__globals__[name] for name in names if name in value.__globals__):
            own_module = isinstance(found, ModuleType) and found.__name__.partition(".")[0] not in _INSTALLED
            _read([vars(found)[n] for n in names if n in vars(found)] if own_module else found, parts, seen)
    elif isinstance(value, type):
        parts.append(_name(value))
        if value.__module__.partition(".")[0] not in _INSTALLED:
            _read(value.__bases__, parts, seen)
            for name, member in sorted(vars(value).items()):
                member = getattr(member, "__func__", getattr(member, "fget", member))
                if isinstance(member, FunctionType) or not name.startswith("__"):
                    _read([name, member], parts, seen)
    elif isinstance(value, functools.partial):
        _read([value.func, value.args, list(value.keywords.items())], parts, seen)
    elif isinstance(value, nn.Module):
        _read([type(value), _weights(value), str(value)], parts, seen)
    elif isinstance(value, Tensor | np.ndarray):
        _read(hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest(), parts, seen)
    elif isinstance(value, Mapping):
        _read(list(value.items()), parts, seen)
    else:
        parts.append(getattr(value, "__name__", _name(type(value))))


def _names(code: CodeType) -> list[str]:
    """What a function names, and the functions inside it."""
    inner = [name for part in code.co_consts if isinstance(part, CodeType) for name in _names(part)]
    return [*code.co_names, *inner]


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False
