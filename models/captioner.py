"""The whole captioner: CLIP sees, the mapping network translates, the decoder writes."""

from collections.abc import Collection
from typing import Literal, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from models.bridge import AlignedBridge, IdentityBridge, SoftRows, VocabularyBridge
from models.clip import ClipEncoder
from models.config import CaptionerConfig, ConfigError
from models.decoder import CaptionDecoder
from models.image_features import ImageFeatures
from models.mapping import MappingNetwork, build_mapping
from models.tokenizer import CaptionTokenizer

Part = Literal["image tower", "text tower", "mapping", "decoder"]


class Captioner(nn.Module):
    """Composes its parts and says which of them learn; CLIP does not unless asked to."""

    def __init__(
        self,
        clip: ClipEncoder,
        mapping: MappingNetwork,
        decoder: CaptionDecoder,
        *,
        tokenizer: CaptionTokenizer,
        bridge: VocabularyBridge,
        config: CaptionerConfig,
    ) -> None:
        super().__init__()
        self.clip = clip.eval().requires_grad_(False)
        self.mapping = mapping
        self.decoder = decoder
        self.tokenizer = tokenizer
        self.bridge = bridge
        self.config = config

    @property
    def device(self) -> torch.device:
        return self.decoder.token_embedding.weight.device

    @torch.no_grad()
    def encode_image(self, pixels: Float[Tensor, "batch 3 height width"]) -> ImageFeatures:
        """CLIP's view of normalised pixels."""
        return self.clip.encode_image(pixels)

    def prefix(self, features: ImageFeatures) -> Float[Tensor, "batch prefix width"]:
        """What the decoder reads before the caption."""
        prefix: Tensor = self.mapping(features)
        return prefix

    def forward(
        self,
        features: ImageFeatures,
        token_ids: Int[Tensor, "captions length"],
        *,
        captions_per_image: int = 1,
        wanted: Bool[Tensor, "captions length"] | None = None,
    ) -> Float[Tensor, "captions length vocab"] | Float[Tensor, "wanted vocab"]:
        """Teacher forcing: logits that predict `token_ids` (words, end, padding), as the decoder's."""
        logits: Tensor = self.decoder(
            self.prefix(features), token_ids, captions_per_image=captions_per_image, wanted=wanted
        )
        return logits

    def encode_token_ids(
        self, token_ids: Int[Tensor, "captions length"], soft_rows: SoftRows | None = None
    ) -> Float[Tensor, "captions embed"]:
        """CLIP's unit vectors of captions in the decoder's ids (words, end, padding).

        Args:
            soft_rows: lets a gradient through to what the ids were sampled from.
        """
        embeddings, ends = self.bridge(token_ids, soft_rows)
        return self.clip.encode_text_embeddings(embeddings, ends)

    def train(self, mode: bool = True) -> Self:
        """As in torch, but CLIP stays in evaluation mode."""
        super().train(mode)
        self.clip.eval()
        return self

    def set_trainable(self, parts: Collection[Part]) -> None:
        """Lets exactly these parts learn."""
        self.clip.requires_grad_("text tower" in parts)
        self.clip.visual.requires_grad_("image tower" in parts)
        self.mapping.requires_grad_("mapping" in parts)
        self.decoder.requires_grad_("decoder" in parts)

    @classmethod
    def build(cls, config: CaptionerConfig, *, clip: ClipEncoder, tokenizer: CaptionTokenizer) -> Self:
        """A captioner at random weights around a loaded CLIP."""
        if tokenizer.vocab_size != config.decoder.vocab_size:
            raise ConfigError(
                f"decoder.vocab_size is {config.decoder.vocab_size}; "
                f"its tokenizer has {tokenizer.vocab_size} ids"
            )
        bridge: VocabularyBridge
        if config.decoder.vocabulary == "clip":
            bridge = IdentityBridge(clip)
        else:
            bridge = AlignedBridge(clip, tokenizer)
        mapping = build_mapping(config.mapping, embed_dim=clip.embed_dim, width=config.decoder.width)
        decoder = CaptionDecoder(config.decoder, prefix_length=config.mapping.total_length)
        return cls(clip, mapping, decoder, tokenizer=tokenizer, bridge=bridge, config=config)
