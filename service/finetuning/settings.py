"""What a fine-tuning job may set, with limits; unknown names are refused with the nearest known one."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from service.option_reading import unknown_name

FEWEST_PHOTOS = 50
"""Different, readable photos below which a job ends: what is held out of fewer measures nothing."""

MOST_PHOTOS = 100_000

_REWARDS = ("similarity", "contrastive")
_NO_REWARD: dict[str, Any] = {
    "required": list(_REWARDS),
    "properties": {name: {"const": 0} for name in _REWARDS},
}


class FinetuneSettings(BaseModel):
    """Settings of stage 2; the defaults suit two CPU cores and no labelled photos (docs/finetuning.md)."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        json_schema_extra={"not": _NO_REWARD},
    )

    steps: int = Field(100, ge=1, le=5000, description="Optimizer steps at most.")
    max_minutes: float = Field(
        120.0, ge=0.1, le=2880, description="Minutes of training after which it ends with what it has."
    )
    lr: float = Field(
        1e-4, gt=0, le=1.0, description="Peak learning rate; warm-up and cosine follow the steps."
    )
    batch_size: int = Field(32, ge=2, le=256, description="Photos in one step.")
    samples: int = Field(4, ge=1, le=16, description="Captions sampled for each photo of a step.")
    similarity: float = Field(1.0, ge=0, le=10, description="Weight of the CLIP similarity as reward.")
    contrastive: float = Field(
        0.1, ge=0, le=10, description="Weight of picking the photo out of the batch's photos as reward."
    )
    kl: float = Field(
        1.0, ge=0, le=100, description="Weight of staying near the base version, word by word; 0: no guard."
    )
    length: float = Field(0.1, ge=0, le=10, description="Weight against captions longer than the base's.")
    repetition: float = Field(0.1, ge=0, le=10, description="Weight against repeated word pairs.")
    replay: float = Field(
        1.0, ge=0, le=10, description="Weight of the labelled photos' captions, where there are any."
    )
    early_stop: bool = Field(
        True, description="Keep the state that the second scorer likes best, and stop when it gets no better."
    )
    evaluate_every: int = Field(20, ge=1, le=1000, description="Steps between two looks at held-out photos.")
    max_photos: int = Field(
        10_000,
        ge=FEWEST_PHOTOS,
        le=MOST_PHOTOS,
        description="Photos used, spread evenly over the dataset; they are copied to the worker's disk.",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Order of the photos, and what is sampled.")

    @model_validator(mode="before")
    @classmethod
    def _names_are_known(cls, values: Any) -> Any:
        for name in values if isinstance(values, dict) else ():
            if name not in cls.model_fields:
                raise ValueError(unknown_name(str(name), tuple(cls.model_fields), kind="setting")[0])
        return values

    @field_validator("*", mode="before")
    @classmethod
    def _whole_numbers_are_integers(cls, value: Any, field: ValidationInfo) -> Any:
        """As JSON has it: 100.0 is an integer."""
        wants_integer = cls.model_fields[field.field_name or ""].annotation is int
        is_whole = isinstance(value, float) and value.is_integer()
        return int(value) if wants_integer and is_whole else value

    @model_validator(mode="after")
    def _has_a_reward(self) -> Self:
        if not self.similarity and not self.contrastive:
            raise ValueError("similarity and contrastive are both 0: nothing would be learnt")
        return self
