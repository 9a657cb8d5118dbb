"""Start a model from another one: a transformer with other classes, a tokenizer with other scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from nextscale.conditions import reads_prompts
from nextscale.families import family_of
from nextscale.families.config import OneStepConfig, StyleGANXLConfig, VARConfig
from nextscale.nn import TextConfig
from nextscale.tokenizer.vqvae import VQVAE

CLASS_TABLE = "class_embedding.weight"
PHI = "quantizer.phi."


def started_config(start: Any, wanted: Any, tokenizer: Mapping[str, Any], classes: int, source: str) -> Any:
    """The architecture `start` with another number of classes; `tokenizer` has the settings that are the tokenizer's.

    A next-scale model may go on with each scale attending to itself alone, or become refinable, where that is wanted:
    its weights fit. A model of classes may become one of prompts, which has no classes.
    Raises ValueError where it is not of the kind that is wanted, or not for this tokenizer's tokens.
    """
    if type(start) is not type(wanted):
        raise ValueError(f"init_from {source}: is {family_of(start).title}, not {family_of(wanted).title}")
    for name, ours in tokenizer.items():
        theirs = getattr(start, name)
        if theirs != ours:
            raise ValueError(
                f"init_from {source}: its {name} is {theirs}, the tokenizer's {ours}; "
                "start from a model of the same tokenizer"
            )
    if isinstance(start, OneStepConfig) and bool(start.classes) != bool(classes):
        raise ValueError(f"init_from {source}: knows {start.classes} classes, the data has {classes}: all or none")
    changes: dict[str, Any] = {"classes": classes}
    if reads_prompts(start) and not reads_prompts(wanted):
        raise ValueError(f"init_from {source}: is a model of prompts, whose words are no classes; add --condition text")
    if reads_prompts(wanted):
        text = getattr(start, "text")  # noqa: B009 of the kinds that have one
        if text is not None and wanted.text not in (text, TextConfig()):
            raise ValueError(f"init_from {source}: reads prompts its own way; leave out --text-encoder, --text-tokens")
        changes = {"classes": 0, "text": text or wanted.text}
    if isinstance(wanted, StyleGANXLConfig) and isinstance(start, StyleGANXLConfig) and wanted.side != start.side:
        changes |= {"side": wanted.side, "grown_from": start.sides}
    if isinstance(wanted, VARConfig):
        changes |= {} if wanted.sees_coarser else {"attention": wanted.attention}
        changes |= {"refinable": True} if wanted.refinable else {}
    return replace(start, **changes)


@torch.no_grad()
def start_prompts(model: Any, start: Any) -> str:
    """Copy the weights of `start` into a model of prompts; returns what was taken over and what starts anew.

    Of a model of classes, what reads prompts starts anew and silent: the model begins as `start` without a class.
    """
    old = start.state_dict()
    known = {name: tensor.to(torch.float32) for name, tensor in old.items() if not name.endswith(CLASS_TABLE)}
    state = model.state_dict() | known  # its own: what reads prompts, and the vector of one that becomes refinable
    if reads_prompts(start.config):
        model.load_state_dict(state)
        return "all of its weights are taken over, those of its text encoder too"
    for name in [name for name in old if name.endswith(CLASS_TABLE)]:
        part = name.removesuffix(CLASS_TABLE)
        state[f"{part}text.pooled.weight"] = torch.zeros_like(state[f"{part}text.pooled.weight"])
        state[f"{part}text.pooled.bias"] = old[name][start.config.unconditional].to(torch.float32)
    model.load_state_dict(state)
    return "all but its classes is taken over; the text encoder and attention to it start anew, as if without a class"


@torch.no_grad()
def warm_start(model: Any, names: Sequence[str], start: Any, start_names: Sequence[str]) -> int:
    """Copy all weights of `start`, rows of class tables by the classes' names; returns how many names it knew.

    A class that `start` does not know begins as its unconditional class. Of the same list of names each keeps its row:
    ImageNet has two classes of one name. A model that becomes refinable keeps the vector that it was initialised with.
    """
    places = {name: row for row, name in enumerate(start_names)}
    unconditional = start.config.unconditional
    same = tuple(names) == tuple(start_names)
    rows = [row if same else places.get(name, unconditional) for row, name in enumerate(names)] + [unconditional]
    state = {
        name: tensor[rows] if name.endswith(CLASS_TABLE) else tensor
        for name, tensor in ((name, tensor.to(torch.float32)) for name, tensor in start.state_dict().items())
    }
    if getattr(model, "known", None) is not None:
        state.setdefault("known", model.known)
    model.load_state_dict(family_of(model.config).started_state(model, state))
    return sum(name in places for name in names)


def rescaled_state(start: VQVAE, wanted: VQVAE) -> dict[str, torch.Tensor]:
    """The weights of `start` for a tokenizer of another schedule.

    Its shared convolutions phi are assigned by the relative place of their scales between the first and the last; those
    of a tokenizer without any stay as they were initialised.
    """
    state = {name: tensor for name, tensor in start.state_dict().items() if not name.startswith(PHI)}
    before, after = start.quantizer, wanted.quantizer
    if not before.phi:
        return state | {name: tensor for name, tensor in wanted.state_dict().items() if name.startswith(PHI)}
    sources = [min(index, len(before.phi) - 1) for index in range(len(after.phi))]  # where no scale uses one
    for scale, index in enumerate(after.phi_map):
        place = scale / (len(after.phi_map) - 1) if len(after.phi_map) > 1 else 1.0
        source = before.phi_map[round(place * (len(before.phi_map) - 1))]
        if index >= 0 and source >= 0:
            sources[index] = source
    for index, source in enumerate(sources):
        state |= {f"{PHI}{index}.{name}": tensor for name, tensor in before.phi[source].state_dict().items()}
    return state
