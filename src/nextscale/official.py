"""The authors' checkpoints (hub repository FoundationVision/var) to our configs and weights, and back.

Sizes and options are read from the tensors. One table per part translates our names to theirs; it serves both
directions. `official_files` finds the state dicts in files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from nextscale.checkpoint import save_torch
from nextscale.families.config import SCALES_512
from nextscale.families.var import VAR, VARConfig
from nextscale.nn import HEAD_WIDTH
from nextscale.official_files import State
from nextscale.pyramid import ScaleSchedule
from nextscale.tokenizer.vqvae import VQVAE, VQVAEConfig

TRANSFORMER_NAMES = (
    (r"^start_position$", "pos_start"),
    (r"^positions$", "pos_1LC"),
    (r"^level_embedding\.", "lvl_embed."),
    (r"^class_embedding\.", "class_emb."),
    (r"^word_embedding\.", "word_embed."),
    (r"^shared_modulation\.", "shared_ada_lin.1."),
    (r"^head_modulation\.", "head_nm.ada_lin.1."),
    (r"\.modulation\.", ".ada_lin.1."),
    (r"\.offset$", ".ada_gss"),
    (r"\.attention\.qkv\.", ".attn.mat_qkv."),
    (r"\.attention\.query_bias$", ".attn.q_bias"),
    (r"\.attention\.value_bias$", ".attn.v_bias"),
    (r"\.attention\.log_scale$", ".attn.scale_mul_1H11"),
    (r"\.attention\.proj\.", ".attn.proj."),
    (r"\.feed_forward\.0\.", ".ffn.fc1."),
    (r"\.feed_forward\.2\.", ".ffn.fc2."),
)
TRANSFORMER_BUFFERS = r"lvl_1L|attn_bias_for_masking|blocks\.\d+\.attn\.zero_k_bias"

TOKENIZER_NAMES = (
    (r"^quantizer\.codebook$", "quantize.embedding.weight"),
    (r"^quantizer\.phi\.", "quantize.quant_resi.qresi_ls."),
    (r"\.middle\.0\.", ".mid.block_1."),
    (r"\.middle\.1\.", ".mid.attn_1."),
    (r"\.middle\.2\.", ".mid.block_2."),
    (r"^encoder\.stages\.(\d+)\.resample\.", r"encoder.down.\1.downsample."),
    (r"^decoder\.stages\.(\d+)\.resample\.", r"decoder.up.\1.upsample."),
    (r"^encoder\.stages\.", "encoder.down."),
    (r"^decoder\.stages\.", "decoder.up."),
    (r"\.blocks\.(\d+)\.", r".block.\1."),
    (r"\.attention\.(\d+)\.", r".attn.\1."),
    (r"\.shortcut\.", ".nin_shortcut."),
    (r"\.proj\.", ".proj_out."),
)
TOKENIZER_BUFFERS = r"quantize\.ema_vocab_hit_SV"


def transformer_name(ours: str) -> str:
    """The authors' name of a tensor of our transformer."""
    for pattern, theirs in TRANSFORMER_NAMES:
        ours = re.sub(pattern, theirs, ours)
    return ours


def tokenizer_name(ours: str, levels: int) -> str:
    """The authors' name of a tensor of our tokenizer; their decoder counts its levels fine to coarse."""
    ours = re.sub(r"^decoder\.stages\.(\d+)\.", lambda m: f"decoder.stages.{levels - 1 - int(m[1])}.", ours)
    for pattern, theirs in TOKENIZER_NAMES:
        ours = re.sub(pattern, theirs, ours)
    return ours


def transformer_from_official(state: State, where: str = "var") -> tuple[VARConfig, State]:
    """Our config and weights. Raises ValueError naming tensors that are missing, unexpected or misshapen."""
    config = transformer_config(state, where)
    with torch.device("meta"):
        wanted = VAR(config).state_dict()
    return config, _pick(state, wanted, transformer_name, TRANSFORMER_BUFFERS, where)


