"""Settings of both stages of training. Nothing here imports torch, so that help is quick."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, make_dataclass
from functools import cache
from typing import Any

from nextscale.config import PRECISIONS, STORED, require_above_zero, require_at_least, require_seed, require_share
from nextscale.families.config import (
    ARCHITECTURES,
    OBJECTIVES,
    OneStepConfig,
    VARConfig,
    family_presets,
    transformer_presets,
)
from nextscale.settings import CaptionColumns, Computing, NamesColumns
from nextscale.tokenizer.config import VQVAEConfig, tokenizer_presets
from nextscale.training.optimiser_config import OPTIMISERS
from nextscale.training.optimiser_config import OptimiserConfig as OptimiserConfig


@dataclass(frozen=True, kw_only=True)
class LoopConfig(NamesColumns, Computing):
    """Settings that both stages have."""

    data: str
    "Training data: images (folder, parquet, WebDataset, hub id); for transformers also tokens."
    out: str
    "Run folder to write."
    heldout: str = ""
    "Held-out data to measure on while training."
    heldout_share: float = 0.05
    "Share of the images set aside to measure on where no held-out data is given, 512 at most; 0 trains on all."
    heldout_images: int = 512
    "Held-out images measured."
    steps: int = 10_000
    "Optimiser steps."
    epochs: float = 0.0
    "Passes over the data instead of a number of steps; 0 counts steps."
    batch_size: int = 64
    "Images per step, over all processes."
    seed: int = 0
    "Seed of initial weights, order, augmentation and dropout."
    enlarge: float = 1.0
    "For images: resize before the random crop, as a multiple of the crop; 1 leaves images of the right size alone."
    flip: bool = False
    "For images: mirror half of them."
    stream: bool = False
    "Read images in the order of their files instead of by index: for sets too large to index or to keep on one disk."
    stream_classes: int = 0
    "Classes of a stream whose labels are plain numbers."
    label_column: str = ""
    "For images: column of the labels where it is in doubt (in .tar: a suffix, a .json key, folder); none: no classes."
    image_column: str = ""
    "For images: their column where it is in doubt; in .tar: their suffix."
    limit: int = 100
    "Unreadable images tolerated; they are named, counted and replaced by the next."
    precision: str = "auto"
    "Type of products: auto (bf16 where the processor multiplies it, else fp32), bf16, fp32."
    compile: bool = False
    "Compile the model: half a minute to start; transformers then train up to 1.6 times faster on CPU."
    deterministic: bool = False
    "Repeat and continue to the same bits on CUDA too; slower. On CPU a run always does."
    log_every: int = 50
    "Steps between metric lines."
    sample_every: int = 1000
    "Steps between held-out measurements, sample pictures and exports."
    checkpoint_every: int = 500
    "Steps between checkpoints."
    keep: int = 2
    "Checkpoints kept."
    export: str = "fp32"
    "Type that the exported model's weights are stored in: fp32, bf16 (half the size), fp16, int8 (a quarter)."

    @property
    def captions(self) -> dict[str, str]:
        """As `open_source` takes them: none."""
        return {}

    def __post_init__(self) -> None:
        names = ("steps", "batch_size", "log_every", "sample_every", "checkpoint_every", "heldout_images", "keep")
        require_at_least(self, 1, *names, "enlarge")
        require_at_least(self, 0, "limit", "epochs", "stream_classes")
        require_share(self, "heldout_share")
        require_seed(self.seed)
        if self.stream and self.epochs:
            raise ValueError("a stream does not know its length; give --steps instead of --epochs")
        for name, known in (("export", list(STORED)), ("precision", ["auto", *PRECISIONS])):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} {getattr(self, name)!r} is not known; expected one of {', '.join(known)}")


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig:
    """The discriminator of stage 1 and its part of the loss."""

    adversarial: float = 0.0
    "Weight of the adversarial loss, times the adaptive weight; 0 trains without a discriminator."
    discriminator: str = "patch"
    "patch (hinge loss, spectral normalisation) or stylegan2 (all of the image, logistic loss, R1 penalty)."
    adversarial_start: float = 0.22
    "Share of the steps before the discriminator is listened to."
    adversarial_lead: float = 0.05
    "Share of the steps that the discriminator learns before it is listened to: what it says at first is noise."
    discriminator_rate: float = 1.0
    "The discriminator's learning rate, as a multiple of the tokenizer's."
    adaptive: bool = True
    "Scale the adversarial gradient to the reconstruction's at the decoder's last layer (VQGAN, eq. 7)."
    discriminator_augment: bool = True
    "Show the discriminator images with random colour, place and holes; it then needs less data."
    discriminator_channels: int = 64
    "Channels of the discriminator's first level; each further level has twice as many."
    discriminator_levels: int = 3
    "Levels of the patch discriminator, each of which halves the resolution; stylegan2 goes down to 4 pixels."
    r1: float = 10.0
    "Weight of stylegan2's penalty on the squared gradient at real images (half of it counts)."
    r1_every: int = 16
    "Steps from one penalty to the next, each weighed for all of them."

    def __post_init__(self) -> None:
        require_at_least(self, 0, "adversarial", "adversarial_lead", "r1")
        require_above_zero(self, "discriminator_rate")
        require_at_least(self, 1, "discriminator_channels", "discriminator_levels", "r1_every")
        if self.discriminator not in ("patch", "stylegan2"):
            raise ValueError(f"discriminator {self.discriminator!r} is not known; expected patch or stylegan2")
        require_share(self, "adversarial_start")

    def joined(self, step: int, steps: int) -> bool:
        """Whether the tokenizer trains against the discriminator at a step (0-based)."""
        return self.adversarial > 0 and step >= self.adversarial_start * steps

    def learning(self, step: int, steps: int) -> bool:
        """Whether the discriminator trains at a step (0-based)."""
        return self.adversarial > 0 and step >= (self.adversarial_start - self.adversarial_lead) * steps


@dataclass(frozen=True, kw_only=True)
class DisturbanceConfig:
    """What stage 1 shows the decoder in place of perfect codes, so that it forgives those that a model gets wrong."""

    disturb: float = 0.0
    "Share of the images whose codes are disturbed before they are decoded; the quantiser's loss sees them clean."
    disturb_tokens: float = 1.0
    "Share of the codes of such an image that are replaced in the first fifth of the steps; it then falls or rises."
    disturb_tokens_end: float = 0.0
    "Share of its codes that are replaced in the last two fifths of the steps."
    disturb_codes: int = 100
    "A replaced code becomes a random one of this many nearest others."
    scale_dropout: float = 0.0
    "Share of the images that are decoded from their first scales alone: at least three, and not all."

    def __post_init__(self) -> None:
        for name in ("disturb", "disturb_tokens", "disturb_tokens_end", "scale_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        require_at_least(self, 1, "disturb_codes")

    def tokens_at(self, step: int, steps: int) -> float:
        """Share of a disturbed image's codes that are replaced at a step (0-based), annealed as RobustTok's is."""
        fallen = min(max((step / steps - 0.2) / 0.4, 0.0), 1.0)  # epochs 40 to 120 of 200
        return self.disturb_tokens + (self.disturb_tokens_end - self.disturb_tokens) * fallen


@dataclass(frozen=True, kw_only=True)
class TokenizerTraining(LoopConfig):
    """Everything that reproduces a tokenizer run."""

    l1: float = 1.0
    "Weight of the absolute pixel error."
    l2: float = 1.0
    "Weight of the squared pixel error."
    perceptual: float = 0.0
    "Weight of the perceptual distance; 0 needs no backbone."
    perceptual_backbone: str = "mobilenet_v2"
    "Torchvision model whose features the perceptual distance compares; lpips is VGG16 with LPIPS' learned weights."
    perceptual_weights: str = ""
    "File with the backbone's weights; empty fetches torchvision's."
    perceptual_shift: int = 0
    "Pixels by which both images are moved at random before they are compared; a few avoid patterns of dots."
    restart_every: int = 100
    "Steps between restarts of dead codes; none happen in the last fifth of training."
    restart_below: float = 0.02
    "A code is dead when it was used less than this share of the average."
    init_from: str = ""
    "Model or tokenizer to start from; its architecture is kept, whatever the preset, but not its weight beta."
    init_scales: tuple[tuple[int, int], ...] = ()
    "Other scales for the tokenizer named by --init-from, with the same last one, such as 8 or 8,8,8,8."
    decoded_images: int = 48
    "Of the held-out images, those that are decoded at every scale, for PSNR and pictures."
    decoder_only: bool = False
    "Train the decoder of --init-from alone: its tokens, and transformers that know them, stay good."
    teacher: float = 0.0
    "Of a decoder trained alone: weight of the same errors against what the former one makes of the same tokens."
    model: VQVAEConfig = field(default_factory=lambda: tokenizer_presets()["small-64"])
    "The tokenizer's architecture."
    adversary: AdversarialConfig = field(default_factory=AdversarialConfig)
    "The discriminator and its loss."
    disturbance: DisturbanceConfig = field(default_factory=DisturbanceConfig)
    "What happens to codes before they are decoded."
    optimiser: OptimiserConfig = field(
        default_factory=lambda: OptimiserConfig(
            learning_rate=1.2e-3, weight_decay=0.005, clip=1.0, flat=0.3, final=0.02, ema=0.999
        )
    )
    "Rates, their schedule, and the average of the weights."

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "restart_every", "decoded_images")
        require_at_least(self, 0, "l1", "l2", "perceptual", "perceptual_shift", "restart_below", "teacher")
        if self.precision == "fp16":
            raise ValueError("tokenizers train in bf16 or fp32; their losses and gradients overflow in fp16")
        if self.decoder_only and not self.init_from:
            raise ValueError("decoder_only needs init_from: the tokenizer whose decoder is to be trained")
        if self.teacher and not self.decoder_only:
            raise ValueError("teacher needs decoder_only: what it decodes are its own tokens")
        if self.init_scales and (not self.init_from or self.decoder_only):
            raise ValueError(
                "init_scales needs init_from, a tokenizer all of which is trained: its tokens become others"
            )


@dataclass(frozen=True, kw_only=True)
class TransformerTraining(CaptionColumns, LoopConfig):
    """Everything that reproduces a transformer run."""

    tokenizer: str
    "Tokenizer: a model, run or tokenizer folder, or demo."
    init_from: str = ""
    "Model to start from; its architecture is kept, and of its classes those of the same name."
    condition: str = "class"
    "What images are drawn from: class, or text (prompts; trained on captions)."
    text_encoder: str = ""
    "For text: encoder of transformers, a hub id or folder, which stays as it is; without one, words are learned."
    text_tokens: int = 16
    "For text: words of a prompt that are read, or tokens of the text encoder."
    word_dropout: float = 0.1
    "For text: share of a caption's words that are left out, so that others learn to stand alone; never all."
    parallel: str = "ddp"
    "How processes share the work: ddp (each holds the model) or fsdp (each holds a part of it)."
    accumulate: int = 0
    "Parts that a batch is split into, one after the other: less memory, the same gradient. 0 chooses (several on CPU)."
    checkpointing: bool = False
    "Compute each block again in the backward pass instead of keeping what it needs: less memory, a third slower."
    gamma: float = 1e-3
    "Initial scale of the rows that let AdaLN's branches through."
    class_dropout: float = 0.1
    "Share of samples trained without their class, or caption, which guidance needs."
    label_smoothing: float = 0.0
    "Label smoothing of the cross-entropy."
    scale_weights: tuple[float, ...] = ()
    "Weight of a token's loss at each scale, coarse to fine; only their ratios count. Without it, all are alike."
    self_correct: float = 0.0
    "Largest share of an image's tokens that the model reads replaced by near codes, which later scales make good."
    masked_last: float = 0.0
    "Share of the images of which part of the last map is known, so that it may be drawn in several passes."
    guidance: float = 1.5
    "Guidance the trained model uses by default; it ramps up from 0 at the first scale."
    top_k: int = 900
    "Top-k the trained model uses by default; 0 is off."
    top_p: float = 0.96
    "Top-p the trained model uses by default; 0 is off."
    refine_steps: int = 1
    "Passes that draw the last map by default, if trained for it (--masked-last); 1 draws it at once."
    tokenizer_fingerprint: str = ""
    "Identity of the tokenizer's weights, filled in; another tokenizer under the same name is refused."
    model: VARConfig = field(default_factory=lambda: transformer_presets()["small"])
    "The transformer's architecture."
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    "Rates, their schedule, and the average of the weights."

    @property
    def captions(self) -> dict[str, str]:
        """As `open_source` takes them: none for a model of classes."""
        return super().captions if self.condition == "text" else {"caption_column": "none"}

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 0, "accumulate")
        if self.parallel not in ("ddp", "fsdp"):
            raise ValueError(f"parallel {self.parallel!r} is not known; expected ddp or fsdp")
        if self.accumulate > self.batch_size:
            raise ValueError(f"accumulate splits a batch of {self.batch_size} into {self.accumulate}; use less")
        require_at_least(self, 0, "gamma")
        require_share(self, "class_dropout", "word_dropout", "label_smoothing", "self_correct")
        require_at_least(self, 1, "text_tokens")
        if self.condition not in ("class", "text"):
            raise ValueError(f"condition {self.condition!r} is not known; expected class or text")
        if self.text_encoder and self.condition != "text":
            raise ValueError("text_encoder is for models of prompts: add --condition text, or leave it out")
        if not 0 <= self.masked_last <= 1:
            raise ValueError(f"masked_last must be between 0 and 1, got {self.masked_last}")
        weights = self.scale_weights
        if weights and not (all(0 <= weight < math.inf for weight in weights) and any(weights)):
            raise ValueError(f"scale_weights must be at least 0 and not all 0, got {','.join(map(str, weights))}")
        from nextscale.sampling.next_scale import SamplingConfig  # which imports torch

        names = ("guidance", "top_k", "top_p", "refine_steps")
        SamplingConfig(**{name: getattr(self, name) for name in names})  # raises ValueError
        if self.refine_steps > 1 and not self.masked_last:
            raise ValueError(f"refine_steps {self.refine_steps} need a model that is trained with masked_last")


def training_settings(kind: str) -> type[TransformerTraining]:
    """The settings of stage 2 for a kind of model: those of all kinds, its architecture, its loss's as `objective`.

    Only kinds that the package does not bring import torch. Raises ValueError for an unknown kind.
    """
    if kind in ARCHITECTURES:
        architecture = ARCHITECTURES[kind]
        return _settings(kind, architecture, OBJECTIVES.get(kind), not issubclass(architecture, OneStepConfig))
    from nextscale.families import family

    one = family(kind)
    return _settings(kind, one.config, one.objective, one.reads_tokens)


@cache
def _settings(
    kind: str, architecture: type[Any], objective: type[Any] | None, reads_tokens: bool
) -> type[TransformerTraining]:
    """One class for each architecture, with its smallest preset as the default."""
    if architecture is VARConfig:
        return TransformerTraining

    def small() -> Any:
        if kind in ARCHITECTURES:
            return family_presets(kind)["small"]
        from nextscale.families import family

        return family(kind).presets()["small"]

    fields: list[tuple[str, Any, Any]] = [("model", architecture, field(default_factory=small))]
    fields += [] if reads_tokens else [("tokenizer", str, field(default=""))]
    fields += [] if objective is None else [("objective", objective, field(default_factory=objective))]
    if kind in OPTIMISERS:
        fields.append(("optimiser", OptimiserConfig, field(default_factory=OPTIMISERS[kind])))
    if issubclass(architecture, OneStepConfig):  # which draw nothing token by token
        fields += [(name, kind_, field(default=off)) for name, kind_, off in NO_DRAWING]
    name = architecture.__name__.replace("Config", "Training")
    made = make_dataclass(name, fields, bases=(TransformerTraining,), frozen=True, kw_only=True)
    made.__module__ = __name__  # else cyclopts takes it for one of the standard library's
    return made


NO_DRAWING = (("guidance", float, 0.0), ("top_k", int, 0), ("top_p", float, 0.0))
"""Settings of drawing that models of one step have not, their type, and off."""
