"""Train the scale model's tokenizer and text encoder on captions alone; afterwards both are frozen, as in Wan.

UMT5 learned by filling in what was cut from sentences of many languages; this one fills in hidden tokens of
fireside captions, and learns as well that two captions of one scene belong together.
"""

import io
import random
from pathlib import Path

import sentencepiece
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import UMT5EncoderModel

from ..text import EOS, PAD, TextShape, Tokenizer, new_text_encoder, to_file_names
from .captions import VOCABULARY, write_caption
from .loop import Budget, train
from .world import draw_scene

LENGTH = 64  # tokens: the longest caption has about 45 words
MASK = 3  # "<mask>", in UMT5 one of its <extra_id> tokens


def train_tokenizer(*, captions: int = 20_000, vocabulary: int = 640) -> bytes:
    """A SentencePiece unigram model with T5's special ids; bytes as a last resort, so that no text is unreadable."""
    sentences = [write_caption(draw_scene(seed), seed) for seed in range(captions)]
    sentences += sorted(VOCABULARY) * 5
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=file,
        vocab_size=vocabulary,
        model_type="unigram",
        byte_fallback=True,
        hard_vocab_limit=False,
        pad_id=PAD,
        eos_id=EOS,
        unk_id=2,
        bos_id=-1,
        control_symbols=["<mask>"],
        minloglevel=1,
    )
    return file.getvalue()


def tokenize(tokenizer: Tokenizer, prompts: list[str], length: int = LENGTH) -> Tensor:
    """Prompts to ids (B, L), padded with 0 to the longest."""
    rows = [torch.tensor(tokenizer.encode(prompt, length)) for prompt in prompts]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)


def embed(model: UMT5EncoderModel, ids: Tensor) -> Tensor:
    """(B, L) -> (B, L, dim), as `TextEncoder.embed` computes it."""
    real = ids != PAD
    return (
        model(inputs_embeds=model.shared(ids), attention_mask=real.long()).last_hidden_state * real[..., None]
    )


def hide(ids: Tensor, share: float = 0.3) -> tuple[Tensor, Tensor]:
    """Replace a share of the words by the mask; returns the ids to read and where something is hidden."""
    hidden = (torch.rand(ids.shape, device=ids.device) < share) & (ids != PAD) & (ids != EOS)
    return ids.masked_fill(hidden, MASK), hidden


class TextTask(nn.Module):
    """The encoder with what only its training needs: a scale for guessing words, one for matching captions."""

    def __init__(self, encoder: UMT5EncoderModel):
        super().__init__()
        self.encoder = encoder
        self.log_scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, dict[str, float]]:
        read, hidden = hide(first)
        states = embed(self.encoder, read)
        logits = states[hidden] @ self.encoder.shared.weight.T / states.shape[-1] ** 0.5
        guess = F.cross_entropy(logits, first[hidden])
        a = F.normalize(states.sum(1), dim=-1)
        b = F.normalize(embed(self.encoder, second).sum(1), dim=-1)
        match = F.cross_entropy(
            a @ b.T * self.log_scale.exp().clamp(max=30), torch.arange(len(a), device=a.device)
        )
        return guess + 0.2 * match, {"guess": guess.item(), "match": match.item()}


def train_text(folder: Path, *, minutes: float, device: str = "cpu", batch: int = 48) -> None:
    """Writes folder/tokenizer.model and folder/text_encoder.safetensors (float32, Hugging Face names)."""
    torch.manual_seed(0)
    path = folder / "tokenizer.model"
    if not path.exists():
        path.write_bytes(train_tokenizer())
    tokenizer = Tokenizer(path.read_bytes())
    shape = TextShape(vocab=tokenizer.vocab, dim=256, heads=4, ffn_dim=512, layers=4)
    task = TextTask(new_text_encoder(shape))
    nn.init.normal_(task.encoder.shared.weight, std=1.0)
    task.to(device)
    dice = random.Random(0)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        scenes = [draw_scene(dice.randrange(10**9)) for _ in range(batch)]
        pairs = [[write_caption(scene, dice.randrange(10**9)) for scene in scenes] for _ in range(2)]
        first, second = (tokenize(tokenizer, captions).to(device) for captions in pairs)
        with torch.autocast(first.device.type, torch.bfloat16):
            return task(first, second)

    matrices = [
        p
        for name, p in task.encoder.encoder.block.named_parameters()
        if "relative" not in name and p.ndim == 2
    ]
    budget = Budget(minutes, learning_rate=2e-3)
    average = train(task, loss_of, budget=budget, folder=folder / "text", orthogonal=matrices)
    save_file(to_file_names(average.encoder), folder / "text_encoder.safetensors")


def load_trained_text(folder: Path) -> tuple[UMT5EncoderModel, Tokenizer]:
    """The frozen encoder and its tokenizer, for the stages that come after."""
    tokenizer = Tokenizer((folder / "tokenizer.model").read_bytes())
    weights = load_file(folder / "text_encoder.safetensors")
    encoder = new_text_encoder(TextShape.of(weights))
    encoder.load_state_dict(weights | {"encoder.embed_tokens.weight": weights["shared.weight"]})
    return encoder.eval().requires_grad_(False), tokenizer