def transformer_config(state: State, where: str = "var") -> VARConfig:
    """Depth, heads, schedule, classes and options of an official transformer."""
    _require(state, ("class_emb.weight", "word_embed.weight", "head.weight", "pos_1LC", "lvl_embed.weight"), where)
    width = state["class_emb.weight"].shape[1]
    if width % HEAD_WIDTH:
        raise ValueError(f"{where}: width {width} is not a multiple of {HEAD_WIDTH}")
    return VARConfig(
        depth=_count(state, r"blocks\.(\d+)\.", where),
        heads=width // HEAD_WIDTH,
        scales=transformer_scales(state, where).sizes,
        codebook_size=state["head.weight"].shape[0],
        latent_channels=state["word_embed.weight"].shape[1],
        classes=state["class_emb.weight"].shape[0] - 1,
        shared_adaln="shared_ada_lin.1.weight" in state,
        qk_normalisation="blocks.0.attn.scale_mul_1H11" in state,
    )


def transformer_scales(state: State, where: str = "var") -> ScaleSchedule:
    """Square scales from the level of each position (`lvl_1L`), or the published schedule of that length.

    Raises ValueError where neither is possible.
    """
    length, scales = state["pos_1LC"].shape[1], state["lvl_embed.weight"].shape[0]
    if "lvl_1L" in state:
        counts = torch.bincount(state["lvl_1L"].flatten().long()).tolist()
        sides = [math.isqrt(count) for count in counts]
        if [side**2 for side in sides] != counts or sum(counts) != length:
            raise ValueError(f"{where}: lvl_1L has {counts} positions per scale; only square scales are official")
        return ScaleSchedule(sides)
    for sizes in (VARConfig(depth=1).scales, SCALES_512):
        schedule = ScaleSchedule(sizes)
        if schedule.length == length and len(schedule) == scales:
            return schedule
    raise ValueError(f"{where}: {length} positions in {scales} scales fit no published schedule, and lvl_1L is missing")


def tokenizer_from_official(state: State, scales: ScaleSchedule, where: str = "vae") -> tuple[VQVAEConfig, State]:
    """Our config and weights for a schedule, which the file does not hold.

    Raises ValueError as `transformer_from_official`.
    """
    config = tokenizer_config(state, scales, where)
    with torch.device("meta"):
        wanted = VQVAE(config).state_dict()
    levels = len(config.multipliers)
    return config, _pick(state, wanted, lambda name: tokenizer_name(name, levels), TOKENIZER_BUFFERS, where)


