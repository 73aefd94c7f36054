"""What a captioner is made of: frozen dataclasses, plain dicts in a checkpoint's config.json."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints


class ConfigError(ValueError):
    """A model configuration that cannot be built; the message names the field and what it may be."""


class DictConfig:
    """Reads and writes a frozen dataclass as a plain dict, refusing what it does not know."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload,no-any-return]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        hints = get_type_hints(cls)
        known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ConfigError(f"{cls.__name__} does not know {', '.join(unknown)}; it has {', '.join(known)}")
        try:
            return cls(**{name: _read(hints[name], name, value) for name, value in values.items()})
        except TypeError as error:
            raise ConfigError(f"{cls.__name__}: {error}") from error


def _read(hint: Any, name: str, value: Any) -> Any:
    if isinstance(hint, type) and issubclass(hint, DictConfig):
        return hint.from_dict(value)
    if get_origin(hint) is Literal and value not in get_args(hint):
        raise ConfigError(f"{name} is {value!r}; it may be {', '.join(map(repr, get_args(hint)))}")
    if get_origin(hint) is tuple and isinstance(value, list):
        return tuple(value)
    if hint is int and (isinstance(value, bool) or not isinstance(value, int)):
        raise ConfigError(f"{name} is {value!r}; it must be a whole number")
    return value


@dataclass(frozen=True)
class ClipConfig(DictConfig):
    """Where the CLIP encoder comes from, in open_clip's own terms.

    Args:
        model: an architecture name ("ViT-B-32"), "hf-hub:owner/name", or "local-dir:folder"; a relative
            folder is looked up beside the checkpoint's config.json.
        pretrained: open_clip's weights tag for an architecture name ("openai"); None leaves random weights.
    """

    model: str
    pretrained: str | None = None


@dataclass(frozen=True)
class MappingConfig(DictConfig):
    """The mapping network from CLIP's image features to the decoder's prefix.

    Args:
        kind: "mlp" reads the image embedding alone (ClipCap, arXiv 2111.09734); "grid" adds one prefix vector
            for each cell of the image tower's last feature map; "transformer" is ClipCap's other network.
        prefix_length: vectors made from the image embedding; 10 in arXiv 2306.15111.
        hidden_width: width of the MLP's hidden layer; 0 means half of its output, as in ClipCap.
        grid_cells: cells of the feature map, for "grid" only (49 for 7 x 7).
        grid_channels: channels of the feature map, for "grid" only.
        embedding: "unit" reads CLIP's embedding at length 1, "raw" at the length that CLIP gave it, as the
            published MLP weights of ClipCap do.
        dropout: share of prefix features dropped in training.
        layers, heads: of the "transformer"; 8 and 8 in ClipCap.
        clip_length: vectors that the "transformer" makes from the embedding to read; 10 in ClipCap.
    """

    kind: Literal["mlp", "grid", "transformer"] = "mlp"
    prefix_length: int = 10
    hidden_width: int = 0
    grid_cells: int = 0
    grid_channels: int = 0
    embedding: Literal["unit", "raw"] = "unit"
    dropout: float = 0.0
    layers: int = 8
    heads: int = 8
    clip_length: int = 10

    @property
    def total_length(self) -> int:
        """Prefix vectors that the decoder reads before the first word."""
        return self.prefix_length + (self.grid_cells if self.kind == "grid" else 0)


@dataclass(frozen=True)
class DecoderConfig(DictConfig):
    """A decoder of GPT-2's shape.

    Args:
        vocabulary: "clip" writes the ids that CLIP's text encoder reads, "gpt2" GPT-2's byte-level BPE.
        vocab_size: ids that can be emitted; the padding id is one past them.
        width, layers, heads: as in GPT-2 (768, 12, 12 for its small size).
        max_length: positions for prefix and caption together.
        dropout: share dropped after embeddings, attention and MLP in training.
        closing_ids: ids that end a caption and stay part of it, for a decoder that was never taught to end:
            the full stop of ClipCap's published weights. An id given by the caller does not end it.
        pretrained: transformers' name of the GPT-2 weights to start from ("gpt2"); only read when a captioner
            is created, never when a checkpoint is loaded.
    """

    vocabulary: Literal["clip", "gpt2"]
    vocab_size: int
    width: int
    layers: int
    heads: int
    max_length: int
    dropout: float = 0.0
    closing_ids: tuple[int, ...] = ()
    pretrained: str | None = None

    def __post_init__(self) -> None:
        if any(not 0 <= id < self.vocab_size for id in self.closing_ids):
            raise ConfigError(f"decoder closing_ids are {self.closing_ids}; ids are below {self.vocab_size}")
        if self.width % self.heads:
            raise ConfigError(f"decoder width {self.width} is not a multiple of its {self.heads} heads")


@dataclass(frozen=True)
class CaptionerConfig(DictConfig):
    """A whole captioner.

    Args:
        max_tokens: longest caption in tokens, without end-of-text.
    """

    clip: ClipConfig
    mapping: MappingConfig
    decoder: DecoderConfig
    max_tokens: int = 40

    def __post_init__(self) -> None:
        needed = self.mapping.total_length + self.max_tokens
        if needed > self.decoder.max_length:
            raise ConfigError(
                f"a prefix of {self.mapping.total_length} and {self.max_tokens} tokens "
                f"need {needed} positions; decoder.max_length is {self.decoder.max_length}"
            )
