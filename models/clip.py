"""CLIP through open_clip: images and captions to unit vectors in one space, frozen."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import open_clip
import torch
from jaxtyping import Float, Int
from open_clip.timm_model import TimmModel
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import VisionTransformer
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

import models.squeezenet  # noqa: F401 - registers the tower that a local folder may name
from models.clip_folder import (
    LOCAL_CONFIG,
    LOCAL_MERGES,
    LOCAL_PREFIX,
    LOCAL_WEIGHTS,
    ClipError,
    check_local,
    file_revision,
    hub_revision,
)
from models.config import ClipConfig
from models.image_features import ImageFeatures
from models.prefix_tree import PrefixTree, in_portions
from models.preprocess import Preprocess

TREE_TOKENS = 512
"""Of texts read as one tree: in larger ones attention, quadratic in the nodes, costs what sharing saves."""


class ClipEncoder(nn.Module):
    """The image tower and the text tower of one CLIP model.

    Args:
        model: an open_clip model whose text tower is open_clip's own causal transformer.
        tokenizer: the tokenizer that the text tower was trained with.
        preprocess: how the image tower wants its pixels.
        name, revision: what answers and reports call this scorer.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: SimpleTokenizer,
        preprocess: Preprocess,
        *,
        name: str,
        revision: str,
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.preprocess = preprocess
        self.name = name
        self.revision = revision
        text = getattr(model, "text", model)
        is_causal = getattr(text, "attn_mask", None) is not None and hasattr(text, "token_embedding")
        if not is_causal or getattr(text, "cls_emb", None) is not None:  # CoCa pools at a token of its own
            raise ClipError(
                f"{name}: its text tower is not open_clip's causal transformer, which captioning needs"
            )
        self._text = [text]  # in a list: it is already registered as part of `model`
        if isinstance(model.visual, TimmModel):
            # Convolutions: 2 to 4 times as fast as contiguous on a CPU (MobileNetV2, forward and backward).
            model.visual.to(memory_format=torch.channels_last)

    @property
    def text(self) -> Any:
        """The module that holds the text tower's parts."""
        return self._text[0]

    @property
    def visual(self) -> nn.Module:
        """The image tower."""
        tower: nn.Module = self.model.visual  # type: ignore[assignment]
        return tower

    @property
    def embed_dim(self) -> int:
        projection = self.text.text_projection
        return int(projection.out_features if isinstance(projection, nn.Linear) else projection.shape[1])

    @property
    def image_size(self) -> int:
        return self.preprocess.image_size

    @property
    def context_length(self) -> int:
        return int(self.text.context_length)

    @property
    def vocab_size(self) -> int:
        return int(self.text.token_embedding.num_embeddings)

    def with_visual(self, visual: nn.Module) -> Self:
        """The same encoder around another image tower; the text tower is shared."""
        model = copy.copy(self.model)
        model._modules = {**self.model._modules, "visual": visual}
        return type(self)(model, self.tokenizer, self.preprocess, name=self.name, revision=self.revision)

    def with_text_transformer(self, transformer: nn.Module) -> Self:
        """The same encoder around another text transformer; embeddings, norm and projection are shared."""
        text = copy.copy(self.text)
        text._modules = {**self.text._modules, "transformer": transformer}
        model = text
        if self.text is not self.model:
            model = copy.copy(self.model)
            model._modules = {**self.model._modules, "text": text}
        return type(self)(model, self.tokenizer, self.preprocess, name=self.name, revision=self.revision)

    def encode_image(self, pixels: Float[Tensor, "batch 3 height width"]) -> ImageFeatures:
        """Embedding and feature map of normalised pixels."""
        visual: Any = self.model.visual
        dtype = next((weight.dtype for weight in visual.parameters()), torch.float32)  # fused, it has none
        pixels = pixels.to(dtype)
        if isinstance(visual, TimmModel):
            cells = visual.trunk.forward_features(pixels.contiguous(memory_format=torch.channels_last))
            pooled = visual.head(visual.trunk.forward_head(cells))
            grid = cells.flatten(2).transpose(1, 2) if cells.ndim == 4 else cells
        elif isinstance(visual, VisionTransformer):
            visual.output_tokens = True
            pooled, grid = visual(pixels)
        else:
            pooled, grid = visual(pixels), None
        pooled, grid = pooled.float(), None if grid is None else grid.float()
        return ImageFeatures(functional.normalize(pooled, dim=-1), grid, pooled.norm(dim=-1))

    def tokenize(self, captions: Sequence[str]) -> Int[Tensor, "captions length"]:
        """CLIP ids with start and end, zero-padded to the longest caption; cut at the tower's context."""
        ids: Tensor = self.tokenizer(list(captions))
        return ids[:, : int(self._end_positions(ids).max()) + 1].to(self.text.positional_embedding.device)

    def encode_captions(self, captions: Sequence[str]) -> Float[Tensor, "captions embed"]:
        """Unit vectors of texts; what several of them begin with is read once (models/prefix_tree.py).

        Texts of the same ids get the same vector, bit for bit: a product's rows may differ in their last
        digits by where they stand, which would let chance decide between captions that CLIP reads alike.
        """
        ids: Tensor = self.tokenizer(list(captions))
        ends = self._end_positions(ids).tolist()
        texts = [tuple(row[: end + 1]) for row, end in zip(ids.tolist(), ends, strict=True)]
        distinct = sorted(set(texts))
        places = {text: place for place, text in enumerate(distinct)}
        vectors = torch.cat(
            [self._encode_tree(portion) for portion in in_portions(distinct, max_tokens=TREE_TOKENS)]
        )
        return vectors[torch.tensor([places[text] for text in texts], device=vectors.device)]

    def _encode_tree(self, texts: Sequence[tuple[int, ...]]) -> Float[Tensor, "captions embed"]:
        tower, positions = self.text, self.text.positional_embedding
        tree = PrefixTree.of(texts, positions.device)
        x = tower.token_embedding(tree.token_ids) + positions[tree.depths]
        read = tower.transformer(x.unsqueeze(0), attn_mask=tree.mask)[0]
        return self._project_text(read[tree.ends])

    def encode_text(self, token_ids: Int[Tensor, "captions length"]) -> Float[Tensor, "captions embed"]:
        """Unit vectors of CLIP ids (start, words, end, padding).

        The tower is causal, so positions after the end never reach the result: the batch is cut to its
        longest caption instead of the full context, with the same result for a fraction of the work.
        """
        ends = self._end_positions(token_ids)
        kept = token_ids[:, : int(ends.max()) + 1]
        return self.encode_text_embeddings(self.text.token_embedding(kept), ends)

    def encode_soft_text(
        self, one_hot: Float[Tensor, "captions length clip_vocab"], ends: Int[Tensor, "captions"]
    ) -> Float[Tensor, "captions embed"]:
        """As encode_text, of rows over the vocabulary instead of ids, so that a gradient reaches them.

        Args:
            one_hot: start, words, end; what stands after the end has no influence.
            ends: position of the end-of-text row of each caption.
        """
        return self.encode_text_embeddings(one_hot @ self.text.token_embedding.weight, ends)

    def encode_text_embeddings(
        self, embeddings: Float[Tensor, "captions length width"], ends: Int[Tensor, "captions"]
    ) -> Float[Tensor, "captions embed"]:
        """As encode_soft_text, of vectors in the place of the token embeddings."""
        text = self.text
        length = int(ends.max()) + 1
        x = embeddings[:, :length] + text.positional_embedding[:length].to(embeddings.dtype)
        x = text.transformer(x, attn_mask=text.attn_mask[:length, :length])
        return self._project_text(x[torch.arange(len(x), device=x.device), ends])

    def _project_text(self, ends: Float[Tensor, "captions width"]) -> Float[Tensor, "captions embed"]:
        """Unit vectors of what the transformer made of the end-of-text tokens."""
        pooled, projection = self.text.ln_final(ends), self.text.text_projection
        projected = projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
        unit: Tensor = functional.normalize(projected, dim=-1)
        return unit

    def _end_positions(self, token_ids: Tensor) -> Tensor:
        ends: Tensor = (token_ids == self.tokenizer.eot_token_id).int().argmax(dim=-1)
        return ends

    def save(self, folder: Path, *, dtype: torch.dtype = torch.float16) -> None:
        """Writes weights that open_clip's "local-dir:" reads; the folder already has config and merges."""
        weights = {name: _stored(value, dtype) for name, value in self.model.state_dict().items()}
        save_file(weights, folder / LOCAL_WEIGHTS)
        self.revision = file_revision(folder / LOCAL_WEIGHTS)

    @classmethod
    def load(cls, config: ClipConfig, *, beside: Path | None = None) -> Self:
        """The encoder that a configuration names.

        Args:
            beside: folder that a relative "local-dir:" is looked up in.

        Raises:
            ClipError: unknown name or tag, missing folder, or weights that do not fit.
        """
        if config.model.startswith(LOCAL_PREFIX):
            folder = (beside or Path()) / config.model.removeprefix(LOCAL_PREFIX)
            return cls._load_local(folder)
        try:
            # OpenAI's weights need QuickGELU; open_clip only warns where the architecture's name lacks it.
            tag = open_clip.get_pretrained_cfg(config.model, config.pretrained or "")
            model = open_clip.create_model(
                config.model,
                pretrained=config.pretrained,
                force_quick_gelu=bool(tag.get("quick_gelu")),
            )
            tokenizer = open_clip.get_tokenizer(config.model)
        except Exception as error:
            raise ClipError(
                f"open_clip could not load {config.model!r} ({config.pretrained}): {error}"
            ) from error
        return cls(
            model,
            tokenizer,
            Preprocess.from_open_clip(open_clip.get_model_preprocess_cfg(model)),
            name=config.model,
            revision=hub_revision(config),
        )

    @classmethod
    def _load_local(cls, folder: Path) -> Self:
        check_local(folder)
        try:
            model = open_clip.create_model(f"{LOCAL_PREFIX}{folder}")
        except Exception as error:
            raise ClipError(
                f"the CLIP weights in {folder} do not fit their {LOCAL_CONFIG}: {error}"
            ) from error
        return cls._from_folder(folder, model, revision=file_revision(folder / LOCAL_WEIGHTS))

    @classmethod
    def create_local(cls, folder: Path, *, image_weights: dict[str, Tensor] | None = None) -> Self:
        """A new encoder at random weights from the configuration in a folder.

        Args:
            image_weights: state dict for the image tower's trunk; what it has beyond that is left out.
        """
        model: Any = open_clip.create_model(f"{LOCAL_PREFIX}{folder}", load_weights=False)
        if image_weights is not None:
            trunk = model.visual.trunk
            wanted = trunk.state_dict().keys()
            missing = [name for name in wanted if name not in image_weights]
            if missing:
                raise ClipError(
                    f"the image weights lack {len(missing)} tensors of the tower, first {missing[0]}"
                )
            trunk.load_state_dict({name: image_weights[name] for name in wanted})
        return cls._from_folder(folder, model, revision="untrained")

    @classmethod
    def _from_folder(cls, folder: Path, model: nn.Module, *, revision: str) -> Self:
        settings = json.loads((folder / LOCAL_CONFIG).read_text())
        context = int(settings["model_cfg"]["text_cfg"].get("context_length", 77))
        merges = folder / LOCAL_MERGES
        tokenizer = (
            SimpleTokenizer(bpe_path=str(merges), context_length=context)
            if merges.is_file()
            else SimpleTokenizer(context_length=context)
        )
        name = settings.get("name", folder.name)
        encoder = cls(
            model,
            tokenizer,
            Preprocess.from_open_clip(open_clip.get_model_preprocess_cfg(model)),
            name=name,
            revision=revision,
        )
        if tokenizer.vocab_size != encoder.vocab_size:
            raise ClipError(
                f"{folder}: the tokenizer has {tokenizer.vocab_size} ids, the text tower {encoder.vocab_size}"
            )
        return encoder


def _stored(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.detach().to("cpu", dtype if value.is_floating_point() else value.dtype).contiguous()
