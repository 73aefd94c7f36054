"""The losses of all stages, as pure functions."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from models.similarity import clip_similarities


def contrastive_loss(
    image_embeddings: Float[Tensor, "batch embed"],
    text_embeddings: Float[Tensor, "batch embed"],
    *,
    scale: Float[Tensor, ""] | float,
) -> Float[Tensor, ""]:
    """InfoNCE in both directions over a batch of unit vectors (arXiv 2103.00020, figure 3).

    Args:
        scale: inverse temperature.
    """
    logits = scale * clip_similarities(image_embeddings, text_embeddings)
    targets = torch.arange(len(logits), device=logits.device)
    by_image = functional.cross_entropy(logits, targets)
    by_text = functional.cross_entropy(logits.T, targets)
    return (by_image + by_text) / 2


def kl_to_reference(
    logits: Float[Tensor, "tokens vocab"], reference_logits: Float[Tensor, "tokens vocab"]
) -> Float[Tensor, ""]:
    """Mean over the tokens of sampled captions of KL(policy || reference), over the whole vocabulary.

    Its expectation over captions, times their length, is the divergence of the captions' distributions. In
    gradient each token answers for its own row, not for which rows come after it.
    """
    log_probs = functional.log_softmax(logits.float(), dim=-1)
    reference = functional.log_softmax(reference_logits.float(), dim=-1)
    return functional.kl_div(reference, log_probs, reduction="batchmean", log_target=True)


def length_excess(
    end_probabilities: Float[Tensor, "captions length"],
    is_token: Bool[Tensor, "captions length"],
    *,
    target: float,
) -> Float[Tensor, ""]:
    """Mean squared relative excess of the expected caption length over `target` tokens.

    The expected length is differentiable: the sum over positions of the probability that the caption, along
    its sampled prefix, has not ended before.

    Args:
        is_token: True up to and with end-of-text.
    """
    continues = torch.cumprod(1 - end_probabilities.float(), dim=1)
    alive = torch.cat([torch.ones_like(continues[:, :1]), continues[:, :-1]], dim=1)
    expected = (alive * is_token).sum(dim=1)
    return torch.relu(expected / target - 1).square().mean()


def repetition(
    logits: Float[Tensor, "tokens vocab"],
    token_ids: Int[Tensor, "captions length"],
    is_token: Bool[Tensor, "captions length"],
) -> Float[Tensor, ""]:
    """Mean over captions of the expected number of repeated word pairs.

    At each token it is the probability of every word that, after the word before, would make a pair which
    the caption already has; "a" may come again, "a dog" may not. Pairs, because every good caption repeats
    its articles, and as the evaluation's repetition counts them.
    """
    caption, position, word = _repeating_words(token_ids, is_token)
    row_of_token = is_token.flatten().cumsum(dim=0).view_as(token_ids) - 1
    rows = logits[row_of_token[caption, position]]
    return rows.float().softmax(dim=-1).gather(1, word.unsqueeze(1)).sum() / len(token_ids)


def _repeating_words(token_ids: Tensor, is_token: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Caption, position and word of every possible repetition, each once."""
    length = token_ids.shape[1]
    previous, following = token_ids[:, :-1], token_ids[:, 1:]
    # [caption, earlier, later]: the pair that begins at `earlier` has the first word of the one at `later`
    is_same = previous.unsqueeze(2) == previous.unsqueeze(1)
    is_earlier = torch.ones(length - 1, length - 1, dtype=torch.bool, device=token_ids.device).triu(1)
    caption, earlier, later = (is_same & is_earlier & is_token[:, 1:].unsqueeze(1)).nonzero(as_tuple=True)
    places = torch.stack([caption, later + 1, following[caption, earlier]], dim=1)
    caption, position, word = torch.unique(places, dim=0).unbind(dim=1)
    return caption, position, word
