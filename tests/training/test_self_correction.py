"""Tokens with mistakes: against loops written plainly, and what makes the mistakes good."""

import torch

from nextscale.pyramid import TokenPyramid
from nextscale.tokenizer.residual import downsample, upsample
from nextscale.tokenizer.vqvae import VQVAE
from nextscale.training.self_correction import SelfCorrection, near_codes, with_mistakes
from toys import make_tokenizer


def encoded(tokenizer: VQVAE, batch: int = 3) -> TokenPyramid:
    images = torch.rand(batch, 3, *tokenizer.config.image_size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return tokenizer.encode(images)


def test_near_codes_are_the_nearest_others() -> None:
    quantizer = make_tokenizer().quantizer
    found = near_codes(quantizer, 5)
    codes = quantizer.codes().detach().double()
    for code in range(len(codes)):
        distance = [float((codes[code] - other).norm()) for other in codes]
        nearest = sorted(range(len(codes)), key=lambda other: distance[other])
        assert found[code].tolist() == nearest[1:6]
    everything = near_codes(quantizer)
    assert everything.shape == (32, 31)
    assert all(sorted([code, *row]) == list(range(32)) for code, row in enumerate(everything.tolist()))


def test_mistakes_are_those_of_a_loop_written_plainly() -> None:
    tokenizer = make_tokenizer()
    quantizer, tokens = tokenizer.quantizer, encoded(tokenizer)
    schedule, near = tokens.schedule, near_codes(quantizer, 4)
    generator = torch.Generator().manual_seed(1)
    wrong = torch.rand(tokens.packed.shape, generator=generator) < 0.3
    ranks = torch.randint(4, tokens.packed.shape, generator=generator)
    with torch.no_grad():
        read, wanted = with_mistakes(quantizer, tokens, wrong, ranks, near)
        codes = quantizer.codes()
        for image in range(3):
            right, spoilt = torch.zeros(1, 8, 4, 4), torch.zeros(1, 8, 4, 4)
            for scale, (height, width) in enumerate(schedule):
                start = schedule.slice(scale).start
                added = downsample(spoilt - right, (height, width))[0]
                labels, taken = torch.zeros(height, width).long(), torch.zeros(height, width).long()
                for place in range(height * width):
                    row, column = divmod(place, width)
                    rest = codes[tokens.packed[image, start + place]] - added[:, row, column]
                    label = int((codes - rest).square().sum(dim=1).argmin())
                    labels[row, column] = label
                    replaced = near[label, ranks[image, start + place]]
                    taken[row, column] = replaced if wrong[image, start + place] else label
                assert torch.equal(wanted[scale][image], labels)
                assert torch.equal(read[scale][image], taken)
                for total, chosen in ((right, tokens[scale][image]), (spoilt, taken)):
                    embeddings = codes[chosen].permute(2, 0, 1)[None]
                    total += quantizer.refine(scale, upsample(embeddings, (4, 4)))
    assert torch.equal(read.packed != wanted.packed, wrong)
    assert not torch.equal(wanted.packed[:, 1:], tokens.packed[:, 1:]), "later labels correct"
    assert torch.equal(wanted[0], tokens[0]), "nothing comes before the first scale"


def test_later_scales_bring_the_sum_nearer_to_what_it_was() -> None:
    tokenizer = make_tokenizer()
    quantizer, tokens = tokenizer.quantizer, encoded(tokenizer, 16)
    wrong = torch.zeros_like(tokens.packed).bool()
    wrong[:, tokens.schedule.slice(1)] = True
    ranks = torch.full_like(tokens.packed, 20)
    with torch.no_grad():
        read, _ = with_mistakes(quantizer, tokens, wrong, ranks, near_codes(quantizer))
        left = torch.where(wrong, read.packed, tokens.packed)
        target = quantizer.decode(tokens)
        corrected = (quantizer.decode(read) - target).square().mean()
        uncorrected = (quantizer.decode(TokenPyramid(left, tokens.schedule)) - target).square().mean()
    assert corrected < uncorrected


def test_rates_reach_from_none_to_the_largest() -> None:
    tokenizer = make_tokenizer()
    tokens = encoded(tokenizer, 64)
    for rate, least, most in ((1e-9, 0.0, 0.0), (0.5, 0.15, 0.35)):
        torch.manual_seed(0)
        read, wanted = SelfCorrection(tokenizer.quantizer, rate)(tokens)
        shares = (read.packed != wanted.packed).float().mean(dim=1)
        assert least <= shares.mean() <= most
        assert torch.equal(wanted.packed, tokens.packed) == (rate < 0.1)
    assert shares.min() < 0.1 and shares.max() > 0.35, "each image has a rate of its own"
