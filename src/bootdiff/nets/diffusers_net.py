"""Backbones from diffusers: any of its models that is called as (sample, timestep[, class_labels]) -> `.sample`.

    UNet1DModel              signals    its arguments decide how the noise level comes in; no classes
    UNet2DModel, DiT...      images     with classes or without (DiTTransformer2DModel: the diffusion transformer)
    UNet3DConditionModel     videos     its text states are zeros; no classes

The channels, the size and the number of classes are filled in.  Samples are padded at their ends to what levels and
patches need, to squares for transformers, and cut again; of outputs with a learned variance beside the mean, the mean
is taken.  Like all backbones these start at zero: by a last layer of zeros where it is known (`conv_out`,
`proj_out_2`), else by one factor for each channel of the output, 0 at first (as SkipInit: De and Smith 2020, arXiv
2002.10444).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as f
from torch import Tensor, nn

from bootdiff.nets.contract import Network, NetworkError, check_network
from bootdiff.nets.parts import class_or_none, pad_to, zero

__all__ = ["DiffusersNet", "DiffusersNetwork"]

_FILLED_IN = ("in_channels", "out_channels", "sample_size", "num_class_embeds", "num_embeds_ada_norm")
_CALLED_WITH = ("timestep", "class_labels", "encoder_hidden_states")


@dataclass(frozen=True)
class DiffusersNetwork(Network):
    """A model class of diffusers by name, with its constructor's arguments; what the samples decide is filled in.

    Args:
        class_name: of a `ModelMixin` in diffusers itself; nothing else is imported.
        args: further keyword arguments of its constructor.
    """

    class_name: str
    args: Mapping[str, Any] = field(default_factory=dict)

    def resolve(self, shape: Sequence[int], full: Sequence[int]) -> DiffusersNetwork:
        """The same, known to exist."""
        _check_args(_model_class(self.class_name), self.args)
        return self

    def build(self, in_channels: int, shape: Sequence[int], classes: int | None = None) -> nn.Module:
        net = DiffusersNet(self.class_name, self.args, in_channels, shape[0], shape[1:], classes)
        check_network(net, in_channels, shape, classes, f"diffusers' {self.class_name}")
        return net

    def describe(self) -> dict[str, Any]:
        return {"kind": "diffusers", "class": self.class_name, "args": dict(self.args)}


class DiffusersNet(nn.Module):
    """A model of diffusers behind the contract: (B, in, *space) -> (B, out, *space).

    Args:
        class_name: of a `ModelMixin` in diffusers itself.
        args: of its constructor, without what is filled in.
        in_channels, out_channels: of the samples.
        space: the further axes of a sample.
        classes: number of classes, or None.

    Raises:
        ValueError: no such class, one that is called otherwise or knows no classes, arguments that it refuses.
    """

    def __init__(
        self,
        class_name: str,
        args: Mapping[str, Any],
        in_channels: int,
        out_channels: int,
        space: Sequence[int],
        classes: int | None = None,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "class_name": class_name, "args": dict(args), "in_channels": in_channels, "out_channels": out_channels,
            "space": list(space), "classes": classes,
        }  # fmt: skip
        cls = _model_class(class_name)
        known = _check_args(cls, args)
        if not space:
            raise NetworkError(f"diffusers' {class_name} is for signals, images or videos; for vectors: mlp, linear")
        patch, levels = _setting("patch_size", known, args), _setting("down_block_types", known, args)
        self.square = isinstance(patch, int)
        folds = len(space) if len(space) < 3 else 2
        levels = len(levels or ()) - (len(space) > 1)  # only UNet1DModel halves after its last level, too
        self.multiples = (patch if self.square else 2 ** max(levels, 0),) * folds
        self.out_channels = out_channels
        size = max(self._padded(torch.empty(1, 1, *space, device="meta")).shape[-folds:])
        filled = {"in_channels": in_channels, "out_channels": out_channels, "sample_size": size}
        by_class = [name for name in ("num_class_embeds", "num_embeds_ada_norm") if name in known]
        if classes is not None and not by_class:
            raise NetworkError(
                f"diffusers' {class_name} knows no classes, and there are {classes}; take UNet2DModel or "
                "DiTTransformer2DModel, or leave the labels out"
            )
        # One row more stands for "no class"; ada_norm has it beyond its number. Without classes it is the only one.
        if "num_embeds_ada_norm" in known:
            filled["num_embeds_ada_norm"] = classes or 1
        elif classes is not None:
            filled["num_class_embeds"] = classes + 1
        # The number that stands for it; None: the model is not told a class at all.
        self.no_class = classes or 1 if "num_embeds_ada_norm" in known else classes
        if (_setting("down_block_types", known, args) or [""])[0] == "DownBlock1DNoSkip":
            # This block reads the embedded noise level as further channels.
            width = _setting("block_out_channels", known, args)[0]
            fourier = _setting("time_embedding_type", known, args) == "fourier"
            filled["extra_in_channels"] = (
                (_setting("time_embedding_dim", known, args) or 2 * width) if fourier else width
            )
        try:
            self.model = cls(**{name: v for name, v in filled.items() if name in known} | dict(args))
        except Exception as error:  # diffusers' own checks of the user's arguments
            raise NetworkError(f"diffusers' {class_name} refuses its arguments {dict(args)}: {error}") from error
        parameters = inspect.signature(cls.forward).parameters
        self.sample_name = list(parameters)[1]
        states = parameters.get("encoder_hidden_states")
        needs = states is not None and states.default is inspect.Parameter.empty
        self.states = int(self.model.config["cross_attention_dim"]) if needs else None
        self._start_at_zero()

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        given: dict[str, Any] = {self.sample_name: self._padded(x), "timestep": self._time(c_noise)}
        if self.no_class is not None:
            heard = None if self.config["classes"] is None else label
            given["class_labels"] = class_or_none(heard, c_noise, self.no_class)
        if self.states is not None:
            given["encoder_hidden_states"] = x.new_zeros(len(x), 1, self.states)
        y = self.model(**given).sample[(slice(None), slice(self.out_channels), *(slice(n) for n in x.shape[2:]))]
        return y if self.gain is None else y * self.gain.reshape(-1, *(1,) * (y.ndim - 2))

    def _padded(self, x: Tensor) -> Tensor:
        x = pad_to(x, self.multiples)
        if not self.square:
            return x
        side = max(x.shape[-len(self.multiples) :])
        return f.pad(x, [n for size in reversed(x.shape[-len(self.multiples) :]) for n in (0, side - size)])

    def _time(self, c_noise: Tensor) -> Tensor:
        from diffusers.models.embeddings import GaussianFourierProjection

        embedding = getattr(self.model, "time_proj", None)
        if isinstance(embedding, GaussianFourierProjection):
            return c_noise.exp() if embedding.log else c_noise
        # Its "timesteps" are embedded with periods from 2 pi up: c_noise spans about 2, so spread it out.
        return 50 * c_noise

    def _start_at_zero(self) -> None:
        from diffusers.models.embeddings import LabelEmbedding

        for module in self.model.modules():
            if isinstance(module, LabelEmbedding):
                module.dropout_prob = 0.0  # labels are dropped where training says so
        if isinstance(classes := getattr(self.model, "class_embedding", None), nn.Embedding):
            zero(classes)
        last = getattr(self.model, "conv_out", getattr(self.model, "proj_out_2", None))
        self.gain = None
        if isinstance(last, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            zero(last)
        else:
            self.gain = nn.Parameter(torch.zeros(self.out_channels))


def _model_class(name: str) -> Any:
    """The `ModelMixin` class of that name in diffusers."""
    import diffusers.models as models
    from diffusers import ModelMixin

    # Only names that diffusers' own table of models has: nothing is looked up beyond it.
    found = getattr(models, name, None) if name.isidentifier() and name in dir(models) else None
    if not (inspect.isclass(found) and issubclass(found, ModelMixin)):
        import difflib

        near = difflib.get_close_matches(name, [n for n in dir(models) if n[:1].isupper()], n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise NetworkError(
            f"diffusers has no model class {name!r}{hint}; UNet2DModel and DiTTransformer2DModel are two"
        )
    called = list(inspect.signature(found.forward).parameters.values())[1:]
    needed = [p.name for p in called[1:] if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    strange = [n for n in needed if n not in _CALLED_WITH]
    if strange or "timestep" not in [p.name for p in called[1:]]:
        why = f"it also needs {', '.join(strange)}" if strange else "it hears no timestep"
        raise NetworkError(
            f"diffusers' {name} is not called as (sample, timestep[, class_labels]): {why}; take another"
        )
    return found


def _check_args(cls: Any, args: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor's arguments with their defaults."""
    known = {p.name: p.default for p in list(inspect.signature(cls.__init__).parameters.values())[1:]}
    if filled := [name for name in args if name in _FILLED_IN]:
        raise NetworkError(f"diffusers' {cls.__name__}: {', '.join(filled)} follow from the samples; leave them out")
    if unknown := [name for name in args if name not in known]:
        free = ", ".join(name for name in known if name not in _FILLED_IN)
        raise NetworkError(f"diffusers' {cls.__name__}: unknown {', '.join(unknown)}; known: {free}")
    return known


def _setting(name: str, known: Mapping[str, Any], args: Mapping[str, Any]) -> Any:
    return args.get(name, known.get(name))
