"""Files of every unpleasant kind get the right caption or the right problem, and the service goes on."""

import base64
from collections.abc import Iterator

import pytest
from httpx2 import Response
from starlette.testclient import TestClient

from tests.service import pictures

CAT = pictures.cat()


def post(client: TestClient, data: bytes, *, content_type: str = "image/jpeg") -> Response:
    return client.post("/v1/captions?strategy=greedy", content=data, headers={"Content-Type": content_type})


def text_of(response: Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["results"][0]["captions"][0]["text"])


@pytest.fixture(autouse=True)
def still_serves(client: TestClient) -> Iterator[None]:
    yield
    assert post(client, pictures.encoded(CAT, "PNG")).status_code == 200


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"hello, I am a text file\n" * 10, 415),
        (b"", 422),
        (pictures.truncated_jpeg(CAT), 422),
        (pictures.one_bit_png(12_000, 12_000), 413),
        (pictures.encoded(CAT, "EPS"), 415),
        (bytes(21 * 1024 * 1024), 413),
    ],
    ids=["text", "empty", "truncated-jpeg", "bomb-png", "eps", "21-mb-image"],
)
def test_bad_file_gets_its_problem_in_every_form(client: TestClient, data: bytes, status: int) -> None:
    form = client.post("/v1/captions", files=[("image", ("file", data))])
    json = client.post("/v1/captions", json={"images": [{"data": base64.b64encode(data).decode()}]})
    for response in (post(client, data), form, json):
        assert response.status_code == status
        assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("unusual", "plain"),
    [
        (pictures.encoded(pictures.in_mode(CAT, "I;16"), "PNG"), pictures.encoded(CAT.convert("L"), "PNG")),
        (pictures.transparent_png(CAT), pictures.on_white(CAT)),
        (pictures.encoded(CAT.convert("P"), "GIF"), pictures.encoded(CAT.convert("P").convert("RGB"), "PNG")),
    ],
    ids=["16-bit", "transparent", "palette"],
)
def test_unusual_file_gets_the_caption_of_its_plain_twin(
    client: TestClient, unusual: bytes, plain: bytes
) -> None:
    assert text_of(post(client, unusual)) == text_of(post(client, plain))


def test_exif_rotated_jpeg_gets_the_caption_of_the_upright_one(client: TestClient) -> None:
    upright = pictures.encoded(CAT, "JPEG", quality=95)
    response = post(client, pictures.rotated_by_exif(CAT))
    assert text_of(response) == text_of(post(client, upright))
    assert response.json()["results"][0]["image"]["width"] == CAT.width


def test_cmyk_jpeg_is_captioned(client: TestClient) -> None:
    response = post(client, pictures.encoded(CAT.convert("CMYK"), "JPEG", quality=95))
    assert text_of(response)
    assert response.json()["results"][0]["image"]["format"] == "JPEG"


def test_animated_gif_is_captioned_by_its_first_frame_with_a_warning(client: TestClient) -> None:
    response = post(client, pictures.animated_gif(CAT))
    assert text_of(response) == text_of(post(client, pictures.encoded(CAT.convert("P"), "GIF")))
    assert "first" in response.json()["results"][0]["warnings"][0]


def test_content_type_of_the_upload_does_not_matter(client: TestClient) -> None:
    png = pictures.encoded(CAT, "PNG")
    assert text_of(post(client, png, content_type="image/gif")) == text_of(
        post(client, png, content_type="application/octet-stream")
    )


@pytest.mark.parametrize("form", ["raw", "multipart", "chunked"])
def test_sixty_megabytes_are_refused(client: TestClient, form: str) -> None:
    data = bytes(60 * 1024 * 1024)
    if form == "raw":
        response = post(client, data)
    elif form == "multipart":
        response = client.post("/v1/captions", files=[("image", ("big.jpg", data))])
    else:
        chunks = (data[start : start + 1024 * 1024] for start in range(0, len(data), 1024 * 1024))
        response = client.post("/v1/captions", content=chunks, headers={"Content-Type": "image/jpeg"})
    assert response.status_code == 413
    assert response.json()["type"] == "urn:semicap:problem:request-too-large"
    assert response.json()["max_bytes"] == 50 * 1024 * 1024


def test_orientation_that_cannot_be_read_is_no_reason_to_fail(client: TestClient) -> None:
    whole = pictures.encoded(CAT, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08" + bytes(40))
    spoilt = whole.replace(b"MM\0*\0\0\0\x08", b"MM\0\0\0\xff\0\x08")
    assert spoilt != whole
    assert post(client, spoilt).status_code == 200
