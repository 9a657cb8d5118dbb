"""The roofline: its work is the cost's, what is read is counted by hand, and the larger bound holds."""

import pytest

from nextscale.evaluation.cost import pass_flops
from nextscale.evaluation.roofline import Pass, passes, roofline
from nextscale.families.table import family
from nextscale.tokenizer.vqvae import VQVAEConfig

SCALES = {"var": ((1, 1), (2, 2), (4, 4)), "rq": ((4, 4),) * 3}


@pytest.mark.parametrize("kind", ["var", "raster", "rq", "maskgit", "dit"])
def test_work_is_that_of_the_cost(kind: str) -> None:
    scales = SCALES.get(kind, ((4, 4),))
    config = family(kind).config(depth=6, scales=scales, codebook_size=64)
    found = sum(one.flops for one in passes(config, item=2))
    whole = pass_flops(config, sequences=2, steps=0)
    assert found == pytest.approx(whole.total, rel=0.25), "all but AdaLN's rows and what embeds"
    assert found <= whole.total


def test_raster_order_reads_all_weights_for_every_token() -> None:
    config = family("raster").config(depth=2, heads=3, scales=((2, 2),), codebook_size=10)
    width, blocks, kept = 192, 12 * 192**2 * 2, 2 * 192 * 2 * 2
    wanted = [2 * (blocks + token * kept) + 4 * width * 10 for token in (1, 2, 3, 4)]
    assert [one.read for one in passes(config, item=2)] == wanted


def test_the_larger_bound_holds() -> None:
    assert Pass(flops=10, read=3).seconds(flop_rate=5, byte_rate=1) == 3
    assert Pass(flops=10, read=3).seconds(flop_rate=1, byte_rate=1) == 10
    config = family("raster").config(depth=1, scales=((2, 2),), codebook_size=10)
    tokenizer = VQVAEConfig(scales=((2, 2),), channels=16, multipliers=(1, 1), encoder_blocks=1, decoder_blocks=1)
    slow_memory = roofline(config, tokenizer, item=4, flop_rate=1e30, byte_rate=1e3)
    assert slow_memory.bound_by_memory == 1 and slow_memory.seconds == pytest.approx(slow_memory.read / 1e3)
    slow_products = roofline(config, tokenizer, item=4, flop_rate=1e3, byte_rate=1e30)
    assert slow_products.bound_by_memory == 0 and slow_products.seconds > slow_products.decoding
