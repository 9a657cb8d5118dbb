"""Load a model, then generate, reconstruct and edit: what users import.

Shapes: B images or variations, L tokens, V codebook entries, (h, w) latent grid, (H, W) pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from nextscale.catalogue import OfficialModel, StoredModel, find_model, in_turn
from nextscale.checkpoint import ModelConfig, save_model
from nextscale.classes import Classes, repeated
from nextscale.conditioned import Conditioned
from nextscale.conditions import Choices
from nextscale.config import require_known, with_settings
from nextscale.data.decode import ImageLike, read_image
from nextscale.editing.apply import Editor, EditStep, likely_classes
from nextscale.editing.canvas import Canvas
from nextscale.editing.config import EDIT_SETTINGS, EditConfig
from nextscale.editing.draw import AUTO, Wanted, draw_edits, draw_in_turn, edit_settings, softens
from nextscale.editing.enlarge import Expansion, enlarged, outpainting
from nextscale.editing.masks import Box, MaskLike, mask_values
from nextscale.families import family_of
from nextscale.families.base import Family
from nextscale.nn.graphs import use_graphs
from nextscale.nn.packed import int8_range, is_quantized, prepare
from nextscale.pictures import to_images
from nextscale.pyramid import ScaleSchedule
from nextscale.results import Generation, GenerationStep, generation_of, joined
from nextscale.runtime import precision_name, resolve_device, resolve_generation_dtype
from nextscale.sampling.noise import image_seeds
from nextscale.sampling.rejection import Drawing, Rejection
from nextscale.sampling.step import PARAMETERS, SAMPLING_SETTINGS, SamplingConfig, SamplingHook
from nextscale.tokenizer.vqvae import VQVAE, PixelTokenizer


class VARPipeline(Conditioned):
    """A tokenizer, a model of any family (`transformer`) and the model's defaults, ready to use.

    Images to be edited are files, bytes, PIL images or arrays, as `nextscale.data.decode.read_image` takes them. The
    settings of edits (`EditConfig`) and of drawing (`SamplingConfig`) are keyword arguments of every edit; they hold
    over `editing` and `config` where these are given. A model of prompts takes these wherever others take `classes`.
    """

    def __init__(self, tokenizer: Any, transformer: Any, config: ModelConfig) -> None:
        """`tokenizer` is a PixelTokenizer for models of pixels. Raises ValueError where the two do not fit."""
        self.tokenizer: VQVAE = tokenizer
        self.transformer = transformer
        self.config = config
        self.graphs = True  # from `to` on
        if isinstance(tokenizer, PixelTokenizer) == self.family.reads_tokens:
            raise ValueError(f"PixelTokenizer is for models of pixels, and only for them; this is {self.family.title}")
        if self.family.reads_tokens and tokenizer.schedule != self.schedule:
            both = f"the tokenizer's scales ({tokenizer.schedule}) and the transformer's ({self.schedule})"
            raise ValueError(f"{both} differ")

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

        Sizes and options are read from the tensors. Raises ValueError naming tensors that do not fit.
        """
        return cls._of(OfficialModel(Path(vae), Path(var)), device, dtype)

    @classmethod
    def _of(cls, stored: StoredModel, device: str | torch.device, dtype: str | torch.dtype) -> Self:
        target = resolve_device(device)
        if resolve_generation_dtype(dtype, target) == torch.int8:  # complain before a large model is loaded
            int8_range()
        transformer, config = stored.transformer(), stored.config()  # the transformer first: it says what is missing
        parameters = family_of(transformer.config).parameters(transformer)
        compute = resolve_generation_dtype(dtype, target, parameters=parameters)
        return cls(stored.tokenizer(), transformer, config).to(target, compute)

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        """Move both parts, in place, to compute in a type; encoder, quantiser and, on CPU, the head stay in float32.

        In int8 the blocks multiply int8 and everything else is bf16 (float32 where the processor has no bf16).
        Raises ValueError for a model that is in int8 already.
        """
        dtype = prepare(self.transformer, device, dtype)
        self.tokenizer.to(device).set_decoder_dtype(dtype)
        return self.use_graphs(self.graphs)  # new ones

    def use_graphs(self, wanted: bool) -> Self:
        """Let generation and decoding on CUDA run as CUDA graphs (one per batch size) or not; after `to` they do."""
        self.graphs = wanted
        use_graphs(wanted, self.device, self.transformer, self.tokenizer)
        return self

    def compile(self, **options: Any) -> Self:
        """Compile the transformer's blocks (one graph per scale) and the decoder; `options` go to torch.compile.

        The first generation of each batch size then takes a minute or more. For GPUs: on CPU the kernels are
        the same and nothing is gained. Raises ValueError for other families and for int8.
        """
        self.family.compile(self.transformer, **options)
        self.tokenizer.decoder.compile(dynamic=False, **options)
        return self.use_graphs(self.graphs)  # new ones

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors per part; it appears only when complete."""
        save_model(Path(folder), self.config, tokenizer=self.tokenizer, transformer=self.transformer)

    def with_refiner(self, refiner: VARPipeline, switch: int) -> Self:
        """Two models in turn (CoDe, arXiv:2411.17787): this one draws the first `switch` scales, `refiner` the rest.

        Raises ValueError where they do not fit: other tokens, classes, device or precision.
        """
        return type(self)(*in_turn(self, refiner, switch)).use_graphs(self.graphs)

    @property
    def family(self) -> Family:
        """What kind of model the transformer is."""
        return family_of(self.transformer.config)

    @property
    def device(self) -> torch.device:
        """Where the model is computed."""
        return self.transformer.device

    @property
    def precision(self) -> str:
        """The `--precision` name of what the pipeline computes in."""
        return "int8" if is_quantized(self.transformer) else precision_name(self.transformer.dtype)

    @property
    def schedule(self) -> ScaleSchedule:
        """The scales of the model's tokens."""
        return self.transformer.schedule

    @property
    def default_batch_size(self) -> int:
        """Images that are generated at once unless one says how many; see `Family.batch_size`."""
        return self.family.batch_size(self.transformer.config, self.transformer.dtype, self.device)

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        """Encode and decode, (B, 3, H, W) in [-1, 1] -> same. Raises ValueError for models of pixels."""
        tokens = self.tokenizer.encode(images.to(self.device))
        return self.tokenizer.decode(tokens)

    def sampling(
        self, config: SamplingConfig | None = None, /, **settings: float | int | bool | Sequence[float] | None
    ) -> SamplingConfig:
        """`config`, or the model's defaults, with the settings that are given and not None. Raises ValueError."""
        require_known(settings, SAMPLING_SETTINGS, parameters=PARAMETERS)
        return with_settings(config or SamplingConfig(**self.config.sampling()), settings)

    def generate_steps(
        self,
        classes: Classes,
        *,
        seeds: Sequence[int],
        config: SamplingConfig | None = None,
        hook: SamplingHook | None = None,
        negative_prompt: str = "",
        **settings: float | int | bool | Sequence[float] | None,
    ) -> Iterator[GenerationStep]:
        """One batch, one item per scale; image i has class, or prompt, `classes[i mod n]` and seed `seeds[i]`."""
        wanted = self.conditions(classes, len(seeds), negative_prompt)
        asked = {"seeds": image_seeds(seeds, self.device), "config": self.sampling(config, **settings), "hook": hook}
        steps = self.family.sample(self.transformer, self.tokenizer, wanted, **asked)
        return (GenerationStep(step.scale, step.tokens, step.accumulated, self.tokenizer) for step in steps)

    def generate(
        self,
        classes: Classes,
        *,
        seeds: Sequence[int] | None = None,
        batch_size: int = 0,
        config: SamplingConfig | None = None,
        rejection: Rejection | None = None,
        negative_prompt: str = "",
        **settings: float | int | bool | Sequence[float] | None,
    ) -> Generation:
        """Generate one image per seed: image i has class `classes[i mod n]`, or this prompt of a model of prompts.

        Without seeds, one image per class with the seeds 0, 1, ... Guidance leads away from the unconditional class, or
        from `negative_prompt`. Settings are those of `SamplingConfig`; the model's defaults hold for the others.
        `batch_size` images are worked on at once; 0 takes `default_batch_size`. With `rejection`, the best of several
        candidates are kept, with their scores. Raises ValueError for unknown classes and settings out of range.
        """
        how: Any = {"seeds": seeds, "batch_size": batch_size, "config": config, "rejection": rejection, **settings}
        how["negative_prompt"] = negative_prompt
        return joined(list(self.generate_batches(classes, **how)))

    def generate_batches(
        self,
        classes: Classes,
        *,
        seeds: Sequence[int] | None = None,
        batch_size: int = 0,
        config: SamplingConfig | None = None,
        rejection: Rejection | None = None,
        negative_prompt: str = "",
        **settings: Any,
    ) -> Iterator[Generation]:
        """`generate` batch by batch, for many images: those of one batch are finished before the next one begins."""
        choices = self.choices(classes, negative_prompt)
        seeds = range(len(choices.numbers)) if seeds is None else seeds
        settled = self.sampling(config, **settings)
        wanted = list(zip(repeated(choices.numbers, len(seeds)), seeds, strict=True))
        size = batch_size or self.default_batch_size
        for drawing in Drawing.in_batches(self.transformer, wanted, size, rejection, choices):
            for conditions, chosen in drawing.parts(size):
                asked = {"seeds": chosen, "config": settled}
                drawing.add(list(self.family.sample(self.transformer, self.tokenizer, conditions, **asked)))
            drawn = drawing.finish(self.tokenizer)
            yield generation_of(to_images(self.tokenizer.decode_each(drawn.accumulated)), drawn, choices)

    def editor(
        self,
        image: ImageLike,
        mask: MaskLike | Sequence[Box] | None = None,
        *,
        editing: EditConfig | None = None,
        **settings: Any,
    ) -> Editor:
        """An image and a mask of what is to be regenerated (white, True or alpha 0; boxes; None is everything)."""
        require_known(settings, EDIT_SETTINGS)
        config, _ = edit_settings(editing, settings)
        picture = read_image(image)
        values = mask_values(mask, (picture.height, picture.width))
        return Editor(self.editing_model, self.tokenizer, Canvas.of(picture), values, config)

    def outpainter(self, image: ImageLike, expansion: Expansion, editing: EditConfig | None = None) -> Editor:
        """An image and the pixels to be added at its sides. Raises ValueError for first scales to keep."""
        config = editing or EditConfig()
        if config.keep_scales:
            raise ValueError("out-painting has no first scales to keep: nothing is there yet")
        return outpainting(self.editing_model, self.tokenizer, read_image(image), expansion, config)

    @property
    def editing_model(self) -> Any:
        """The transformer. Raises ValueError where it is of a kind that cannot edit."""
        if not self.family.editable:
            title = self.family.title
            raise ValueError(f"editing reaches into the scales of next-scale prediction; this model is {title}")
        return self.transformer

    def edit_steps(
        self,
        editor: Editor,
        *,
        classes: Classes = AUTO,
        seeds: Sequence[int] = (0,),
        config: SamplingConfig | None = None,
        negative_prompt: str = "",
        **settings: Any,
    ) -> Iterator[EditStep]:
        """Variations of an edit, one per seed, a scale at a time, region after region.

        Guidance that is not set is the model's; for `auto`, times the squared share of the region made anew.
        """
        wanted = self._wanted(classes, seeds, config, settings, editor.known_part(), negative_prompt)
        chosen = wanted.choices.conditions(wanted.labels, self.device)
        return editor.steps(chosen, image_seeds(seeds, self.device), wanted.sampling, soften=wanted.soften)

    def _wanted(
        self,
        classes: Classes,
        seeds: Sequence[int],
        config: SamplingConfig | None,
        settings: Any,
        known: Any,
        negative_prompt: str = "",
    ) -> Wanted:
        """The variations asked for of an image of which a part is known (`Editor.known_part`)."""
        sampling, soften = self.sampling(config, **settings), softens(classes, config, settings)
        choices = self.edit_choices(classes, *known, negative_prompt=negative_prompt)
        return Wanted(repeated(choices.numbers, len(seeds)), list(seeds), sampling, soften, choices)

    def edit_choices(self, classes: Classes, image: Tensor, kept: Tensor, negative_prompt: str = "") -> Choices:
        """`choices`; `auto` is the class under which what is kept is likeliest, where there are few enough to try.

        Of a model of prompts it is the empty one.
        """
        if self.reads_prompts:
            return self.choices(None if classes == AUTO else classes, negative_prompt)
        if classes != AUTO or AUTO in self.class_names:  # a class may have this name
            return self.choices(classes, negative_prompt)
        return Choices(likely_classes(self.editing_model, self.tokenizer, image, kept).tolist())

    def inpaint(
        self,
        image: ImageLike,
        mask: MaskLike | Sequence[Box] | None,
        *,
        classes: Classes = AUTO,
        seeds: Sequence[int] = (0,),
        editing: EditConfig | None = None,
        config: SamplingConfig | None = None,
        rejection: Rejection | None = None,
        negative_prompt: str = "",
        **settings: Any,
    ) -> Generation:
        """Regenerate what the mask covers, one variation per seed; `tokens` are those of the region around it.

        What is not covered stays as it is, to the pixel; an empty mask returns the image. Images may have any size: the
        region around the mask is edited at the model's size and put back. Holes far from each other have regions of
        their own, one after the other; the largest hole's tells the class, and `tokens` are the last's. With
        `rejection`, the best of several candidates of each variation is kept. Guidance that is not set is the model's;
        for the class `auto`, times the squared share of the region made anew. Raises ValueError for masks that do not
        fit and for unknown settings.
        """
        editing, settings = edit_settings(editing, settings)
        self.sampling(config, **settings)  # complain before anything is read
        editor = self.editor(image, mask, editing=editing)
        how = {"seeds": seeds, "config": config, "rejection": rejection, "negative_prompt": negative_prompt}
        return self.variations(editor, classes=classes, **how, **settings)

    @torch.no_grad()
    def variations(
        self,
        editor: Editor,
        *,
        classes: Classes = AUTO,
        seeds: Sequence[int] = (0,),
        config: SamplingConfig | None = None,
        rejection: Rejection | None = None,
        negative_prompt: str = "",
        **settings: Any,
    ) -> Generation:
        """Finished variations of an edit, as `inpaint` makes them."""
        wanted = self._wanted(classes, seeds, config, settings, editor.known_part(), negative_prompt)
        drawn = draw_edits(editor, wanted, batch_size=self.default_batch_size, rejection=rejection)
        return generation_of(*drawn, wanted.choices)

    def edit(
        self, image: ImageLike, mask: MaskLike | Sequence[Box] | None = None, *, classes: Any, **settings: Any
    ) -> Generation:
        """`inpaint` toward other classes; without a mask the whole image, of which `keep_scales` keeps the layout."""
        return self.inpaint(image, mask, classes=classes, **settings)

    @torch.no_grad()
    def outpaint(
        self,
        image: ImageLike,
        *,
        left: int = 0,
        right: int = 0,
        top: int = 0,
        bottom: int = 0,
        classes: Classes = AUTO,
        seeds: Sequence[int] = (0,),
        editing: EditConfig | None = None,
        config: SamplingConfig | None = None,
        negative_prompt: str = "",
        **settings: Any,
    ) -> Generation:
        """Add pixels at the sides, window by window, one variation per seed; `tokens` are the last window's."""
        editing, settings = edit_settings(editing, settings)
        self.sampling(config, **settings)  # complain before anything is read
        editor = self.outpainter(image, Expansion(left=left, right=right, top=top, bottom=bottom), editing)
        wanted = self._wanted(classes, seeds, config, settings, editor.known_part(), negative_prompt)
        return generation_of(*draw_in_turn(editor, wanted), wanted.choices)

    def upscale(
        self,
        image: ImageLike,
        *,
        classes: Classes = AUTO,
        seeds: Sequence[int] = (0,),
        editing: EditConfig | None = None,
        config: SamplingConfig | None = None,
        **settings: Any,
    ) -> Generation:
        """A small image at the model's size, one variation per seed.

        The image gives the scales whose maps it resolves (at least the first) unless `keep_scales` says how many, the
        model the finer ones. Raises ValueError for an image that is not smaller than the model's.
        """
        larger, known = enlarged(read_image(image), self.tokenizer.config.image_size, self.schedule)
        editing = replace(editing or EditConfig(), keep_scales=known)
        return self.inpaint(larger, None, classes=classes, seeds=seeds, editing=editing, config=config, **settings)
