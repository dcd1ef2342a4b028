"""The recipe's blocks for networks: each stands for a `nets.Network`.

The keys, their bounds, defaults and meaning are the arguments of the nets' own constructors (`nets.build.options_of`);
here is only how YAML writes them where it differs, and what the recipe alone knows: own networks by import path.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    PrivateAttr,
    Tag,
    create_model,
    model_serializer,
    model_validator,
)

from bootdiff.nets.build import BACKBONES, net_of, options_of
from bootdiff.nets.network import BuiltIn, DiffusersNetwork, Network, OwnNetwork, default_networks
from bootdiff.recipe.messages import Block, fail, in_yaml
from bootdiff.recipe.noise import Noise
from bootdiff.recipe.trust import imported
from bootdiff.recipe.views import IMPORT_PATH, kind_of, short, whole
from bootdiff.settings import bound_text, doc_of, short_repr

__all__ = [
    "SPECS",
    "Backbone",
    "DiffusersSpec",
    "NetSpec",
    "OwnSpec",
    "default_backbones",
]


_LEVELS, _WIDEST = 16, 65_536


def _levels(value: Any) -> bool | list[int]:
    if isinstance(value, bool):
        return value
    if isinstance(value, list) and all(whole(v) and v >= 0 for v in value):
        return value
    raise ValueError(f"must be true, false or a list of levels (0 is the finest), got {short_repr(value)}")


def _widths(value: Any) -> str | list[int]:
    if value == "auto":
        return "auto"
    if isinstance(value, list) and 0 < len(value) <= _LEVELS and all(whole(v) and 0 < v <= _WIDEST for v in value):
        return value
    raise ValueError(
        f"must be auto or a list of widths such as [24, 48, 48], at most {_LEVELS} and each up to "
        f"{bound_text(_WIDEST)}, got {short_repr(value)}"
    )


def _count(value: Any) -> str | int:
    if value == "auto" or (whole(value) and 1 <= value <= _WIDEST):
        return value
    bound = f"of at most {bound_text(_WIDEST)}" if whole(value) and value > 1 else "of at least 1"
    raise ValueError(f"must be auto or a whole number {bound}, got {short_repr(value)}")


def _key(annotation: Any, default: Any) -> Any:
    """A constructor's argument as a key of the recipe; one function reads unions, for one message."""
    hint = in_yaml(annotation)
    kinds = get_args(get_args(hint)[0])
    lists = any(get_origin(k) is list for k in kinds)
    if any(get_origin(k) is Literal for k in kinds):
        hint = Annotated[get_args(hint)[0], PlainValidator(_widths if lists else _count)]
    elif bool in kinds and lists:
        hint = Annotated[get_args(hint)[0], PlainValidator(_levels)]
    return hint, Field(default, description=doc_of(annotation))


class NetSpec(Block):
    """A block that stands for a network."""

    kind: str
    noise: Noise | None = Field(
        None,
        description="noise levels it is trained at, in every part; null: those of training, and where these are not "
        "given and a unet and a local are stacked, the middle ones for the unet and the low ones for the local",
    )

    @model_serializer(mode="wrap")
    def _only_used(self, handler: Any) -> dict[str, Any]:
        # Recipes of earlier runs are written without this key, and must read the same.
        return {key: value for key, value in handler(self).items() if key != "noise" or value is not None}

    def network(self) -> Network:
        """The network, to be built for samples of any shape."""
        return replace(self._network(), noise=None if self.noise is None else self.noise.settings())

    def _network(self) -> Network:
        raise TypeError(f"{type(self).__name__} stands for no network")

    @property
    def label(self) -> str:
        """What it is called where the recipe gives it no name."""
        return self.kind


class _BuiltInSpec(NetSpec):
    """One of bootdiff's own."""

    def _network(self) -> BuiltIn:
        return BuiltIn(self.kind, {name: value for name, value in self if name not in ("kind", "noise")})


def _spec(kind: str) -> Any:
    keys: dict[str, Any] = {key: _key(*how) for key, how in options_of(kind).items()}
    tag: Any = Literal[kind]
    name = f"{kind.title()}Spec"
    tagged = create_model(f"_{name}", __base__=_BuiltInSpec, kind=(tag, ...))
    doc = inspect.cleandoc(net_of(kind).__doc__ or "").split("\n\n")[0].replace("\n", " ")
    made: Any = create_model(name, __base__=tagged, __doc__=doc, **keys)
    return made


SPECS = {kind: _spec(kind) for kind in BACKBONES}
"""The blocks of bootdiff's own networks, by kind."""


class DiffusersSpec(NetSpec):
    """A model of diffusers that is called as (sample, timestep[, class_labels]), DiTTransformer2DModel say."""

    kind: Literal["diffusers"]

    def _network(self) -> DiffusersNetwork:
        said: Any = self
        return DiffusersNetwork(getattr(said, "class"), said.args)

    @property
    def label(self) -> str:
        return str(getattr(self, "class")).lower()


if not TYPE_CHECKING:
    # `class` cannot be written as an attribute.
    DiffusersSpec = create_model(
        "DiffusersSpec",
        __base__=DiffusersSpec,
        __doc__=DiffusersSpec.__doc__,
        **{
            "class": (str, Field(min_length=1, description="name of the model's class in diffusers")),
            "args": (
                dict[str, Any],
                Field(
                    default_factory=dict,
                    description="arguments of its constructor; channels, sizes and classes are filled in",
                ),
            ),
        },
    )


class OwnSpec(NetSpec):
    """A network of your own by its import path, with its constructor's arguments as further keys (--trust-imports)."""

    model_config = ConfigDict(extra="allow")

    kind: str = Field(
        description="module:Class or module:function, called as f(c_in, c_out, ...)", json_schema_extra=IMPORT_PATH
    )
    _factory: Any = PrivateAttr(None)

    @model_validator(mode="after")
    def _check(self) -> Any:
        try:
            self._factory = imported(self.kind)
        except ValueError as error:
            fail([(("kind",), str(error))])
        if not callable(self._factory):
            fail([(("kind",), "must be a class or function that makes a torch module")])
        return self

    def _network(self) -> OwnNetwork:
        return OwnNetwork(self._factory, dict(self.model_extra or {}))

    @property
    def label(self) -> str:
        return self.kind.rpartition(":")[2].rpartition(".")[2].lower()


if TYPE_CHECKING:
    Backbone = NetSpec
else:
    _OWN = "mypackage.module:MyNet"
    _KINDS = {**SPECS, "diffusers": DiffusersSpec, _OWN: OwnSpec}
    _TAGGED = [Annotated[spec, Tag(kind)] for kind, spec in _KINDS.items()]
    _written = reduce(or_, _TAGGED) | str | None
    Backbone = Annotated[reduce(or_, _TAGGED), kind_of(_OWN), BeforeValidator(short, json_schema_input_type=_written)]


def default_backbones(axes: int = 2) -> dict[str, Any]:
    """The backbones of samples with that many axes after the first, where the recipe names none.

    >>> list(default_backbones(0)), list(default_backbones(3))
    (['mlp', 'linear'], ['unet', 'local'])
    """
    return {name: SPECS[name](kind=name) for name in default_networks(axes)}
