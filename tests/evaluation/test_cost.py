"""FLOPs of each kind of model against torch's counter over a real generation."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nextscale.evaluation.cost import decoder_flops, generation_flops, sampling_steps, training_flops
from nextscale.families.table import family, kinds
from nextscale.runtime import image_generator
from nextscale.sampling.next_scale import SamplingConfig
from toys import make_tokenizer

SCALES = {
    "var": ((1, 1), (2, 2), (4, 4)), "raster": ((4, 4),), "rq": ((4, 4),) * 3, "maskgit": ((4, 4),), "dit": ((4, 4),),
}  # fmt: skip


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize("guidance", [0.0, 1.5])
def test_flops_are_those_that_torch_counts(kind: str, guidance: float) -> None:
    torch.manual_seed(0)
    one, tokenizer = family(kind), make_tokenizer(scales=SCALES[kind])
    settings: dict = {"depth": 2, "scales": SCALES[kind], "codebook_size": 32, "latent_channels": 8, "classes": 3}
    model = one.network(one.config(**settings))
    model.initialise(gamma=1.0)
    model.eval().to(torch.bfloat16)  # in which attention is products that torch counts
    config = SamplingConfig(guidance=guidance, top_k=0, top_p=0.0, steps=4)
    with FlopCounterMode(display=False) as counter:
        for _ in one.sample(model, tokenizer, torch.tensor([1]), generators=[image_generator(0)], config=config):
            pass
    counts = counter.get_flop_counts()["Global"]
    counted = sum(flops for operator, flops in counts.items() if "convolution" not in str(operator))  # phi aside
    nearest = 2 * 16 * 9 * 32 * 4 if kind == "dit" else 0  # its latents are quantised to be shown
    ours = generation_flops(model.config, tokenizer.config, guided=guidance > 0, steps=4)
    assert ours.total - ours.decoder == pytest.approx(counted - nearest, rel=1e-6)
    assert ours.decoder == decoder_flops(tokenizer.config) > 0
    assert training_flops(model.config) > 0


def test_steps() -> None:
    steps = {kind: sampling_steps(family(kind).config(scales=SCALES[kind])) for kind in kinds()}
    assert steps == {"var": 3, "raster": 16, "rq": 16 * 4, "maskgit": 8, "dit": 250}
    assert sampling_steps(family("dit").config(scales=((4, 4),)), 10) == 10
