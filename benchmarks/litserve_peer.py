"""The same captioner behind LitServe: batches of what waits, transformers' generate; for benchmarks.served.

In bf16 where the processor has it, else in fp32.

    python -m benchmarks.litserve_peer CHECKPOINT --port PORT --threads THREADS

LitServe is installed by hand (pip install litserve): nothing but this comparison needs it.
"""

import argparse
import base64
from io import BytesIO
from pathlib import Path
from typing import Any

import litserve
import torch
from PIL import Image
from transformers import GPT2Config, GPT2LMHeadModel

from models.captioner import Captioner
from models.checkpoint import load_captioner
from models.decoder import CaptionDecoder
from models.half import in_bf16
from models.packing import can_pack
from models.similarity import clip_similarity

BATCH, BATCH_TIMEOUT_S, ANSWER_TIMEOUT_S = 8, 0.02, 600


def to_gpt2(decoder: CaptionDecoder) -> GPT2LMHeadModel:
    """transformers' model with a decoder's weights: the reverse of models/gpt2.py."""
    config = decoder.config
    gpt2: Any = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.max_length,
            n_embd=config.width,
            n_layer=config.layers,
            n_head=config.heads,
        )
    )
    gpt2.eval()
    target = gpt2.transformer
    with torch.no_grad():
        target.wte.weight.copy_(decoder.output_weight)
        target.wpe.weight.copy_(decoder.position_embedding.weight)
        target.ln_f.load_state_dict(decoder.norm.state_dict())
        for layer, block in zip(target.h, decoder.layers, strict=True):
            layer.ln_1.load_state_dict(block.norm_1.state_dict())
            layer.ln_2.load_state_dict(block.norm_2.state_dict())
            for conv, linear in (
                (layer.attn.c_attn, block.attention.qkv),
                (layer.attn.c_proj, block.attention.out),
                (layer.mlp.c_fc, block.up),
                (layer.mlp.c_proj, block.down),
            ):
                conv.weight.copy_(linear.weight.t())
                conv.bias.copy_(linear.bias)
    return gpt2  # type: ignore[no-any-return]


class CaptionApi(litserve.LitAPI):  # type: ignore[misc]
    """Decodes images in the web process, captions batches in the worker."""

    def __init__(self, checkpoint: Path, *, threads: int) -> None:
        super().__init__(max_batch_size=BATCH, batch_timeout=BATCH_TIMEOUT_S)
        self.checkpoint = checkpoint
        self.threads = threads

    def setup(self, device: str) -> None:
        torch.set_num_threads(self.threads)
        captioner: Captioner = load_captioner(self.checkpoint)
        self.gpt2: Any = to_gpt2(captioner.decoder)
        self.captioner = captioner
        if can_pack("bf16"):  # elsewhere it would be emulated
            self.gpt2, self.captioner = self.gpt2.bfloat16(), in_bf16(captioner)

    def decode_request(self, request: dict[str, Any]) -> tuple[torch.Tensor, int, int]:
        image = Image.open(BytesIO(base64.b64decode(request["image"])))
        edge = self.captioner.clip.preprocess.image_size
        image.draft(None, (edge, edge))
        return self.captioner.clip.preprocess.resize(image), request["tokens"], request["beams"]

    def batch(self, inputs: list[tuple[torch.Tensor, int, int]]) -> list[tuple[torch.Tensor, int, int]]:
        return inputs

    @torch.inference_mode()
    def predict(self, inputs: list[tuple[torch.Tensor, int, int]]) -> list[dict[str, Any]]:
        """A batch takes as long as its longest caption; the others are cut to what was asked for."""
        captioner, tokenizer = self.captioner, self.captioner.tokenizer
        pixels = torch.stack([image for image, _, _ in inputs])
        features = captioner.encode_image(captioner.clip.preprocess.normalize(pixels))
        prefix = captioner.prefix(features).to(self.gpt2.dtype)
        longest = max(tokens for _, tokens, _ in inputs)
        ids = self.gpt2.generate(
            inputs_embeds=prefix,
            attention_mask=torch.ones(prefix.shape[:2], dtype=torch.long),
            num_beams=inputs[0][2],
            do_sample=False,
            min_new_tokens=longest,
            max_new_tokens=longest,
            suppress_tokens=list(tokenizer.never_generated) or None,
            pad_token_id=tokenizer.eos_id,
            eos_token_id=tokenizer.eos_id,
        )
        texts = [
            tokenizer.decode(row[:tokens]) for row, (_, tokens, _) in zip(ids.tolist(), inputs, strict=True)
        ]
        clip: Any = captioner.clip.model
        embeddings = torch.nn.functional.normalize(clip.encode_text(captioner.clip.tokenizer(texts)), dim=-1)
        similarities = clip_similarity(features.embedding, embeddings).tolist()
        return [
            {"text": text, "clip_similarity": score} for text, score in zip(texts, similarities, strict=True)
        ]

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


def main() -> None:
    """Serves until it is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    api = CaptionApi(arguments.checkpoint, threads=arguments.threads)
    server = litserve.LitServer(api, accelerator="cpu", timeout=ANSWER_TIMEOUT_S)
    server.run(host="127.0.0.1", port=arguments.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
