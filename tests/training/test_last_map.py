"""Part of the last map known in training: inputs, loss and figures against loops written plainly."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nextscale.checkpoint import load_config, load_transformer
from nextscale.families.var import FAMILY, VAR
from nextscale.pyramid import ScaleSchedule, TokenPyramid
from nextscale.sampling.next_scale import sample_scales
from nextscale.sampling.step import SamplingConfig
from nextscale.training.last_map import LastMapMasking
from nextscale.training.stage2 import train_transformer
from toys import make_tokenizer, make_transformer, transformer_config
from training.small_runs import FAST, Make, lines, stage2_config

LABELS = torch.tensor([0, 2, 3])


def some_tokens(batch: int = 3) -> TokenPyramid:
    config = transformer_config()
    packed = torch.randint(32, (batch, config.schedule.length), generator=torch.Generator().manual_seed(0))
    return TokenPyramid(packed, config.schedule)


def some_known(batch: int = 3) -> Tensor:
    known = torch.rand(batch, 16, generator=torch.Generator().manual_seed(1)) < 0.4
    known[0] = False
    return known


def test_known_tokens_are_added_to_what_the_last_scale_reads() -> None:
    quantizer, tokens, known = make_tokenizer().quantizer, some_tokens(), some_known()
    with torch.no_grad():
        codes = quantizer.codes()
        expected = quantizer.teacher_forcing(tokens)
        for image in range(3):
            for place in range(16):
                if known[image, place]:
                    expected[image, 4 + 9 + place] += codes[tokens[3][image].flatten()[place]]
        assert torch.equal(VAR.inputs(quantizer, tokens, known), expected)
        nothing = VAR.inputs(quantizer, tokens, torch.zeros_like(known))
        assert torch.equal(nothing, VAR.inputs(quantizer, tokens))


def test_known_positions_get_the_vector_and_no_coarser_scale_sees_them() -> None:
    model, tokens, known = make_transformer(refinable=True), some_tokens(), some_known()
    quantizer = make_tokenizer().quantizer
    embedded: list[Tensor] = []
    original = model.transform
    model.transform = lambda x_BLC, *args, **options: (embedded.append(x_BLC), original(x_BLC, *args, **options))[1]
    with torch.no_grad():
        latents = VAR.inputs(quantizer, tokens, known)
        plain = model(VAR.inputs(quantizer, tokens), LABELS)
        unmarked, marked = model(latents, LABELS), model(latents, LABELS, known)
    assert model.known is not None
    expected = embedded[1].clone()
    expected[:, -16:][known] += model.known.detach()
    assert torch.equal(embedded[2], expected)
    assert torch.equal(marked[:, :14], plain[:, :14])
    assert torch.equal(marked[0], plain[0]), "an image of which nothing is known is an ordinary one"
    assert not torch.allclose(marked[1:, 14:], plain[1:, 14:])
    assert not torch.allclose(marked[1:, 14:], unmarked[1:, 14:])


@torch.no_grad()
def written_plainly(weights: tuple[float, ...], smoothing: float) -> tuple[float, dict[str, list[float]]]:
    """The loss, and losses and hits of the predicted tokens of each scale, image by image and token by token."""
    model, quantizer = make_transformer(refinable=True), make_tokenizer().quantizer
    tokens, known = some_tokens(), some_known()
    minimised, weighed = 0.0, 0.0
    each: dict[str, list[float]] = {f"{name}{scale}": [] for name in ("loss", "hit") for scale in range(4)}
    for image in range(3):
        one = slice(image, image + 1)
        latents = VAR.inputs(quantizer, tokens.select(one), known[one])
        logits = model(latents, LABELS[one], known[one])[0]
        for place, (row, target) in enumerate(zip(logits, tokens.packed[image], strict=True)):
            if place >= 14 and known[image, place - 14]:
                continue
            scale = int(tokens.schedule.levels()[place])
            weight = (weights or (1.0,) * 4)[scale]
            minimised += weight * float(F.cross_entropy(row, target, label_smoothing=smoothing))
            weighed += weight
            each[f"loss{scale}"].append(float(F.cross_entropy(row, target)))
            each[f"hit{scale}"].append(float(row.argmax() == target))
    return minimised / weighed, each


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [(), (4.0, 1.0, 0.5, 2.0)])
def test_known_tokens_count_neither_in_the_loss_nor_in_the_figures(
    weights: tuple[float, ...], smoothing: float
) -> None:
    model, tokenizer = make_transformer(refinable=True), make_tokenizer()
    expected, each = written_plainly(weights, smoothing)
    with torch.no_grad():
        loss, figures = FAMILY.loss(
            model, some_tokens(), LABELS, tokenizer=tokenizer, config=model.config, label_smoothing=smoothing,
            scale_weights=weights, masking=lambda tokens: some_known(),
        )  # fmt: skip
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    for name, found in (("loss", "loss"), ("accuracy", "hit")):
        values = [each[f"{found}{scale}"] for scale in range(4)]
        means = [sum(one) / len(one) for one in values]
        assert figures[f"{name}_per_scale"].tolist() == pytest.approx(means, rel=1e-4)
        assert float(figures[f"{name}_last"]) == pytest.approx(means[-1], rel=1e-4)
        count = sum(map(len, values))
        assert count == 3 * 30 - int(some_known().sum()) < 90
        assert float(figures[name]) == pytest.approx(sum(map(sum, values)) / count, rel=1e-4)


def test_known_tokens_give_no_gradient_of_their_own() -> None:
    model, tokenizer, changed = make_transformer(refinable=True), make_tokenizer(), some_tokens()
    known = some_known()
    known[:, 5] = True

    def gradient() -> list[Tensor]:
        model.zero_grad()
        FAMILY.loss(
            model, some_tokens(), LABELS, tokenizer=tokenizer, config=model.config,
            masking=lambda tokens: known, correction=lambda tokens: (tokens, changed),
        )[0].backward()  # fmt: skip
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    before = gradient()
    changed.packed[:, 14 + 5] = (changed.packed[:, 14 + 5] + 1) % 32
    assert all(torch.equal(one, other) for one, other in zip(before, gradient(), strict=True))
    changed.packed[0, 14] = (changed.packed[0, 14] + 1) % 32
    assert not all(torch.equal(one, other) for one, other in zip(before, gradient(), strict=True))
    assert model.known is not None and model.known.grad is not None and model.known.grad.abs().sum() > 0


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_a_share_of_the_images_knows_a_varying_part(share: float) -> None:
    torch.manual_seed(0)
    known = LastMapMasking(share)(some_tokens(4000)).float()
    counts = known.sum(dim=1)
    assert counts.max() <= 15, "one is left to predict"
    # A count of ceil(16 cos) unknown: all of them where cos(u pi / 2) > 15 / 16, for u < 0.2264.
    assert float((counts > 0).float().mean()) == pytest.approx(share * (1 - 0.2264), abs=0.03)
    if share:
        assert set(counts.int().tolist()) == set(range(16))
        some = known[counts > 0].mean(dim=0)
        assert float(some.max() - some.min()) < 0.12, "places are drawn at random"


def test_the_model_says_that_it_was_trained_so_and_heldout_losses_stay(
    tmp_path: Path, image_folder: Make, tokenizer_folder: Path
) -> None:
    data = image_folder()
    still = replace(FAST, learning_rate=1e-12)
    settings: dict = {"steps": 2, "optimiser": still, "model": transformer_config(drop_path=0.0), "class_dropout": 0.0}
    found = []
    for name, share in (("plain", 0.0), ("masked", 1.0)):
        ways = {"masked_last": share, "refine_steps": 2 if share else 1}
        train_transformer(stage2_config(data, tokenizer_folder, tmp_path / name, **settings, **ways))
        found.append(lines(tmp_path / name))
        assert load_transformer(tmp_path / name).config.refinable == (share > 0)
        assert load_config(tmp_path / name / "model").refine_steps == ways["refine_steps"]
    assert found[1][0]["loss"] != pytest.approx(found[0][0]["loss"], rel=1e-6)
    (plain,), (masked,) = ([line for line in run if "heldout_loss" in line] for run in found)
    assert masked["heldout_loss"] == pytest.approx(plain["heldout_loss"], rel=1e-6)


def test_any_model_may_become_refinable_and_stays_so(
    tmp_path: Path, image_folder: Make, tokenizer_folder: Path
) -> None:
    data = image_folder()
    settings: dict = {"steps": 2, "model": transformer_config(drop_path=0.0)}
    still = {"optimiser": replace(FAST, learning_rate=1e-12, ema=0.0)}
    models = []
    for name, start, changes in (
        ("plain", "", {}),
        ("taught", "plain", {"masked_last": 0.5, **still}),
        ("kept", "taught", still),
    ):
        origin = {"init_from": str(tmp_path / start)} if start else {}
        train_transformer(stage2_config(data, tokenizer_folder, tmp_path / name, **settings | origin | changes))
        models.append(load_transformer(tmp_path / name))
    plain, taught, kept = models
    assert [one.config.refinable for one in models] == [False, True, True]
    assert taught.known is not None and float(taught.known.detach().abs().max()) < 1e-6
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(taught.state_dict()[name], tensor, atol=1e-6, rtol=0)
        torch.testing.assert_close(kept.state_dict()[name], tensor, atol=1e-6, rtol=0)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_shares_out_of_range_are_refused(share: float) -> None:
    with pytest.raises(ValueError, match="masked_last must be between 0 and 1"):
        stage2_config(Path("data"), Path("tokenizer"), Path("out"), masked_last=share)


def test_a_default_of_several_passes_needs_a_model_that_is_trained_for_it() -> None:
    given = Path("data"), Path("tokenizer"), Path("out")
    assert stage2_config(*given, masked_last=0.5, refine_steps=3).refine_steps == 3
    with pytest.raises(ValueError, match="refine_steps 3 need a model that is trained with masked_last"):
        stage2_config(*given, refine_steps=3)
    with pytest.raises(ValueError, match="refine_steps must be at least 1"):
        stage2_config(*given, masked_last=0.5, refine_steps=0)


def test_a_single_scale_has_nothing_to_start_from() -> None:
    with pytest.raises(ValueError, match="needs a coarser one before it"):
        transformer_config(scales=((4, 4),), refinable=True)


def test_a_map_of_one_token_agrees_when_it_is_drawn_in_passes() -> None:
    """Last maps hold one of four tokens everywhere: drawn at once, positions cannot know which one."""
    scales = ((1, 1), (4, 4))
    tokenizer, schedule = make_tokenizer(scales=scales), ScaleSchedule(scales)
    torch.manual_seed(0)
    torch.nn.init.normal_(tokenizer.quantizer.codebook)
    model = VAR(transformer_config(scales=scales, depth=1, heads=1, classes=1, drop_path=0.0, refinable=True))
    model.initialise()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(100):
        packed = torch.cat([torch.zeros(32, 1).long(), torch.randint(4, (32, 1)).expand(-1, 16)], dim=1)
        loss, _ = FAMILY.loss(
            model, TokenPyramid(packed, schedule), torch.zeros(32).long(), tokenizer=tokenizer, config=model.config,
            masking=LastMapMasking(1.0),
        )  # fmt: skip
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()

    def agreement(count: int) -> float:
        """Share of the pairs of positions with the same token."""
        config = SamplingConfig(guidance=0.0, top_k=4, top_p=0.0, refine_steps=count)
        steps = sample_scales(model, tokenizer.quantizer, torch.zeros(64).long(), seeds=range(64), config=config)
        last = list(steps)[-1].tokens.flatten(1)
        assert set(last[:, 0].tolist()) == set(range(4))
        same = (last[:, :, None] == last[:, None, :]).float()
        return float((same.sum() - 64 * 16) / (64 * 16 * 15))

    at_once = agreement(1)
    assert at_once < 0.45, "0.25 by chance"
    assert agreement(4) > at_once + 0.2
