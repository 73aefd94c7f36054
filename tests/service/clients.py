"""Photos as the clients of other services send them."""

import base64

from tests.service import pictures

CAT = pictures.encoded(pictures.cat(), "JPEG", quality=90)
COFFEE = pictures.photos(2)[1]


def encoded(content: bytes = CAT) -> str:
    return base64.b64encode(content).decode()


def data_url(content: bytes = CAT) -> str:
    return f"data:image/jpeg;base64,{encoded(content)}"
