"""FLOPs of each kind of model against torch's counter over a real generation, and the least time they take."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nextscale.bench.cost import (
    Pass,
    decoder_flops,
    generation_flops,
    model_flops,
    passes,
    roofline,
    sampling_steps,
    stack_passes,
    training_flops,
)
from nextscale.families import family
from nextscale.sampling.next_scale import SamplingConfig
from nextscale.tokenizer.vqvae import VQVAEConfig
from toys import FAMILY_SCALES, make_tokenizer


@pytest.mark.parametrize(
    ("kind", "changes"),
    [(kind, {}) for kind in FAMILY_SCALES]
    + [("var", {"attention": "scale"}), ("var", {"refinable": True})]
    + [("var", {"refinable": True, "attention": "scale"})],
)
@pytest.mark.parametrize("guidance", [0.0, 1.5])
def test_flops_are_those_that_torch_counts(kind: str, changes: dict, guidance: float) -> None:
    torch.manual_seed(0)
    one, scales = family(kind), FAMILY_SCALES[kind]
    tokenizer = make_tokenizer(scales=scales)
    settings: dict = {"depth": 2, "scales": scales, "codebook_size": 32, "latent_channels": 8, "classes": 3}
    model = one.network(one.config(**settings, **changes))
    model.initialise(gamma=1.0)
    model.eval().to(torch.bfloat16)  # in which attention is products that torch counts
    passes = 3 if changes.get("refinable") else 1
    config = SamplingConfig(guidance=guidance, top_k=0, top_p=0.0, steps=4, refine_steps=passes)
    with FlopCounterMode(display=False) as counter:
        for _ in one.sample(model, tokenizer, torch.tensor([1]), seeds=[0], config=config):
            pass
    counts = counter.get_flop_counts()["Global"]
    counted = sum(flops for operator, flops in counts.items() if "convolution" not in str(operator))  # phi aside
    nearest = 2 * 16 * 9 * 32 * 4 if kind == "dit" else 0  # its latents are quantised to be shown
    ours = generation_flops(model.config, tokenizer.config, guided=guidance > 0, steps=one.steps_of(config))
    assert ours.total - ours.decoder == pytest.approx(counted - nearest, rel=1e-6)
    assert ours.decoder == decoder_flops(tokenizer.config) > 0
    assert training_flops(model.config) > 0


def test_steps() -> None:
    steps = {kind: sampling_steps(family(kind).config(scales=FAMILY_SCALES[kind])) for kind in FAMILY_SCALES}
    assert steps == {"var": 4, "raster": 16, "rq": 16 * 4, "maskgit": 8, "dit": 250}
    assert sampling_steps(family("dit").config(scales=((4, 4),)), 10) == 10
    var = family("var").config(scales=FAMILY_SCALES["var"], refinable=True)
    assert [sampling_steps(var, passes) for passes in (0, 1, 3, 99)] == [4, 4, 6, 19]
    assert family("var").yields(var) == 4, "the last map is shown once"


@pytest.mark.parametrize("kind", FAMILY_SCALES)
def test_work_is_that_of_the_cost(kind: str) -> None:
    config = family(kind).config(depth=6, scales=FAMILY_SCALES[kind], codebook_size=64)
    found = sum(one.flops for one in passes(config, item=2))
    whole = model_flops(config, sequences=2)
    assert found == pytest.approx(whole.total, rel=0.25), "all but AdaLN's rows and what embeds"
    assert found <= whole.total


def test_raster_order_reads_all_weights_for_every_token() -> None:
    config = family("raster").config(depth=2, heads=3, scales=((2, 2),), codebook_size=10)
    width, blocks, kept = 192, 12 * 192**2 * 2, 2 * 192 * 2 * 2
    wanted = [2 * (blocks + token * kept) + 4 * width * 10 for token in (1, 2, 3, 4)]
    assert [one.read for one in passes(config, item=2)] == wanted


def test_scales_that_see_themselves_alone_read_no_more_keys() -> None:
    config = family("var").config(depth=2, heads=3, scales=((1, 1), (2, 2)), codebook_size=10, attention="scale")
    width, blocks = 192, 12 * 192**2 * 2
    wanted = [2 * (blocks + tokens * 2 * width * 2 * 2) + 4 * width * 10 for tokens in (1, 4)]
    assert [one.read for one in passes(config, item=2)] == wanted


def test_further_passes_read_the_keys_of_coarser_scales() -> None:
    config = family("var").config(depth=2, heads=3, scales=((1, 1), (2, 2)), codebook_size=10, refinable=True)
    width, blocks = 192, 12 * 192**2 * 2
    _, again = family("var").stacks(config, steps=3)
    (last,) = stack_passes(again, sequences=2, item=2)
    assert last.read == 2 * (blocks + 5 * 2 * width * 2 * 2) + 4 * width * 10 == passes(config, item=2)[-1].read
    assert again.times == 2


def test_the_larger_bound_holds() -> None:
    assert Pass(flops=10, read=3).seconds(flop_rate=5, byte_rate=1) == 3
    assert Pass(flops=10, read=3).seconds(flop_rate=1, byte_rate=1) == 10
    config = family("raster").config(depth=1, scales=((2, 2),), codebook_size=10)
    tokenizer = VQVAEConfig(scales=((2, 2),), channels=16, multipliers=(1, 1), encoder_blocks=1, decoder_blocks=1)
    slow_memory = roofline(config, tokenizer, item=4, flop_rate=1e30, byte_rate=1e3)
    assert slow_memory.bound_by_memory == 1 and slow_memory.seconds == pytest.approx(slow_memory.read / 1e3)
    slow_products = roofline(config, tokenizer, item=4, flop_rate=1e3, byte_rate=1e30)
    assert slow_products.bound_by_memory == 0 and slow_products.seconds > slow_products.decoding
