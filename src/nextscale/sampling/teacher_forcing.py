"""What each autoregressive kind of model reads when all tokens are known.

Shapes: B batch, L tokens, D codes of P positions, C latent channels, V codebook entries.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nextscale.families.raster import RasterConfig
from nextscale.families.rq import RQConfig
from nextscale.families.var import VARConfig
from nextscale.nn.transformer import TransformerConfig
from nextscale.pyramid import TokenPyramid
from nextscale.tokenizer.quantizer import ResidualQuantizer
from nextscale.tokenizer.residual import flatten_map


def teacher_inputs(config: TransformerConfig, quantizer: ResidualQuantizer, tokens: TokenPyramid) -> Tensor:
    """Latents that a model of this kind reads to predict all tokens, whose logits come in the pyramid's order.

    Next scale: what coarser scales accumulated (B, L - l_1, C); raster: the codes before (B, L - 1, C);
    residual-quantised: all codes (B, D, P, C). Raises ValueError for a kind without likelihoods.
    """
    with torch.no_grad():
        if isinstance(config, RasterConfig):
            return flatten_map(quantizer.lookup(tokens[0]))[:, :-1]
        if isinstance(config, RQConfig):
            return torch.stack([flatten_map(quantizer.lookup(tokens[code])) for code in range(config.codes)], dim=1)
    if isinstance(config, VARConfig):
        return quantizer.teacher_forcing(tokens)
    raise ValueError("this kind of model gives no probabilities of token pyramids: it is not autoregressive")
