"""The transformer of all families: embeddings of a sequence in parts, AdaLN blocks, and a head that reads them.

A part is what is predicted at once: a whole scale in next-scale prediction, a single token in raster order.
Shapes: B batch, L tokens of the sequence, l tokens of one part, C width, V codebook entries, T tokens of a text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.init import trunc_normal_
from torch.utils.checkpoint import checkpoint

from nextscale.conditions import Conditions, as_conditions, vectors_and_context
from nextscale.nn import TransformerConfig
from nextscale.nn.attention import CrossAttention, KeyValueCache
from nextscale.nn.block import ROWS, AdaLNBlock, OpenSum, gated, summed_and_modulated
from nextscale.nn.cpu import Group
from nextscale.nn.graphs import GraphedModule
from nextscale.nn.linear import Linear
from nextscale.nn.text import TextEncoder

ATTENTION_GROUP = 128
"""Tokens from which scales get an attention product of their own in training."""
COMPILED_BATCH_SIZES = 8
"""Batch sizes for which compiled graphs are kept."""


@dataclass(frozen=True)
class Condition:
    """What the blocks and the head read of a batch's conditions, computed once per image."""

    start_BC: Tensor
    "Start tokens."
    rows: Sequence[Tensor]
    "Modulation rows of each block, (B, 6, C), in the type of what blocks add up."
    head_rows_B2C: Tensor | None = None
    "Scale and shift of the head's AdaLN, (B, 2, C) float32; None without a head."
    context: Sequence[tuple[Tensor, ...]] | None = None
    "What each block takes of a text, (B, ...) each: keys, values and mask, or tokens and mask; None for classes."

    @property
    def batch(self) -> int:
        return self.start_BC.shape[0]

    def apply(self, change: Callable[[Tensor], Tensor]) -> Condition:
        """Each tensor changed in the same way, such as to repeat images."""
        return Condition(
            change(self.start_BC),
            [change(each) for each in self.rows],
            None if self.head_rows_B2C is None else change(self.head_rows_B2C),
            None if self.context is None else [tuple(map(change, each)) for each in self.context],
        )

    def select(self, images: slice) -> Condition:
        """The condition of some images."""
        return self.apply(lambda each: each[images])


