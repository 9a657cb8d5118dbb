"""What a family of models is: one object that says how to build, train, sample and cost its models.

Everything else (checkpoints, training, evaluation, benchmarks, pipeline, command line) asks this object: a family is
one file and one `families.register`.
Shapes: B batch, L tokens, V codebook entries, K scales.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextscale.conditions import Conditions, as_conditions
from nextscale.families.config import ARCHITECTURES, family_presets
from nextscale.nn import TransformerConfig
from nextscale.nn.packed import count_parameters
from nextscale.nn.transformer import no_decay
from nextscale.pyramid import ScaleSchedule, TokenPyramid
from nextscale.runtime import free_memory
from nextscale.sampling.noise import image_seeds
from nextscale.sampling.step import SamplingConfig, SamplingHook, ScaleSample
from nextscale.tokenizer.residual import Quantizer
from nextscale.tokenizer.vqvae import VQVAE

WORKING_BYTES = 2**28
"""Room for an image's activations when batches are sized by the memory of a GPU."""
Figures = dict[str, Tensor]
"""Named figures of a batch: scalars, or one value per scale."""
Correction = Callable[[TokenPyramid], tuple[TokenPyramid, TokenPyramid]]
"""Tokens -> those that a model reads in training, with mistakes, and those that it then has to predict."""
Masking = Callable[[TokenPyramid], Tensor]
"""Tokens -> which of the last map a model knows in training, (B, l_K) bool."""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A stack of blocks, for the cost of a generation: it runs over a sequence part by part, `times` times."""

    config: TransformerConfig
    "Width and depth of the blocks."
    sequence: ScaleSchedule
    "Parts that are computed at once, in order; a single part where no keys and values are kept."
    times: int = 1
    "How often the stack runs over the sequence."
    embedded: int = 0
    "Positions of a sequence whose latents are projected to the width."
    latent_channels: int = 0
    "Channels of such a latent."
    head_positions: int = 0
    "Positions of a sequence that the head reads."
    head_outputs: int = 0
    "Outputs of the head at each position; 0 for no head."
    head_after_guidance: bool = True
    "Whether guidance comes before the head, which then runs once instead of for both sequences."
    condition_flops: float = 0.0
    "FLOPs of embedding the condition, without the modulation."
    conditions: int = 1
    "How often condition and modulation are computed for all of that."
    known: int = 0
    "Positions before the sequence, whose keys and values are there already."
    guided: bool = True
    "Whether guidance, where there is any, doubles it; else only the conditional half is computed."
    joined: bool = False
    "Whether it is computed in one pass with the first part of the stack after it."

    @property
    def passes(self) -> int:
        """Passes one after the other."""
        return 0 if self.joined else self.times * len(self.sequence)


class Family(ABC):
    """One kind of model. Models need no blocks and no tokenizer; their networks are plain modules.

    An architecture has `classes` and the id `unconditional`, and what training fills in from the tokenizer (`scales`,
    `codebook_size`, `latent_channels`) or, where there is none, `image_size` (height, width).
    A network has `config`, `schedule`, `device` and `dtype`, which its sampler computes in. The flag `checkpointing` is
    optional. One with likelihoods also has the static method `inputs(quantizer, tokens)`: what it reads when all tokens
    are known.
    """

    kind: ClassVar[str]
    "Name in config.json and on the command line."
    title: ClassVar[str]
    "What people call it."
    config: ClassVar[type[Any]]
    "Dataclass of the architecture."
    network: ClassVar[type[Any]]
    "Module of a model, built from its architecture."
    sampler: ClassVar[Callable[..., Iterator[ScaleSample]]]
    "(model, quantizer, conditions, seeds=, config=) -> steps of a batch; `hook` too where it is editable."
    editable: ClassVar[bool] = False
    "Whether hooks reach into its scales, which editing needs."
    reads_tokens: ClassVar[bool] = True
    "Whether it models the tokens of a tokenizer; others model images (B, 3, H, W) in [-1, 1] and have none."
    predicts_tokens: ClassVar[bool] = True
    "Whether it gives probabilities of tokens; others give latents or pixels."
    weighs_scales: ClassVar[bool] = False
    "Whether its loss takes `scale_weights`, one per scale."
    corrects_itself: ClassVar[bool] = False
    "Whether its loss takes a `correction`, by which later scales make good mistakes in coarser ones."
    refines: ClassVar[bool] = False
    "Whether its architecture may be `refinable`; its loss then takes a `masking`."
    guides: ClassVar[bool] = True
    "Whether guidance steers its images."
    truncates: ClassVar[bool] = False
    "Whether it makes images of latents in one step, which `truncation` moves toward their average."
    penalises_gradients: ClassVar[bool] = False
    "Whether its loss holds gradients, and so needs second derivatives, which compiled networks have not."
    objective: ClassVar[type[Any] | None] = None
    "Dataclass of its loss's settings in training; the loss then takes it as `objective`, and the `share` that is over."

    def presets(self) -> Mapping[str, Any]:
        """Architectures by name, "small" among them."""
        return family_presets(self.kind) if self.kind in ARCHITECTURES else {"small": self.config()}

    def initialise(self, model: Any, *, gamma: float) -> None:
        """Draw initial weights from torch's global generator; `gamma` scales the rows of AdaLN's branches."""
        model.initialise(gamma=gamma)

    def fitted(self, config: Any, tokenizer: VQVAE, tokens: Callable[[], TokenPyramid]) -> Any:
        """The architecture with what it takes from the tokens of some training images."""
        return config

    def units(self, model: Any) -> Sequence[nn.Module]:
        """Parts of a model that FSDP gathers one at a time."""
        return list(getattr(model, "blocks", ()))

    def no_decay(self, name: str, parameter: Tensor) -> bool:
        """Whether weight decay skips a parameter."""
        return no_decay(name, parameter)

    def players(self, model: nn.Module) -> Mapping[str, nn.Module]:
        """The parts of a model that have an optimiser each, in the order of their turns; "" is the model itself."""
        return {"": model}

    def generates(self, model: Any) -> nn.Module:
        """The part of a model that makes images, which alone is averaged: all of it, but for discriminators."""
        return model

    def rate_of(self, player: str) -> float:
        """Learning rate of a player, relative to that of the settings."""
        return 1.0

    def started_state(self, model: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """What a model takes of the weights of another one that it starts from, and its own for the rest."""
        return state

    def equip(  # noqa: B027 most families need nothing
        self, model: Any, settings: Any, images: Callable[[], Iterable[tuple[Tensor, Tensor]]]
    ) -> None:
        """Give a new model what it has in training alone, or takes from its training images, in place.

        `images` opens some, spread over the data: (B, 3, H, W) in [-1, 1] with labels (B,), negative for none. Raises
        ValueError for settings or data that do not fit.
        """

    def exported(self, model: Any) -> nn.Module:
        """A model as its file holds it."""
        return model

    def parameters(self, model: Any) -> int:
        """Parameters of what makes images."""
        return count_parameters(self.generates(model))

    @abstractmethod
    def loss(
        self,
        model: Any,
        batch: Any,
        classes: Tensor,
        *,
        tokenizer: VQVAE | None,
        config: Any,
        label_smoothing: float = 0.0,
        player: str = "",
    ) -> tuple[Tensor, Figures]:
        """What a player minimises on a batch, and figures of it.

        With one player, `model` may be wrapped for several processes: only calling it is allowed; `config` is its
        architecture. `classes` (B,) are ids. `batch` is a TokenPyramid, or images (B, 3, H, W) in [-1, 1] without a
        tokenizer.
        """

    def sample(
        self,
        model: Any,
        tokenizer: VQVAE,
        classes: Tensor | Conditions,
        *,
        seeds: Sequence[int] | Tensor,
        config: SamplingConfig,
        hook: SamplingHook | None = None,
    ) -> Iterator[ScaleSample]:
        """Generate a batch, one image for each seed, yielding unfinished images on the way and the finished ones.

        Raises ValueError for hooks and settings that the family has not, such as those per scale.
        """
        self.require_settings(config, hook)
        hooks = {"hook": hook} if self.editable else {}
        conditions = as_conditions(classes, model.config.unconditional)
        seeds = image_seeds(seeds, model.device)
        return self.sampler(model, tokenizer.quantizer, conditions, seeds=seeds, config=config, **hooks)

    def require_settings(self, config: SamplingConfig, hook: SamplingHook | None = None) -> None:
        """Raises ValueError for hooks, smooth mixtures, settings per scale, guidance and truncation it has not."""
        if not self.editable and hook is not None:
            raise ValueError("hooks reach into the scales of next-scale prediction; this is a model of another kind")
        if not self.editable and config.smooth:
            raise ValueError("smooth mixtures of codes are next-scale prediction's; this is a model of another kind")
        if not self.editable:
            config.require_scales(0)
        if not self.refines and config.refine_steps > 1:
            raise ValueError("refine_steps are next-scale prediction's; this is a model of another kind")
        config.require_dials(self.title, guides=self.guides, truncates=self.truncates)

    def compile(self, model: Any, **options: Any) -> None:
        """Compile what a generation runs; `options` go to torch.compile. Raises ValueError where nothing can be."""
        raise ValueError(f"only next-scale prediction is compiled for generation; this model is {self.title}")

    def stacks(self, config: Any, *, steps: int = 0, guided_scales: int = 0) -> Sequence[Stack]:
        """The stacks of blocks that an image takes; `steps` where a family lets one choose them (0: its own number).

        `guided_scales` are those of `SamplingConfig`: 0 is all.
        """
        return ()

    def steps_of(self, sampling: SamplingConfig) -> int:
        """Of the settings of drawing, what `stacks` takes as `steps`."""
        return sampling.steps

    def other_flops(self, config: Any) -> float:
        """FLOPs of an image outside of `stacks` and the tokenizer's decoder."""
        return 0.0

    def training_flops(self, config: Any) -> float:
        """FLOPs of an image in training; 0 where it is one pass and twice that backwards."""
        return 0.0

    def cache_bytes(self, config: Any, dtype: torch.dtype) -> int:
        """Bytes of the keys and values of an image with guidance; 0 where a family keeps none."""
        if not isinstance(config, TransformerConfig) or not config.sees_coarser:
            return 0
        return 2 * 2 * config.depth * config.width * config.schedule.length * dtype.itemsize

    def batch_size(self, config: Any, dtype: torch.dtype, device: torch.device) -> int:
        """Images that are generated at once by default.

        Those whose keys and values with guidance stay within a quarter of a gigabyte, 1 to 16; on CUDA as many as find
        room, a power of two up to 64.
        """
        cache = self.cache_bytes(config, dtype)
        if device.type != "cuda":
            return max(1, min(16, 2**28 // max(1, cache)))
        images = free_memory(device) // (cache + cache // 2 + WORKING_BYTES)
        return 1 << (max(1, min(64, images)).bit_length() - 1)

    def yields(self, config: Any) -> int:
        """How often `sample` yields for an image."""
        return sum(stack.passes for stack in self.stacks(config)) or 1


class Autoregressive(Family):
    """Families that predict every token given those before it, or all coarser scales (paper, eq. 6)."""

    weighs_scales = True

    def loss(
        self,
        model: Any,
        batch: Any,
        classes: Tensor,
        *,
        tokenizer: VQVAE | None,
        config: Any,
        label_smoothing: float = 0.0,
        scale_weights: Sequence[float] = (),
        correction: Correction | None = None,
        masking: Masking | None = None,
        player: str = "",
    ) -> tuple[Tensor, Figures]:
        """Mean cross-entropy over tokens, with the loss in nats and the accuracy of all scales, each, and the last.

        `scale_weights` weigh the tokens of each scale in what is minimised, not in the figures; none weighs all alike.
        With a `correction` the model reads tokens with mistakes, and predicts those that make them good. With a
        `masking` it reads some tokens of the last map, which count neither in the loss nor in the figures.
        """
        assert tokenizer is not None
        tokens: TokenPyramid = batch
        read = tokens
        if correction is not None:
            read, tokens = correction(tokens)
        known = {} if masking is None else {"known": masking(read)}
        logits_BLV = model(self.network.inputs(tokenizer.quantizer, read, **known), classes, **known)
        # V last and contiguous: (B L, V) float32, softmax in float32.
        flat, targets = logits_BLV.flatten(0, 1), tokens.packed.flatten()
        losses_BL = each_BL = F.cross_entropy(flat, targets, reduction="none").view_as(tokens.packed)
        if label_smoothing:
            each = F.cross_entropy(flat, targets, reduction="none", label_smoothing=label_smoothing)
            each_BL = each.view_as(tokens.packed)
        predicted_BL = None
        if masking is not None:
            coarser = tokens.schedule.length - tokens.schedule.lengths[-1]
            predicted_BL = F.pad(~known["known"], (coarser, 0), value=True)
        loss = weighted_mean(each_BL, tokens.schedule, scale_weights, predicted_BL)
        with torch.no_grad():
            correct_BL = (logits_BLV.argmax(dim=-1) == tokens.packed).float()
            return loss, token_figures(losses_BL.detach(), correct_BL, tokens.schedule, predicted_BL)


def whole_sequence(config: TransformerConfig) -> Stack:
    """The stack of a transformer that predicts its sequence part by part."""
    sequence = config.sequence
    return Stack(
        config=config,
        sequence=sequence,
        embedded=sequence.length - sequence.lengths[0],
        latent_channels=config.latent_channels,
        head_positions=sequence.length,
        head_outputs=config.codebook_size,
    )


def parts_of(stack: Stack, start: int, stop: int) -> Stack:
    """Some parts of a stack's sequence, one at least; the condition is computed with the first part of all."""
    sequence = stack.sequence
    length = sum(sequence.lengths[start:stop])
    first = start == 0 and stack.known == 0  # its start tokens are no latents
    return replace(
        stack,
        sequence=ScaleSchedule(sequence.sizes[start:stop]),
        known=stack.known + sum(sequence.lengths[:start]),
        embedded=length - first * sequence.lengths[0],
        head_positions=length if stack.head_positions else 0,
        conditions=stack.conditions if start == 0 else 0,
    )


def mean(values: Tensor, counted: Tensor | None = None) -> Tensor:
    """Mean of all values, or of those that are `counted` (bool of the same shape)."""
    return values.mean() if counted is None else (values * counted).sum() / counted.sum()


def weighted_mean(
    values_BL: Tensor, schedule: ScaleSchedule, weights: Sequence[float] = (), counted_BL: Tensor | None = None
) -> Tensor:
    """`mean` over tokens, those of each scale with its weight; the weights' own mean over these tokens is made 1."""
    if not weights:
        return mean(values_BL, counted_BL)
    if counted_BL is None:
        counted_BL = torch.ones_like(values_BL)
    parts = list(zip(weights, schedule.slices, strict=True))
    sums, counts = (
        torch.stack([each_BL[:, span].sum() * weight for weight, span in parts]).sum()
        for each_BL in (values_BL * counted_BL, counted_BL)
    )
    return sums / counts


def token_figures(
    losses_BL: Tensor, correct_BL: Tensor, schedule: ScaleSchedule, counted_BL: Tensor | None = None
) -> Figures:
    """Loss and accuracy over all tokens or those counted, per scale (K,), and at the last scale."""
    figures: Figures = {}
    for name, values_BL in (("loss", losses_BL), ("accuracy", correct_BL)):
        each = [
            mean(values_BL[:, span], None if counted_BL is None else counted_BL[:, span]) for span in schedule.slices
        ]
        per_scale = torch.stack(each)
        figures |= {name: mean(values_BL, counted_BL), f"{name}_per_scale": per_scale, f"{name}_last": per_scale[-1]}
    return figures


def unfinished_map(packed: Tensor, quantizer: Quantizer, known: int) -> ScaleSample:
    """A map (B, L) of which the first `known` positions are drawn; what is accumulated is 0 at the others."""
    pyramid = TokenPyramid(packed.clone(), quantizer.schedule)
    height, width = quantizer.schedule.final
    drawn = torch.arange(height * width, device=packed.device).view(height, width) < known
    return ScaleSample((known - 1) // width, pyramid[len(pyramid) - 1], quantizer.decode(pyramid) * drawn, pyramid)
