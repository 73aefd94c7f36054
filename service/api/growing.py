"""Tokens as they are decided to the text that is certain by then."""

from models.tokenizer import CaptionTokenizer
from service.captioning import Written
from service.engine.options import CaptionOptions
from service.engine.text import certain_text


class GrowingTexts:
    """The captions of one image while they are written."""

    def __init__(self, tokenizer: CaptionTokenizer, options: CaptionOptions) -> None:
        self._tokenizer = tokenizer
        self._options = options
        self._shown: dict[int, str] = {}

    def pieces(self, written: Written) -> dict[int, str]:
        """By caption index what became certain since the last call; nothing is ever taken back."""
        pieces = {}
        for index, text in self._certain(written).items():
            shown = self._shown.get(index, "")
            if len(text) > len(shown):
                self._shown[index] = text
                pieces[index] = text[len(shown) :]
        return pieces

    def hypothesis(self, written: Written) -> str | None:
        """The text of a beam's best hypothesis where it is another one than at the last call."""
        text = self._certain(written).get(0, "")
        if text == self._shown.get(0, ""):
            return None
        self._shown[0] = text
        return text

    def rest(self, text: str, *, index: int = 0) -> str:
        """What of a finished caption has not been shown yet."""
        return text.removeprefix(self._shown.get(index, ""))

    def _certain(self, written: Written) -> dict[int, str]:
        return {
            index: certain_text(self._tokenizer.decode(ids), self._options) for index, ids in written.items()
        }
