"""The authors' checkpoints: both ways, sizes from tensors, misfits named."""

import shutil
from pathlib import Path

import pytest
import torch

from nextscale import ScaleSchedule, VARPipeline
from nextscale.checkpoint import ModelConfig, module_from_state
from nextscale.families.var import VAR
from nextscale.official import (
    tokenizer_from_official,
    tokenizer_to_official,
    transformer_from_official,
    transformer_to_official,
)
from nextscale.tokenizer.vqvae import VQVAE
from toys import make_tokenizer, make_transformer

VARIANTS = [
    {},
    {"shared_adaln": True},
    {"qk_normalisation": False},
    {"scales": ((2, 2), (3, 3), (4, 4)), "classes": 7},
]


@pytest.mark.parametrize("changes", VARIANTS)
def test_transformers_go_both_ways(changes: dict) -> None:
    model = make_transformer(drop_path=0.1 * 2 / 24, **changes)
    theirs = transformer_to_official(model)
    config, ours = transformer_from_official(theirs)
    assert config == model.config
    assert all(torch.equal(ours[name], tensor) for name, tensor in model.state_dict().items())
    back = transformer_to_official(module_from_state(VAR, config, ours))
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[name], theirs[name]) for name in theirs)


def test_their_names_shapes_and_buffers() -> None:
    theirs = transformer_to_official(make_transformer())
    assert theirs["pos_1LC"].shape == (1, 30, 128)
    assert theirs["blocks.1.attn.mat_qkv.weight"].shape == (384, 128)
    assert theirs["blocks.0.attn.scale_mul_1H11"].shape == (1, 2, 1, 1)
    assert theirs["blocks.0.ada_lin.1.weight"].shape == (768, 128)
    assert theirs["head_nm.ada_lin.1.bias"].shape == (256,)
    assert theirs["lvl_1L"][0].tolist() == [0] + [1] * 4 + [2] * 9 + [3] * 16
    bias = theirs["attn_bias_for_masking"][0, 0]
    assert bias[0, 1] == -torch.inf
    assert bias[1, 4] == bias[4, 1] == 0
    assert theirs["blocks.0.attn.zero_k_bias"].eq(0).all()
    assert transformer_to_official(make_transformer(shared_adaln=True))["blocks.0.ada_gss"].shape == (1, 1, 6, 128)


@pytest.mark.parametrize("changes", [{}, {"attention": True, "multipliers": (1, 1, 2)}, {"decoder_blocks": 3}])
def test_tokenizers_go_both_ways(changes: dict) -> None:
    model = make_tokenizer(patch=1, **changes)
    theirs = tokenizer_to_official(model)
    config, ours = tokenizer_from_official(theirs, model.schedule)
    assert config == model.config
    assert all(torch.equal(ours[name], tensor) for name, tensor in model.state_dict().items())
    last = len(model.config.multipliers) - 1
    # Their decoder counts levels from the finest: its coarsest, where ours begins, is the last.
    assert torch.equal(
        theirs[f"decoder.up.{last}.block.0.conv1.weight"], ours["decoder.stages.0.blocks.0.conv1.weight"]
    )
    assert torch.equal(theirs["encoder.down.0.downsample.conv.bias"], ours["encoder.stages.0.resample.conv.bias"])


def save(tmp_path: Path, **changes: object) -> tuple[Path, Path, VQVAE, VAR]:
    tokenizer, transformer = make_tokenizer(patch=1), make_transformer(**changes)
    torch.save(tokenizer_to_official(tokenizer), tmp_path / "vae.pth")
    torch.save(transformer_to_official(transformer), tmp_path / "var.pth")
    return tmp_path / "vae.pth", tmp_path / "var.pth", tokenizer, transformer


def test_from_official_gives_the_same_images(tmp_path: Path) -> None:
    vae, var, tokenizer, transformer = save(tmp_path)
    pipeline = VARPipeline.from_official(vae=vae, var=var)
    expected = VARPipeline(tokenizer, transformer, ModelConfig()).generate([0, 1, None], seeds=[0, 1, 2])
    result = pipeline.generate([0, 1, None], seeds=[0, 1, 2])
    assert torch.equal(result.tokens.packed, expected.tokens.packed)
    assert [i.tobytes() for i in result.images] == [i.tobytes() for i in expected.images]


def test_the_schedule_comes_from_levels_or_a_published_length() -> None:
    theirs = transformer_to_official(make_transformer())
    del theirs["lvl_1L"]
    with pytest.raises(ValueError, match="30 positions in 4 scales fit no published schedule"):
        transformer_from_official(theirs)
    theirs["pos_1LC"], theirs["lvl_embed.weight"] = torch.zeros(1, 680, 128), torch.zeros(10, 128)
    config, _ = transformer_from_official(theirs)
    assert ScaleSchedule(config.scales).final == (16, 16)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: s.pop("blocks.1.ffn.fc2.bias"), "missing tensor blocks.1.ffn.fc2.bias"),
        (lambda s: s.update(surprise=torch.zeros(3)), r"unexpected tensor surprise \(3,\)"),
        (lambda s: s.update({"head.bias": torch.zeros(5)}), r"head.bias is \(5,\), expected \(32,\)"),
        (lambda s: s.pop("class_emb.weight"), "missing tensor class_emb.weight"),
        (lambda s: s.update(lvl_1L=torch.zeros(1, 30)), "only square scales"),
    ],
)
def test_misfits_are_named(damage, message: str) -> None:
    theirs = transformer_to_official(make_transformer())
    damage(theirs)
    with pytest.raises(ValueError, match=message):
        transformer_from_official(theirs)


def test_wrong_pairs_are_told(tmp_path: Path) -> None:
    vae, var, _, _ = save(tmp_path)
    with pytest.raises(ValueError, match=r"vae .*var\.pth and var .*vae\.pth are the wrong way round"):
        VARPipeline.from_official(vae=var, var=vae)
    with pytest.raises(ValueError, match=r"are both tokenizers; expected vae, such as .*, and var, such as"):
        VARPipeline.from_official(vae=vae, var=shutil.copy(vae, tmp_path / "other.pth"))


def test_what_their_format_cannot_hold() -> None:
    with pytest.raises(ValueError, match="only has square scales"):
        transformer_to_official(make_transformer(scales=((1, 2), (2, 4))))
    with pytest.raises(ValueError, match="attention scale: in the official format every scale sees the coarser ones"):
        transformer_to_official(make_transformer(attention="scale"))
    with pytest.raises(ValueError, match="masked_last: the official format has no place"):
        transformer_to_official(make_transformer(refinable=True))
    vit = {"architecture": "vit", "width": 16, "depth": 1}
    for changes in (vit, {"feature_channels": 9}, {"normalised_codes": True}, {"phi_map": (-1,) * 4}):
        with pytest.raises(ValueError, match="only has CNNs with plain codes"):
            tokenizer_to_official(make_tokenizer(**changes))
    with pytest.raises(ValueError, match="no space-to-depth stem"):
        tokenizer_to_official(make_tokenizer(patch=2))
