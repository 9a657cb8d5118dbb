"""How the page looks: one font of the system, neutral labels, and contrasts of 4.5 to 1 at least, light and dark."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from gradio.themes import Base
from gradio.themes.utils import sizes

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Liberation Sans", "Arial", "sans-serif")
"""Fonts of the system: nothing is fetched from elsewhere."""


def studio_theme() -> Base:
    """Labels as quiet text, violet for what acts."""
    hues: Any = {"primary_hue": "violet", "secondary_hue": "violet", "neutral_hue": "gray"}
    theme = Base(**hues, font=FONTS, font_mono=FONTS, radius_size=sizes.radius_md)
    return theme.set(
        body_background_fill="white",
        body_background_fill_dark="*neutral_950",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_100",
        block_title_text_weight="600",
        block_label_text_color="*neutral_800",
        block_label_text_color_dark="*neutral_100",
        block_background_fill="*neutral_50",
        block_background_fill_dark="*neutral_900",
        block_border_color="*neutral_200",
        block_border_color_dark="*neutral_800",
        input_background_fill="white",
        input_background_fill_dark="*neutral_800",
        input_border_width="1px",
        input_border_width_dark="1px",
        input_border_color="*neutral_400",
        input_border_color_dark="*neutral_500",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        slider_color="*primary_600",
        slider_color_dark="*primary_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_700",
        button_primary_text_color="white",
        button_secondary_background_fill="*neutral_100",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_600",
        button_secondary_text_color="*neutral_800",
        button_secondary_text_color_dark="*neutral_100",
        checkbox_border_color="*neutral_500",
        checkbox_border_color_dark="*neutral_400",
        block_shadow="none",
        input_shadow="none",
    )


def asset(name: str) -> str:
    """Text of a file beside this one."""
    return (files("nextscale") / "studio" / name).read_text(encoding="utf-8")
