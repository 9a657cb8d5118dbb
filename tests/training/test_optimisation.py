"""Schedules, groups, averages and losses against their formulas."""

import math

import pytest
import torch

from nextscale import ScaleSchedule
from nextscale.families import family_of
from nextscale.families.base import token_figures
from nextscale.nn.perceptual import PerceptualDistance
from nextscale.nn.transformer import no_decay
from nextscale.training.config import OptimiserConfig
from nextscale.training.heldout import mean_figures
from nextscale.training.optimisation import Average, Updater, build_optimiser, learning_rate, set_schedule, weight_decay
from nextscale.training.parts import drop_classes
from toys import make_tokenizer, make_transformer, transformer_config


def test_learning_rate_warms_up_holds_and_decays() -> None:
    config = OptimiserConfig(learning_rate=1e-3, warmup=0.1, flat=0.25, final=0.1)
    rates = [learning_rate(step, 101, config, batch_size=128) for step in range(101)]
    peak = 1e-3 * 128 / 256
    assert rates[0] == pytest.approx(0.005 * peak)
    assert max(rates) == pytest.approx(peak)
    assert rates[-1] == pytest.approx(0.1 * peak)
    assert rates[12:30] == pytest.approx([peak] * 18)
    assert rates == sorted(rates[:20]) + sorted(rates[20:], reverse=True)


def test_weight_decay_stays_or_follows_half_a_cosine() -> None:
    assert {weight_decay(step, 11, OptimiserConfig(weight_decay=0.05)) for step in range(11)} == {0.05}
    config = OptimiserConfig(weight_decay=0.05, weight_decay_end=0.08)
    decays = [weight_decay(step, 11, config) for step in range(11)]
    assert decays[0] == pytest.approx(0.05)
    assert decays[5] == pytest.approx(0.065)
    assert decays[10] == pytest.approx(0.08)
    assert decays == sorted(decays)
    optimiser = build_optimiser(make_transformer(), config, no_decay)
    set_schedule(optimiser, 10, 11, config, 256)
    assert [group["weight_decay"] for group in optimiser.param_groups] == pytest.approx([0.08, 0.0])
    assert {group["lr"] for group in optimiser.param_groups} == {learning_rate(10, 11, config, 256)}


def test_weight_decay_groups() -> None:
    model = make_transformer()
    optimiser = build_optimiser(model, OptimiserConfig(weight_decay=0.05), no_decay)
    decayed, plain = optimiser.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)
    assert len(decayed["params"]) + len(plain["params"]) == len(list(model.parameters()))
    assert all(parameter.ndim >= 2 for parameter in decayed["params"])


def test_average_follows_its_formula() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    average = Average(model, 0.9)
    expected = None
    for step in range(40):
        with torch.no_grad():
            model.weight.fill_(step)
        average.update(model)
        if expected is None:
            expected = float(step)  # the first update copies
        else:
            decay = min(0.9, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * step
        assert average.module.weight.item() == pytest.approx(expected, rel=1e-5)


def test_average_takes_stored_buffers_over() -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2))
    average = Average(model, 0.9)
    model(torch.randn(8, 2) + 5)
    average.update(model)
    assert torch.equal(average.module[0].running_mean, model[0].running_mean)
    assert average.state_dict()["n_averaged"] == 1


def test_scales_of_gradients_stay_below_their_bound() -> None:
    scaler = torch.amp.grad_scaler.GradScaler("cpu", init_scale=2.0**14, growth_interval=1)
    updater = Updater(torch.nn.Linear(2, 1), OptimiserConfig(), no_decay, scaler=scaler)
    scales = []
    for factor in (1.0, 1.0, 1.0, float("inf")):
        updater.backward(updater.model(torch.ones(1, 2)).sum() * factor)
        updater.step()
        scales.append(scaler.get_scale())
    assert scales == [2.0**15, 2.0**15, 2.0**15, 2.0**14]


def test_next_scale_loss_is_the_mean_negative_log_likelihood() -> None:
    tokenizer, model = make_tokenizer(), make_transformer()
    tokens = tokenizer.encode(torch.rand(3, 3, 16, 16) * 2 - 1)
    classes = torch.tensor([0, 1, 3])
    config = transformer_config()
    with torch.no_grad():
        loss, figures = family_of(config).loss(model, tokens, classes, tokenizer=tokenizer, config=config)
        logits = model(tokenizer.quantizer.teacher_forcing(tokens), classes).double()
    total = 0.0
    for image in range(3):
        for position in range(30):
            row = logits[image, position]
            total -= (row[tokens.packed[image, position]] - row.logsumexp(0)).item()
    assert loss.item() == pytest.approx(total / 90, rel=1e-5)
    hits = (logits.argmax(-1) == tokens.packed).float()
    assert figures["accuracy"].item() == pytest.approx(hits.mean().item())
    assert figures["accuracy_last"].item() == pytest.approx(hits[:, 14:].mean().item())
    assert figures["loss_per_scale"].shape == (4,)


def test_label_smoothing_changes_the_loss_but_not_the_figures() -> None:
    tokenizer, model = make_tokenizer(), make_transformer()
    tokens = tokenizer.encode(torch.rand(2, 3, 16, 16) * 2 - 1)
    with torch.no_grad():
        config, classes = transformer_config(), torch.tensor([0, 1])
        (a, first), (b, second) = (
            family_of(config).loss(
                model, tokens, classes, tokenizer=tokenizer, config=config, label_smoothing=smoothing
            )
            for smoothing in (0.0, 0.2)
        )
    assert a != b
    assert torch.equal(first["loss"], second["loss"])


def test_figures_of_known_tokens() -> None:
    schedule = ScaleSchedule([1, 2])
    losses = torch.tensor([[5.0, 1, 1, 1, 2]])
    figures = token_figures(losses, (losses == 1).float(), schedule)
    assert figures["loss"].item() == 2
    assert figures["loss_per_scale"].tolist() == [5, 1.25]
    assert figures["accuracy_last"].item() == 0.75
    both = mean_figures([figures, {name: value * 3 for name, value in figures.items()}], [3, 1])
    assert both["loss"].item() == pytest.approx(2 * 1.5)


def test_class_dropout_by_chance() -> None:
    classes, chance = torch.tensor([0, 1, 2, -1]), torch.tensor([0.05, 0.1, 0.99, 0.9], dtype=torch.float64)
    assert drop_classes(classes, chance, rate=0.1, unconditional=9).tolist() == [9, 1, 2, 9]


def test_perceptual_distance_falls_with_likeness(mobilenet: str) -> None:
    torch.manual_seed(0)
    distance = PerceptualDistance("mobilenet_v2", weights=mobilenet).train()
    assert not distance.extractor.training
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    noise = torch.randn_like(images)
    assert distance(images, images).item() == pytest.approx(0, abs=1e-6)
    assert distance(images + 0.1 * noise, images) < distance(images + 0.5 * noise, images)
    wanted = images.clone().requires_grad_()
    distance(wanted + 0.1, images).backward()
    assert wanted.grad is not None
    assert math.isfinite(wanted.grad.abs().sum().item())
    with pytest.raises(ValueError, match="name the layers of resnet34"):
        PerceptualDistance("resnet34")
