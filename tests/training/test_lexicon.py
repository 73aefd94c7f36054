"""Words for ImageNet's classes, and finding them in captions."""

import numpy as np
import pytest
import torchvision

from training.lexicon import UNNAMED, Lexicon, parse_lexicon, read_imagenet_lexicon, with_prior, word_lines

LINES = [
    "# a comment",
    "0\tcollie\tdog, puppy",
    "1\tpug\tdog, puppy",
    "2\thotdog\thot dog, sandwich",
    "3\tdrake\tduck, bird",
    "4\tjay\tbird",
    "5\tplate\tplate",
    "-\t-\thome plate",
]


@pytest.fixture
def lexicon() -> Lexicon:
    return parse_lexicon(LINES)


def test_words_of_the_same_classes_are_one_thing(lexicon: Lexicon) -> None:
    things = {thing.words: thing.classes for thing in lexicon.things}
    assert things == {
        ("dog", "puppy"): (0, 1),
        ("hot dog", "sandwich"): (2,),
        ("duck",): (3,),
        ("bird",): (3, 4),
        ("plate",): (5,),
    }


@pytest.mark.parametrize(
    ("caption", "named"),
    [
        ("Two Puppies, and a dog.", {"dog"}),
        ("A hot dog on a plate", {"hot dog", "plate"}),
        ("Ducks are birds", {"duck", "bird"}),
        ("A batter at home plate.", set()),
        ("The hotdog stand of a dogged man", set()),
    ],
)
def test_captions_name_things_in_singular_and_plural_and_longest_phrases_win(
    lexicon: Lexicon, caption: str, named: set[str]
) -> None:
    assert {lexicon.things[place].name for place in lexicon.named_in(caption)} == named


def test_confidence_in_a_thing_is_the_sum_over_its_classes(lexicon: Lexicon) -> None:
    probabilities = np.array([[0.3, 0.3, 0.1, 0.1, 0.1, 0.1]], dtype=np.float32)
    names = [thing.name for thing in lexicon.things]
    confidence = dict(zip(names, lexicon.confidence(probabilities)[0].tolist(), strict=True))
    assert confidence == pytest.approx({"dog": 0.6, "hot dog": 0.1, "duck": 0.1, "bird": 0.2, "plate": 0.1})


def test_prior_moves_what_is_unsure_to_what_captions_name(lexicon: Lexicon) -> None:
    probabilities = np.array([[0.3, 0.3, 0.0, 0.0, 0.4, 0.0]], dtype=np.float32)
    mentions = np.array([0.1 if thing.name == "dog" else 0.4 for thing in lexicon.things])
    kept = with_prior(probabilities, lexicon, mentions=mentions, strength=0.0)
    assert kept == pytest.approx(probabilities)
    likely = with_prior(probabilities, lexicon, mentions=mentions, strength=1.0)
    assert likely.sum() == pytest.approx(1.0)
    # bird has 0.4 for two classes, dog 0.1 for two: four times as likely, and 0.4 to 0.6 before
    ratio = (0.2 + UNNAMED) / (0.05 + UNNAMED)
    assert likely[0, 4] / (likely[0, 0] + likely[0, 1]) == pytest.approx(0.4 / 0.6 * ratio)


@pytest.mark.parametrize("line", ["0\tcollie", "dog\tcollie\tdog", "0 collie dog"])
def test_a_line_that_is_no_entry_is_named(line: str) -> None:
    with pytest.raises(ValueError, match="line 2 is"):
        parse_lexicon(["# words", line])


def test_the_package_names_each_class_once_as_torchvision_does() -> None:
    categories = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1.meta["categories"]
    entries = [line.split("\t") for line in word_lines() if line[0] not in "#-"]
    indices = [int(index) for index, _, _ in entries]
    assert indices == sorted(set(indices))
    assert [name for _, name, _ in entries] == [categories[index] for index in indices]
    assert len(categories) == 1000


@pytest.mark.parametrize(
    ("caption", "named"),
    [
        ("three zebras and an elephant", {"zebra", "elephant"}),
        ("a man in an orange shirt flies a kite", set()),
        ("kittens on a sofa", {"cat", "couch"}),
        ("a crane lifts a teddy bear", {"teddy bear"}),
    ],
)
def test_the_package_knows_everyday_words_and_leaves_misleading_ones_out(
    caption: str, named: set[str]
) -> None:
    lexicon = read_imagenet_lexicon()
    assert {lexicon.things[place].name for place in lexicon.named_in(caption)} == named
