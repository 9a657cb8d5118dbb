"""The part of a pipeline that loads, generates and reconstructs; `nextscale.pipeline` adds editing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from nextscale.catalogue import OfficialModel, StoredModel, find_model
from nextscale.checkpoint import ModelConfig, save_model
from nextscale.classes import find_class
from nextscale.config import require_known, with_settings
from nextscale.families.table import Model, kind_of
from nextscale.families.var import VAR
from nextscale.nn.packed import QuantizedLinear, can_pack, count_parameters, int8_range, pack_linears, unpack_linears
from nextscale.pictures import to_images
from nextscale.pyramid import ScaleSchedule, TokenPyramid
from nextscale.results import ClassLike, Generation, GenerationStep
from nextscale.runtime import (
    PRECISIONS,
    image_generator,
    multiplies_bf16,
    resolve_device,
    resolve_generation_dtype,
)
from nextscale.sampling.families import sample_model
from nextscale.sampling.likelihood import class_log_likelihoods, token_log_probabilities
from nextscale.sampling.next_scale import SamplingConfig, SamplingHook, ScaleSample
from nextscale.sampling.rejection import Rejection, draw_best
from nextscale.sampling.teacher_forcing import teacher_inputs
from nextscale.tokenizer.vqvae import VQVAE

SAMPLING_SETTINGS = tuple(field.name for field in fields(SamplingConfig))
PARAMETERS = ("classes", "seeds", "config", "rejection")
"""What calls take beside settings."""
COMPILED_BATCH_SIZES = 8
"""Batch sizes that a compiled pipeline keeps graphs for."""


class GenerationPipeline:
    """A tokenizer, a transformer and the model's defaults, ready to use."""

    def __init__(self, tokenizer: VQVAE, transformer: Model, config: ModelConfig) -> None:
        if tokenizer.schedule != transformer.schedule:
            raise ValueError(
                f"the tokenizer's scales ({tokenizer.schedule}) and the transformer's ({transformer.schedule}) differ"
            )
        self.tokenizer = tokenizer
        self.transformer = transformer
        self.config = config

    @classmethod
    def from_pretrained(
        cls, model: str | Path = "demo", *, device: str | torch.device = "auto", dtype: str | torch.dtype = "auto"
    ) -> Self:
        """Load `demo`, an official model (`var-d16` ... `var-d36`), a model or run folder, or a hub id.

        `dtype` is a torch dtype or one of auto, fp32, bf16, fp16, int8. Raises ValueError in one line when there is
        no such model or its files do not fit together.
        """
        return cls._of(find_model(model), device, dtype)

    @classmethod
    def from_official(
        cls,
        *,
        vae: str | Path,
        var: str | Path,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
    ) -> Self:
        """Load the authors' checkpoints, such as vae_ch160v4096z32.pth and var_d16.pth.

        Depth, sharing, schedule and classes are read from the tensors. Raises ValueError naming tensors that
        are missing, unexpected or misshapen.
        """
        return cls._of(OfficialModel(Path(vae), Path(var)), device, dtype)

    @classmethod
    def _of(cls, stored: StoredModel, device: str | torch.device, dtype: str | torch.dtype) -> Self:
        target = resolve_device(device)
        if resolve_generation_dtype(dtype, target) == torch.int8:  # complain before a large model is loaded
            int8_range()
        transformer, config = stored.transformer(), stored.config()  # the transformer first: it says what is missing
        parameters = count_parameters(transformer)
        compute = resolve_generation_dtype(dtype, target, parameters=parameters)
        return cls(stored.tokenizer(), transformer, config).to(target, compute)

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        """Move to a device and compute in a type; the encoder and the quantiser stay in float32 (on CPU the head too).

        In int8 the blocks multiply int8 and everything else is bf16 (float32 where the processor has no bf16).
        Raises ValueError for a model that is in int8 already.
        """
        unpack_linears(self.transformer)
        if dtype == torch.int8:
            dtype = torch.bfloat16 if multiplies_bf16() else torch.float32
            for block in self.transformer.blocks:
                pack_linears(block.attention, QuantizedLinear)
                pack_linears(block.feed_forward, QuantizedLinear)
        self.tokenizer.to(device).set_decoder_dtype(dtype)
        self.transformer.to(device, dtype)
        if device.type == "cpu":
            self.transformer.head.float()  # a hundredth of the work, and bf16 would round the logits
        if can_pack(device, dtype):
            pack_linears(self.transformer)
            for parameter in self.transformer.parameters():  # the few left would keep the whole file mapped
                parameter.data = parameter.data.clone()
        return self

    def compile(self, **options: Any) -> Self:
        """Compile the transformer's steps (one graph per scale) and the decoder; `options` go to torch.compile.

        The first generation of each batch size then takes a minute or more. For GPUs: on CPU the kernels are
        the same and nothing is gained. Raises ValueError for other families and for int8.
        """
        kind = kind_of(self.transformer.config)
        if kind.kind != "var":
            raise ValueError(f"only next-scale prediction is compiled for generation; this model is {kind.title}")
        if any(isinstance(module, QuantizedLinear) for module in self.transformer.modules()):
            raise ValueError("int8 has kernels of its own, which are not compiled; choose another precision")
        unpack_linears(self.transformer)  # the compiler refuses packed weights: they are no constants of its graph
        limit = len(self.schedule) * COMPILED_BATCH_SIZES
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, limit)
        assert isinstance(self.transformer, VAR)
        self.transformer.step = torch.compile(self.transformer.step, dynamic=False, **options)
        self.tokenizer.decoder.compile(dynamic=False, **options)
        return self

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors per part; it appears only when complete."""
        save_model(Path(folder), self.config, tokenizer=self.tokenizer, transformer=self.transformer)

    @property
    def device(self) -> torch.device:
        """Where the model is computed."""
        return self.transformer.device

    @property
    def precision(self) -> str:
        """The `--precision` name of what the pipeline computes in."""
        if any(isinstance(module, QuantizedLinear) for module in self.transformer.modules()):
            return "int8"
        return next(name for name, dtype in PRECISIONS.items() if dtype == self.transformer.dtype)

    @property
    def schedule(self) -> ScaleSchedule:
        """The scales of the model's tokens."""
        return self.transformer.schedule

    @property
    def default_batch_size(self) -> int:
        """Images whose keys and values with guidance stay within a quarter of a gigabyte (8 on CUDA), 1 to 16."""
        config = self.transformer.config
        values = 2 * 2 * config.depth * config.width * self.schedule.length  # guidance, keys and values
        room = (8 if self.device.type == "cuda" else 0.25) * 2**30
        return max(1, min(16, int(room / (values * self.transformer.dtype.itemsize))))

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; numbers where the model has none."""
        return self.config.class_names or tuple(str(index) for index in range(self.transformer.config.classes))

    def class_or_none(self, label: int) -> int | None:
        """A class id as `generate` takes it: None for the unconditional class."""
        return None if label == self.transformer.config.unconditional else label

    def class_ids(self, classes: Sequence[ClassLike] | ClassLike) -> list[int]:
        """Ids of names, ids or None (unconditional). Raises ValueError with near matches."""
        if classes is None or isinstance(classes, (str, int)):
            classes = [classes]
        if len(classes) == 0:
            raise ValueError("no classes given; name at least one, or None for unconditional")
        return [self._class_id(name) for name in classes]

    def _class_id(self, name: ClassLike) -> int:
        if name is None:
            return self.transformer.config.unconditional
        count = self.transformer.config.classes
        if isinstance(name, str) and not re.fullmatch(r"\s*-?\d+\s*", name):
            return find_class(name, self.class_names)
        if isinstance(name, str) and name.strip() in self.class_names:  # a class may be called "7"
            return self.class_names.index(name.strip())
        if 0 <= int(name) < count:
            return int(name)
        raise ValueError(f"class {name} does not exist; ids go from 0 to {count - 1}")

    def _repeated(self, classes: Sequence[ClassLike] | ClassLike, count: int) -> Tensor:
        """Ids (count,): the classes in turn."""
        ids = self.class_ids(classes)
        return torch.tensor([ids[i % len(ids)] for i in range(count)], device=self.device)

    @torch.no_grad()
    def logits(self, pyramid: TokenPyramid, classes: Sequence[ClassLike] | ClassLike) -> Tensor:
        """Teacher-forcing logits of every token, (B, L, V) float32."""
        labels = self._repeated(classes, pyramid.batch_size)
        known = teacher_inputs(self.transformer.config, self.tokenizer.quantizer, pyramid.to(self.device))
        return self.transformer(known, labels)

    def log_likelihood(self, pyramid: TokenPyramid, classes: Sequence[ClassLike] | ClassLike) -> Tensor:
        """log p of every token given all coarser scales and the class, (B, L) float32 in nats (paper, eq. 6)."""
        labels = self._repeated(classes, pyramid.batch_size)
        return token_log_probabilities(self.transformer, self.tokenizer.quantizer, pyramid.to(self.device), labels)[0]

    def class_log_likelihoods(self, pyramid: TokenPyramid) -> Tensor:
        """log p of the tokens under every class, (B, classes) float64 in nats; its argmax classifies the images."""
        return class_log_likelihoods(self.transformer, self.tokenizer.quantizer, pyramid.to(self.device))

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        """Encode and decode, (B, 3, H, W) in [-1, 1] -> same."""
        return self.tokenizer.decode(self.tokenizer.encode(images.to(self.device)))

    def sampling(self, **settings: float | int | bool | None) -> SamplingConfig:
        """The model's default settings with those given put over them; None keeps the default.

        Raises ValueError for an unknown setting, with near matches, and one out of range.
        """
        names = ("guidance", "top_k", "top_p", "steps")
        base = SamplingConfig(**{name: getattr(self.config, name) for name in names})
        return self.settled(base, settings)

    def settled(self, config: SamplingConfig | None, settings: dict[str, Any]) -> SamplingConfig:
        """Settings given by name over a config, or over the model's. Raises ValueError as `sampling` does."""
        if config is None:
            return self.sampling(**settings)
        require_known(settings, SAMPLING_SETTINGS, parameters=PARAMETERS)
        return with_settings(config, settings)

    def generate_steps(
        self,
        classes: Sequence[ClassLike] | ClassLike,
        *,
        seeds: Sequence[int],
        config: SamplingConfig | None = None,
        hook: SamplingHook | None = None,
        **settings: float | int | bool | None,
    ) -> Iterator[GenerationStep]:
        """One batch, one item per scale; image i has class `classes[i mod n]` and seed `seeds[i]`."""
        steps = sample_model(
            self.transformer,
            self.tokenizer.quantizer,
            self._repeated(classes, len(seeds)),
            generators=[image_generator(seed) for seed in seeds],
            config=self.settled(config, settings),
            hook=hook,
        )
        return (self._step(sample) for sample in steps)

    def _step(self, sample: ScaleSample) -> GenerationStep:
        return GenerationStep(sample.scale, sample.tokens, sample.accumulated, self.tokenizer)

    def generate(
        self,
        classes: Sequence[ClassLike] | ClassLike,
        *,
        seeds: Sequence[int] | None = None,
        batch_size: int = 0,
        config: SamplingConfig | None = None,
        rejection: Rejection | None = None,
        **settings: float | int | bool | None,
    ) -> Generation:
        """Generate one image per seed: image i has class `classes[i mod n]`.

        Without seeds, one image per class with the seeds 0, 1, ... Settings are those of `SamplingConfig`
        (guidance, top_k, top_p, temperature, smooth); the model's defaults hold for the others. `batch_size`
        images are worked on at once; 0 takes `default_batch_size`. With `rejection`, several candidates of each
        image are drawn and the best kept, with their scores. Raises ValueError for unknown classes and settings
        out of range.
        """
        ids = self.class_ids(classes)
        seeds = range(len(ids)) if seeds is None else seeds
        if len(seeds) == 0:
            raise ValueError("no seeds given; expected one per image")
        if batch_size < 0:
            raise ValueError(f"batch_size must be at least 1, or 0 for a default, got {batch_size}")
        settled = self.settled(config, settings)

        def sample(classes: Tensor, generators: Sequence[torch.Generator]) -> Iterator[ScaleSample]:
            quantizer = self.tokenizer.quantizer
            return sample_model(self.transformer, quantizer, classes, generators=generators, config=settled)

        drawn = draw_best(
            self.transformer, self.tokenizer, sample,
            [(ids[i % len(ids)], seed) for i, seed in enumerate(seeds)],
            batch_size=batch_size or self.default_batch_size, rejection=rejection,
        )  # fmt: skip
        images = [
            to_images(self.tokenizer.decode_features(one.to(self.device)))[0] for one in drawn.accumulated.split(1)
        ]
        return Generation(images, drawn.tokens, drawn.labels, drawn.seeds, drawn.scores)
