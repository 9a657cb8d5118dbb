"""Settings that several commands share."""

import pytest

from nextscale.settings import DataColumns, SamplingFlags, ScaleFlags


def test_only_settings_that_are_set_replace_those_of_the_model() -> None:
    assert SamplingFlags().sampling() == {}
    assert SamplingFlags(guidance=0.0, top_k=5).sampling() == {"guidance": 0.0, "top_k": 5}
    with pytest.raises(ValueError, match="top_p must be between 0 and 1, got 2"):
        SamplingFlags(top_p=2.0).sampling()


def test_settings_per_scale_have_neutral_values() -> None:
    assert ScaleFlags().sampling() == {"guided_scales": 0, "temperatures": ()}
    with pytest.raises(ValueError, match="temperatures must be numbers above 0"):
        ScaleFlags(temperatures=(0.0,)).sampling()


def test_columns_are_named_as_sources_take_them() -> None:
    assert DataColumns(label_column="game").columns == {"label_column": "game", "image_column": ""}
