"""Options mean the same in text and JSON, and a wrong one is named with its remedy."""

from dataclasses import fields
from typing import Any

import pytest

from service.engine.options import CaptionOptions
from service.errors import InvalidOptionError, UnknownOptionError
from service.option_reading import OPTION_NAMES, options_from_json, options_from_text, options_schema


def test_text_and_json_give_the_same_options() -> None:
    text = {
        "strategy": "sample",
        "num_captions": "3",
        "top_p": "0.9",
        "max_chars": "80",
        "prefix": "a photo of",
    }
    json: dict[str, Any] = text | {"num_captions": 3, "top_p": 0.9, "max_chars": 80}
    expected = CaptionOptions(strategy="sample", num_captions=3, top_p=0.9, max_chars=80, prefix="a photo of")
    assert options_from_text(text) == options_from_json(json) == expected


def test_nothing_given_means_the_defaults() -> None:
    assert options_from_text({}) == options_from_json({}) == CaptionOptions()


@pytest.mark.parametrize(
    ("given", "meant"),
    [("num_beam", "num_beams"), ("Temperature", "temperature"), ("maxtokens", "max_tokens")],
)
def test_unknown_option_names_the_nearest(given: str, meant: str) -> None:
    with pytest.raises(UnknownOptionError, match=f"did you mean '{meant}'") as caught:
        options_from_text({given: "1"})
    assert caught.value.extensions["did_you_mean"] == meant


def test_option_like_no_other_lists_all() -> None:
    with pytest.raises(UnknownOptionError, match="num_beams"):
        options_from_json({"zzz": 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_beams", "many"),
        ("num_beams", "0"),
        ("num_beams", "1e9"),
        ("temperature", "nan"),
        ("strategy", "magic"),
        ("max_chars", ""),
        ("prefix", "x" * 5000),
    ],
)
def test_wrong_text_value_is_refused_shortly(name: str, value: str) -> None:
    with pytest.raises(InvalidOptionError, match=f"{name} is .* it must be") as caught:
        options_from_text({name: value})
    assert caught.value.extensions["option"] == name
    assert len(caught.value.detail) < 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_beams", "4"),
        ("num_beams", 4.0),
        ("num_beams", True),
        ("top_p", "0.5"),
        ("prefix", 3),
        ("seed", None),
    ],
)
def test_json_values_must_have_the_right_type(name: str, value: Any) -> None:
    with pytest.raises(InvalidOptionError, match=name):
        options_from_json({name: value})


def test_schema_covers_every_option_with_text_default_and_limits() -> None:
    schema = options_schema()
    assert tuple(schema) == OPTION_NAMES
    for field in fields(CaptionOptions):
        assert schema[field.name]["description"]
        assert schema[field.name]["default"] == field.default
    assert schema["num_beams"]["minimum"] == 1
    assert schema["strategy"]["enum"] == ["beam", "greedy", "sample"]
    assert schema["max_chars"]["anyOf"][0]["minimum"] == 1