def tokenizer_config(state: State, scales: ScaleSchedule, where: str = "vae") -> VQVAEConfig:
    """Widths and blocks of an official tokenizer."""
    _require(state, ("encoder.conv_in.weight", "quantize.embedding.weight"), where)
    channels = state["encoder.conv_in.weight"].shape[0]
    levels = _count(state, r"encoder\.down\.(\d+)\.", where)
    firsts = [f"encoder.down.{level}.block.0.conv1.weight" for level in range(levels)]
    _require(state, firsts, where)
    return VQVAEConfig(
        scales=scales.sizes,
        codebook_size=state["quantize.embedding.weight"].shape[0],
        latent_channels=state["quantize.embedding.weight"].shape[1],
        channels=channels,
        multipliers=tuple(state[name].shape[0] // channels for name in firsts),
        encoder_blocks=_count(state, r"encoder\.down\.0\.block\.(\d+)\.", where),
        decoder_blocks=_count(state, r"decoder\.up\.0\.block\.(\d+)\.", where),
        attention="encoder.mid.attn_1.qkv.weight" in state,
    )


def transformer_to_official(model: VAR) -> State:
    """The authors' state dict of a transformer. Raises ValueError for what their format cannot hold."""
    config, schedule = model.config, model.schedule
    if not config.sees_coarser:
        raise ValueError("attention scale: in the official format every scale sees the coarser ones")
    if config.text is not None:
        raise ValueError("condition text: the official format has no place for what reads prompts")
    if config.refinable:
        raise ValueError("masked_last: the official format has no place for what a refinable model has learned")
    if any(height != width for height, width in schedule):
        raise ValueError(f"scales {schedule}: the official format only has square scales")
    theirs = {transformer_name(name): _unsqueezed(name, tensor) for name, tensor in model.state_dict().items()}
    theirs["lvl_1L"] = schedule.levels()[None]
    bias = torch.zeros(1, 1, schedule.length, schedule.length)
    theirs["attn_bias_for_masking"] = bias.masked_fill(~schedule.mask(), -torch.inf)
    for block in range(config.depth):
        theirs[f"blocks.{block}.attn.zero_k_bias"] = torch.zeros(config.width)
    return theirs


def tokenizer_to_official(model: VQVAE) -> State:
    """The authors' state dict of a tokenizer. Raises ValueError for what their format cannot hold."""
    config = model.config
    if config.architecture != "cnn" or config.factorised or config.normalised_codes or min(config.phi_map) < 0:
        raise ValueError(
            "the official format only has CNNs with plain codes: no vit, no factorised or normalised codes"
        )
    if config.decoder_channels not in (0, config.channels):
        raise ValueError("the official format only has decoders as wide as their encoders")
    if config.patch != 1:
        raise ValueError(f"patch {config.patch}: the official tokenizer has no space-to-depth stem")
    levels = len(config.multipliers)
    theirs = {tokenizer_name(name, levels): tensor for name, tensor in model.state_dict().items()}
    theirs["quantize.ema_vocab_hit_SV"] = torch.zeros(len(config.scales), config.codebook_size)
    return theirs


def save_official(
    folder: Path, tokenizer: VQVAE, transformer: VAR | None = None, dtype: torch.dtype = torch.float32
) -> None:
    """Write vae_chXvYzZ.pth and var_dN.pth, named by the authors' rule.

    Raises ValueError for what their format cannot hold.
    """
    sizes = tokenizer.config
    vae = f"vae_ch{sizes.channels}v{sizes.codebook_size}z{sizes.latent_channels}"
    parts = {vae: tokenizer_to_official(tokenizer)}
    if transformer is not None:
        parts[f"var_d{transformer.config.depth}"] = transformer_to_official(transformer)
    for name, state in parts.items():
        stored = {key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()}
        save_torch({key: value.contiguous() for key, value in stored.items()}, folder / f"{name}.pth")


def _unsqueezed(name: str, tensor: Tensor) -> Tensor:
    """A tensor with the axes of size one that the authors' has and ours has not."""
    if name in ("start_position", "positions") or name.endswith("log_scale"):
        return tensor.unsqueeze(0)
    return tensor[None, None] if name.endswith("offset") else tensor


def _pick(state: State, wanted: State, rename: Callable[[str], str], buffers: str, where: str) -> State:
    """Our tensors from theirs. Raises ValueError naming the first that is missing, misshapen or unexpected."""
    names = {name: rename(name) for name in wanted}
    _require(state, names.values(), where)
    for ours, theirs in names.items():
        expected = tuple(_unsqueezed(ours, wanted[ours]).shape)
        if tuple(state[theirs].shape) != expected:
            raise ValueError(f"{where}: {theirs} is {tuple(state[theirs].shape)}, expected {expected}")
    known = set(names.values())
    extra = [name for name in state if name not in known and not re.fullmatch(buffers, name)]
    if extra:
        raise ValueError(f"{where}: unexpected tensor {extra[0]} {tuple(state[extra[0]].shape)}{_more(extra)}")
    return {ours: state[theirs].reshape(wanted[ours].shape) for ours, theirs in names.items()}


def _count(state: State, pattern: str, where: str) -> int:
    rule = re.compile(pattern)
    numbers = {int(m[1]) for name in state if (m := rule.match(name))}
    if not numbers:
        raise ValueError(f"{where}: holds nothing like {pattern}; expected the authors' checkpoint")
    return max(numbers) + 1


def _require(state: State, names: Iterable[str], where: str) -> None:
    missing = [name for name in names if name not in state]
    if missing:
        raise ValueError(f"{where}: missing tensor {missing[0]}{_more(missing)}; expected the authors' checkpoint")


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
