"""The losses of all stages, as pure functions."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from training.linear_cross_entropy import linear_cross_entropy


def caption_cross_entropy(
    states: Float[Tensor, "captions length width"],
    output_weight: Float[Tensor, "vocab width"],
    token_ids: Int[Tensor, "captions length"],
    *,
    pad_id: int,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Mean negative log-likelihood of a token; end-of-text counts, padding does not.

    Args:
        states: of the decoder; row t predicts `token_ids[:, t]`.
        output_weight: makes logits of states.
    """
    is_token = token_ids != pad_id
    return linear_cross_entropy(
        states[is_token], output_weight, token_ids[is_token], label_smoothing=label_smoothing
    )


def contrastive_loss(
    image_embeddings: Float[Tensor, "batch embed"],
    text_embeddings: Float[Tensor, "batch embed"],
    *,
    scale: Float[Tensor, ""] | float,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """InfoNCE in both directions over a batch of unit vectors (arXiv 2103.00020, figure 3).

    Args:
        scale: inverse temperature.
    """
    logits = scale * image_embeddings.float() @ text_embeddings.float().T
    targets = torch.arange(len(logits), device=logits.device)
    by_image = functional.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    by_text = functional.cross_entropy(logits.T, targets, label_smoothing=label_smoothing)
    return (by_image + by_text) / 2


def clip_similarity_loss(
    image_embeddings: Float[Tensor, "captions embed"], text_embeddings: Float[Tensor, "captions embed"]
) -> Float[Tensor, ""]:
    """Minus the mean cosine of pairs of unit vectors (arXiv 2306.15111), -1..1."""
    return -(image_embeddings.float() * text_embeddings.float()).sum(dim=-1).mean()


def retrieval_loss(
    image_embeddings: Float[Tensor, "images embed"],
    text_embeddings: Float[Tensor, "images*samples embed"],
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """Cross-entropy of finding each caption's image among the batch's images.

    Captions of an image stand next to each other. Only this direction: what all captions of the batch share
    gives no reward, what tells the image from its neighbours does.
    """
    samples = len(text_embeddings) // len(image_embeddings)
    logits = text_embeddings.float() @ image_embeddings.float().T / temperature
    targets = torch.arange(len(image_embeddings), device=logits.device).repeat_interleave(samples)
    return functional.cross_entropy(logits, targets)


def kl_to_reference(
    logits: Float[Tensor, "captions length vocab"],
    reference_logits: Float[Tensor, "captions length vocab"],
    is_word: Float[Tensor, "captions length"],
) -> Float[Tensor, ""]:
    """Mean over tokens of KL(policy || reference) along sampled captions.

    Args:
        is_word: 1 up to and with end-of-text, 0 after.
    """
    log_probs = functional.log_softmax(logits.float(), dim=-1)
    reference = functional.log_softmax(reference_logits.float(), dim=-1)
    per_token = (log_probs.exp() * (log_probs - reference)).sum(dim=-1)
    return (per_token * is_word).sum() / is_word.sum().clamp(min=1)


def length_excess(
    end_probabilities: Float[Tensor, "captions length"],
    is_word: Float[Tensor, "captions length"],
    *,
    target: float,
) -> Float[Tensor, ""]:
    """Mean squared relative excess of the expected caption length over `target` tokens.

    The expected length is differentiable: the sum over positions of the probability that the caption, along
    its sampled prefix, has not ended before.
    """
    continues = torch.cumprod(1 - end_probabilities.float(), dim=1)
    alive = torch.cat([torch.ones_like(continues[:, :1]), continues[:, :-1]], dim=1)
    expected = (alive * is_word).sum(dim=1)
    return torch.relu(expected / target - 1).square().mean()
