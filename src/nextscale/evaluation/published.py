"""Published figures of class-conditional ImageNet models, beside which our own are shown, never mixed with them.

Sources: the paper (NeurIPS 2024, tables 1 to 3) and the authors' README.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One row; None where nothing was published."""

    model: str
    frechet: float
    inception_score: float | None
    precision: float | None
    recall: float | None
    parameters: str
    steps: int | None
    time: str
    "Relative wall-clock time, VAR-d30 being 1."


IMAGENET_256 = (
    Published("VAR-d16", 3.30, 274.4, 0.84, 0.51, "310M", 10, "0.4"),
    Published("VAR-d20", 2.57, 302.6, 0.83, 0.56, "600M", 10, "0.5"),
    Published("VAR-d24", 2.09, 312.9, 0.82, 0.59, "1.0B", 10, "0.6"),
    Published("VAR-d30", 1.92, 323.1, 0.82, 0.59, "2.0B", 10, "1"),
    Published("VAR-d30, rejection", 1.73, 350.2, 0.82, 0.60, "2.0B", 10, "1"),
    Published("validation data", 1.78, 236.9, 0.75, 0.67, "", None, ""),
    Published("DiT-XL/2", 2.27, 278.2, 0.83, 0.57, "675M", 250, "45"),
    Published("L-DiT-3B", 2.10, 304.4, 0.82, 0.60, "3B", 250, ">45"),
    Published("L-DiT-7B", 2.28, 316.2, 0.83, 0.58, "7B", 250, ">45"),
    Published("MaskGIT", 6.18, 182.1, 0.80, 0.51, "227M", 8, "0.5"),
    Published("VQGAN", 15.78, 74.3, None, None, "1.4B", 256, "24"),
    Published("VQGAN, rejection", 5.20, 280.3, None, None, "1.4B", 256, "24"),
    Published("ViT-VQGAN", 4.17, 175.1, None, None, "1.7B", 1024, ">24"),
    Published("ViT-VQGAN, rejection", 3.04, 227.4, None, None, "1.7B", 1024, ">24"),
    Published("RQ-Transformer", 7.55, 134.0, None, None, "3.8B", 68, "21"),
    Published("RQ-Transformer, rejection", 3.80, None, None, None, "3.8B", 68, "21"),
    Published("StyleGAN-XL", 2.30, 265.1, 0.78, 0.53, "166M", 1, "0.3"),
)
