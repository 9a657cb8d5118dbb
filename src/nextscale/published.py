"""Published weights by name: the authors' own, and those that others made of them. Without torch, for help."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

OFFICIAL_REPOSITORY = "FoundationVision/var"
OFFICIAL_TOKENIZER = "vae_ch160v4096z32.pth"


@dataclass(frozen=True, kw_only=True)
class Published:
    """One name: files of a hub repository in the authors' format. All read the authors' tokenizer."""

    files: tuple[str, ...] = ()
    "Paths of transformers in the repository: none for the tokenizer alone, two for models in turn."
    switch: int = 0
    "Of two models in turn, the number of scales that the first one draws."
    repository: str = OFFICIAL_REPOSITORY
    about: str
    "What was done to the weights, and the paper."
    licence: str = "MIT"
    "As the repository of the code states it."
    defaults: dict[str, Any] = field(default_factory=dict)
    "Settings of sampling that the authors' scripts use, where they are not those of `SamplingConfig`."


def known() -> dict[str, Published]:
    """All of them by name."""
    vae = Published(about="tokenizer of 256 x 256 and 512 x 512 images (VAR, arXiv 2404.02905)")
    models = {"vae-ch160v4096z32": vae}
    for depth in (16, 20, 24, 30, 36):
        models[f"var-d{depth}"] = Published(files=(f"var_d{depth}.pth",), about="VAR (arXiv 2404.02905)")
    for depth, size, guidance in ((16, 256, 2.9), (36, 512, 4.0)):
        models[f"neon-d{depth}"] = Published(
            repository="sinaalemohammad/Neon",
            files=(f"Neon_VARd{depth}_imagenet{size}.pth",),
            about=f"VAR-d{depth} away from its own samples (Neon, arXiv 2510.03597)",
            defaults={"guidance": guidance, "top_k": 900, "top_p": 0.95},
        )
    for depth in (16, 20, 24, 30):
        models[f"cca-d{depth}"] = Published(
            repository="ChenDRAG/CCA_VAR",
            files=(f"CCA_VAR_Guidance_Free/VAR_d{depth}_CCA.pth",),
            about=f"VAR-d{depth} tuned to need no guidance, half the work (CCA, arXiv 2410.09347)",
            defaults={"guidance": 0.0, "top_k": 900, "top_p": 0.96},
        )
    for switch in (6, 7, 8, 9):
        models[f"code-{switch}"] = Published(
            repository="Zigeng/VAR_CoDe",
            files=(f"drafter_{switch}.pth", f"refiner_{switch}.pth"),
            switch=switch,
            about=f"depth 30 for {switch} scales, then depth 16, tuned for it (CoDe, arXiv 2411.17787)",
            defaults={"guidance": 1.5, "top_k": 600, "top_p": 0.96},
        )
    return models


PUBLISHED = known()
"""Every published model that is loaded by name."""
