"""Inception score (Salimans et al., arXiv 1606.03498, section 4)."""

from __future__ import annotations

from itertools import pairwise
from statistics import fmean, pstdev

import numpy as np
from torch import Tensor

from nextscale.evaluation.sets import require_features, require_finite


def inception_score(logits: Tensor, *, splits: int = 10, seed: int | None = 2020) -> tuple[float, float]:
    """exp(E KL(p(y|x) | p(y))) of a classifier's logits (N, C): mean and spread over `splits` parts.

    Images are shuffled by `seed` before they are split, as torch-fidelity does; None keeps their order, as the
    guided-diffusion evaluator does. Raises ValueError for fewer images than parts.
    """
    require_features(logits, "logits", at_least=splits)
    order = np.arange(len(logits)) if seed is None else np.random.RandomState(seed).permutation(len(logits))
    bounds = [part * len(logits) // splits for part in range(splits + 1)]
    scores = []
    for start, stop in pairwise(bounds):
        log_p_NC = logits[order[start:stop]].double().log_softmax(dim=1)
        p_NC = log_p_NC.exp()
        divergence = (p_NC * (log_p_NC - p_NC.mean(dim=0).log())).nan_to_num(0.0).sum(dim=1)  # 0 log 0 is 0
        scores.append(require_finite("Inception score", float(divergence.mean().exp())))
    return fmean(scores), pstdev(scores)
