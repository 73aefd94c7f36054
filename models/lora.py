"""Low-rank adapters (arXiv 2106.09685): few weights learn, and a checkpoint gets plain weights again.

Not `peft`: it wraps transformers' own classes and renames their parameters, and brings accelerate along, for
what is one layer here.
"""

from collections.abc import Collection

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from models.config import ConfigError


class LoraLinear(nn.Linear):
    """A linear layer that stays, plus a learnt difference of low rank which starts at zero.

    `weight` and `bias` are those of the layer it takes the place of, under the same names.

    Args:
        alpha: the difference is scaled by alpha / rank, so that the learning rate need not follow the rank.
    """

    def __init__(self, base: nn.Linear, *, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__(base.in_features, base.out_features, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.scale = alpha / rank
        down = torch.empty(rank, base.in_features)
        nn.init.kaiming_uniform_(down, a=5**0.5, generator=generator)  # as a new nn.Linear
        self.lora_down = nn.Parameter(down.to(base.weight))
        self.lora_up = nn.Parameter(base.weight.new_zeros(base.out_features, rank))

    def forward(self, input: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        difference = functional.linear(functional.linear(input, self.lora_down), self.lora_up)
        return super().forward(input) + self.scale * difference

    def merged_weight(self) -> Float[Tensor, "out in"]:
        """The weight of the plain layer that computes the same."""
        return self.weight + self.scale * self.lora_up @ self.lora_down


def add_adapters(
    module: nn.Module, *, targets: Collection[str], rank: int, alpha: float, generator: torch.Generator
) -> None:
    """Puts an adapter on every linear layer of one of these names; the rest of the module stops learning.

    Raises:
        ConfigError: a name that no linear layer of the module has.
    """
    module.requires_grad_(False)
    found = [
        (parent, name)
        for parent in module.modules()
        for name, child in parent.named_children()
        if name in targets and isinstance(child, nn.Linear)
    ]
    missing = set(targets) - {name for _, name in found}
    if missing:
        raise ConfigError(f"no linear layer is called {', '.join(sorted(missing))}")
    for parent, name in found:
        base: nn.Linear = getattr(parent, name)
        setattr(parent, name, LoraLinear(base, rank=rank, alpha=alpha, generator=generator))


@torch.no_grad()
def merged_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """The weights of the module without adapters that computes the same; of one without any, its own."""
    state = dict(module.state_dict())
    for name, layer in module.named_modules():
        if isinstance(layer, LoraLinear):
            state[f"{name}.weight"] = layer.merged_weight()
            del state[f"{name}.lora_down"], state[f"{name}.lora_up"]
    return state