class Backbone(GraphedModule):
    """AdaLN blocks and the head behind them; families put their embeddings before it."""

    blocks: Sequence[AdaLNBlock]
    head_modulation: Linear | None
    head: Linear

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.schedule = config.schedule
        self.checkpointing = False
        "Whether training keeps only the blocks' inputs and computes the rest again in the backward pass."
        self.run: Callable[..., Tensor] | None = None
        "`transform` compiled, after `compile_transform`."

    def make_blocks(self, block: type[AdaLNBlock] = AdaLNBlock) -> Any:
        """The blocks, as a ModuleList; stochastic depth rises from 0 to the last block."""
        config = self.config
        rates = [config.drop_path * number / max(1, config.depth - 1) for number in range(config.depth)]
        own = config.adaln and not config.shared_adaln
        texts = [
            {"text_width": config.text.width} if config.text is not None and config.text.attended_by(number) else {}
            for number in range(config.depth)
        ]
        return nn.ModuleList(
            block(config.heads, normalise=config.qk_normalisation, drop_path=rate, own=own, **text)
            for rate, text in zip(rates, texts, strict=True)
        )

    def block_contexts(self, context: tuple[Tensor, Tensor] | None) -> Sequence[tuple[Tensor, ...]] | None:
        """What each block takes of the tokens of a text and their mask, made once per image."""
        return None if context is None else [block.context(*context) for block in self.blocks]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.get_parameter("positions").device

    @property
    def dtype(self) -> torch.dtype:
        """What the blocks' matrices are multiplied in (autocast aside); what is added up may be in float32."""
        return self.blocks[0].dtype

    def transform(
        self,
        x_BLC: Tensor,
        condition: Condition,
        *,
        groups: Sequence[Group] = (),
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """All blocks, then the head's AdaLN: (B, L, C) -> what the head's Linear reads, (B, L, C) float32.

        The one loop over blocks: for a whole sequence under the groups' masks, or for a part with a cache, to which its
        keys and values are added, or which sees itself alone. The first parts may come at once, with an empty cache and
        groups. Without a head it gives the blocks' states.
        """
        length = x_BLC.shape[1]
        fuses = not torch.is_grad_enabled() and all(block.may_stay_open for block in self.blocks)
        stream: Tensor | OpenSum = x_BLC
        for layer, (block, rows) in enumerate(zip(self.blocks, condition.rows, strict=True)):
            context: dict[str, Any] = {} if condition.context is None else {"context": condition.context[layer]}
            if self.checkpointing and self.training:
                stream = checkpoint(block, stream, rows, groups=groups, use_reentrant=False, **context)
            else:
                run = block.open if fuses else block
                stream = run(stream, rows, groups=groups, cache=cache, layer=layer, **context)
        if cache is not None:
            cache.advance(length)
        if condition.head_rows_B2C is None:
            return stream if isinstance(stream, Tensor) else gated(*stream)
        scale, shift = condition.head_rows_B2C.unsqueeze(2).unbind(1)
        stream = stream.float() if isinstance(stream, Tensor) else stream
        return summed_and_modulated(stream, scale, shift, torch.float32)[1]

    def compile_transform(self, **options: Any) -> None:
        """Compile `transform` for generation, one graph per scale; `options` go to torch.compile."""
        graphs = len(self.config.schedule) * COMPILED_BATCH_SIZES
        compiled = torch.compile(self.transform, dynamic=False, **options)
        limits = torch._dynamo.config
        self.run = limits.patch(recompile_limit=max(graphs, limits.recompile_limit))(compiled)

    def classify(self, x_BLC: Tensor) -> Tensor:
        """The head's Linear, (B, l, C) -> (B, l, V) float32."""
        return self.head(x_BLC.to(self.head.bias.dtype)).float()


class Transformer(Backbone):
    """GPT-2-style transformer with AdaLN over the parts of a sequence (paper, sections 3.1 and 3.3).

    No tokenizer inside: it reads latents (B, l, latent_channels). Without a `head` it gives the blocks' states.
    """

    mask: Tensor
    levels: Tensor

    def __init__(self, config: TransformerConfig, *, head: bool = True, block: type[AdaLNBlock] = AdaLNBlock) -> None:
        super().__init__(config)
        self.sequence = config.sequence
        width, schedule = config.width, self.sequence
        self.class_embedding = nn.Embedding(config.classes + 1, width) if config.text is None else None
        self.text = None if config.text is None else TextEncoder(config.text, width)
        self.start_position = nn.Parameter(torch.empty(schedule.lengths[0], width))
        self.positions = nn.Parameter(torch.empty(schedule.length, width))
        self.level_embedding = nn.Embedding(len(schedule), width)
        self.word_embedding = nn.Linear(config.latent_channels, width)
        self.shared_modulation = Linear(width, ROWS * width) if config.shared_adaln else None
        self.blocks = self.make_blocks(block)
        self.head_modulation = Linear(width, 2 * width) if head and config.adaln else None
        self.head_offset = nn.Parameter(torch.empty(2, width)) if head and not config.adaln else None
        self.has_head = head
        if head:
            self.head = Linear(width, config.codebook_size)
        self.register_buffer("mask", schedule.mask(coarser=config.sees_coarser), persistent=False)
        self.register_buffer("levels", schedule.levels(), persistent=False)

    def initialise(self, *, gamma: float = 1e-3, head: float = 0.02) -> None:
        """Draw initial weights by the published rule from torch's global generator.

        trunc-normal std sqrt(1 / (3 C)); branch outputs divided by sqrt(2 depth); AdaLN gamma rows x `gamma`, its other
        rows x 0.5; Linear biases 0; the head's weights x `head`. Without AdaLN, plain layer normalisation.
        """
        width = self.config.width
        draw_weights(self, width, self.start_position, self.positions)
        with torch.no_grad():
            for block in self.blocks:
                shrink = (2 * self.config.depth) ** 0.5
                block.attention.proj.weight.div_(shrink)
                block.feed_forward.get_submodule("2").get_parameter("weight").div_(shrink)
                if not self.config.adaln:
                    assert block.offset is not None
                    block.offset[:2] = 1
                    block.offset[2:] = 0
                    continue
                rows = block.offset if block.modulation is None else block.modulation.weight.unflatten(0, (ROWS, -1))
                assert rows is not None
                if block.offset is not None:
                    nn.init.normal_(block.offset, std=width**-0.5)
                rows[:2].mul_(gamma)
                rows[2:].mul_(0.5)
            if self.head_modulation is not None:
                self.head_modulation.weight.mul_(0.5)
            if self.head_offset is not None:
                self.head_offset.zero_()
            if self.has_head:
                self.head.weight.mul_(head)

    def condition(self, classes: Tensor | Conditions) -> Condition:
        """Start token and modulation rows of conditions, or of class ids (B,), the unconditional one included."""
        conditions = as_conditions(classes, self.config.unconditional)
        start_BC, context = vectors_and_context(conditions, self)
        shared = head_rows = None
        if self.shared_modulation is not None:
            shared = self.shared_modulation(F.silu(start_BC)).unflatten(1, (ROWS, -1))
        # Once an image in the type of what blocks add up, which on CUDA is not that of the products.
        rows = [block.rows(start_BC, shared).to(self.positions.dtype) for block in self.blocks]
        if self.head_offset is not None:
            head_rows = self.head_offset.expand(len(start_BC), -1, -1)
        elif self.head_modulation is not None:
            head_rows = self.head_modulation(F.silu(start_BC)).unflatten(1, (2, -1))
        head_rows = None if head_rows is None else head_rows.float()
        return Condition(start_BC, rows, head_rows, self.block_contexts(context))

    def embed(self, latents: Tensor | None, condition: Condition, span: slice) -> Tensor:
        """Input tokens of the positions in `span`: start tokens for the first part, else projected latents."""
        if latents is None:
            x_BLC = condition.start_BC.unsqueeze(1) + self.start_position
        else:
            x_BLC = self.word_embedding(latents.to(self.positions.dtype))
        return x_BLC + self.level_embedding(self.levels[span]) + self.positions[span]

    def groups(self) -> list[Group]:
        """Runs of parts that get an attention product of their own, each with the mask inside it.

        On CUDA one run is fastest: a launch costs more than the products that the mask makes needless.
        """
        whole = [slice(0, self.sequence.length)]
        spans = whole if self.device.type == "cuda" else self.sequence.groups(ATTENTION_GROUP)
        seen = [slice(0 if self.config.sees_coarser else span.start, span.stop) for span in spans]
        # A group that is one part sees all of its keys and needs no mask.
        return [
            (span, keys, None if span in self.sequence.slices else self.mask[span, keys])
            for span, keys in zip(spans, seen, strict=True)
        ]

    def hidden(self, latents: Tensor, condition: Condition, **marks: Tensor) -> Tensor:
        """`transform` of a whole sequence: latents of all parts but the first (B, L - l_1, latent_channels).

        `marks` is what a family's `embed` takes of these positions beside their latents.
        """
        first = self.sequence.slice(0)
        rest = slice(first.stop, self.sequence.length)
        parts = [self.embed(None, condition, first), self.embed(latents, condition, rest, **marks)]
        return self.transform(torch.cat(parts, dim=1), condition, groups=self.groups())

    def new_cache(self, batch: int, parts: int = 0) -> KeyValueCache | None:
        """An empty cache for `batch` sequences in the type of the products; None where parts see themselves alone.

        It has room for the first `parts`; 0 is all.
        """
        if not self.config.sees_coarser:
            return None
        return KeyValueCache(
            layers=self.config.depth,
            batch=batch,
            heads=self.config.heads,
            length=self.sequence.ends[parts - 1],
            device=self.device,
            dtype=self.dtype,
        )

    def step(self, part: int, latents: Tensor | None, condition: Condition, cache: KeyValueCache | None) -> Tensor:
        """What the head's Linear reads at one part, (B, l, C) float32; keys and values are added to `new_cache`'s.

        `classify` makes logits of it. `latents` (B, l, latent_channels) is what the part reads: in next-scale
        prediction what coarser scales accumulated; None at the first part.
        """
        assert cache is None or cache.parts == part, "parts must be stepped in order"
        return self.transform(self.embed(latents, condition, self.sequence.slice(part)), condition, cache=cache)


def draw_weights(model: nn.Module, width: int, *parameters: nn.Parameter) -> None:
    """Trunc-normal std sqrt(1 / (3 C)) for all Linear and Embedding layers, then `parameters`; biases 0."""
    std = (1 / (3 * width)) ** 0.5
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            trunc_normal_(module.weight, std=std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for parameter in parameters:
        trunc_normal_(parameter, std=std)
    for module in model.modules():
        if isinstance(module, (TextEncoder, CrossAttention)):
            module.initialise()


def no_decay(name: str, parameter: Tensor) -> bool:
    """Whether weight decay skips a parameter: vectors, biases, positions, levels, scales and offsets.

    The class embedding does decay (official recipe), and so do the rows of words.
    """
    skipped: tuple[Any, ...] = ("start_position", "positions", "level_embedding", "log_scale", "offset", "head_offset")
    return parameter.ndim < 2 or any(part in skipped for part in name.split("."))
