"""The settings of a fine-tuning job."""

from typing import Any

import pytest
from pydantic import ValidationError

from service.finetuning.settings import FinetuneSettings


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"learning_rate": 1e-4}, "there is no setting 'learning_rate'"),
        ({"step": 5}, "did you mean 'steps'?"),
        ({"steps": 0}, "greater than or equal to 1"),
        ({"lr": 0}, "greater than 0"),
        ({"similarity": 0, "contrastive": 0}, "nothing would be learnt"),
        ({"kl": float("nan")}, "finite"),
        ({"steps": "100"}, "valid integer"),
    ],
)
def test_wrong_setting_is_refused_and_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said.replace("?", r"\?")):
        FinetuneSettings.model_validate(values)
