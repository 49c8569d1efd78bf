"""Train the scale model's tokenizer and text encoder on captions alone; afterwards both are frozen, as in Wan.

UMT5 learned by filling in what was cut from sentences of many languages; this one fills in hidden tokens of
fireside captions, and learns as well to tell from a caption the scene it describes.
"""

import io
import random
from pathlib import Path

import sentencepiece
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import UMT5EncoderModel

from ..files import write_safetensors
from ..text import EOS, PAD, TextShape, Tokenizer, new_text_encoder, to_file_names
from .captions import VOCABULARY, WORDS, write_caption
from .loop import Budget, fast_products, train
from .world import Scene, draw_scene

LENGTH = 64  # tokens: the longest caption has about 45 words
ATTRIBUTES: dict[str, tuple[str | bool | None, ...]] = {
    name: tuple(value == "yes" if "yes" in values else value for value in values)
    + ((None,) if name in ("relation", "defect") else ())
    for name, values in WORDS.items()
}
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


def hide(ids: Tensor, share: float = 0.2) -> tuple[Tensor, Tensor]:
    """Replace a share of the words by the mask; returns the ids to read and where something is hidden."""
    hidden = (torch.rand(ids.shape, device=ids.device) < share) & (ids != PAD) & (ids != EOS)
    return ids.masked_fill(hidden, MASK), hidden


class TextTask(nn.Module):
    """The encoder with what only its training needs: a head that guesses words, and one that names the scene.

    The head is not the embedding table: tied to it, every row drifts towards the frequent words until all are alike.
    The scene is read by one query for each attribute, which must find the words that tell it among the rows.
    """

    def __init__(self, encoder: UMT5EncoderModel):
        super().__init__()
        self.encoder = encoder
        dim, vocab = encoder.config.d_model, encoder.config.vocab_size
        self.word = nn.Linear(dim, vocab)
        self.query = nn.Parameter(torch.randn(len(ATTRIBUTES), dim) / dim**0.5)
        self.answer = nn.ModuleList(nn.Linear(dim, len(values)) for values in ATTRIBUTES.values())

    def forward(self, ids: Tensor, scenes: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Token ids (B, L) and the number of each attribute's value (B, A) to the loss and its parts."""
        read, hidden = hide(ids)
        states = embed(self.encoder, read)  # (B, L, dim)
        seen = (ids != PAD) & ~hidden
        words = self.word(states).float()
        guess, recall = (F.cross_entropy(words[where], ids[where]) for where in (hidden, seen))
        attention = (states @ self.query.T).masked_fill((ids == PAD)[..., None], -1e4).softmax(1)  # (B, L, A)
        found = attention.transpose(1, 2).to(states.dtype) @ states  # (B, A, dim)
        answers = [layer(found[:, a]).float() for a, layer in enumerate(self.answer)]
        scene = torch.stack([F.cross_entropy(row, scenes[:, a]) for a, row in enumerate(answers)]).mean()
        figures = {"guess": guess.item(), "recall": recall.item(), "scene": scene.item()}
        return 0.5 * guess + 0.5 * recall + 2 * scene, figures


def number_attributes(scene: Scene) -> list[int]:
    """Which value of each attribute a scene has, as numbers; a relation or defect it lacks is the last."""
    return [values.index(getattr(scene, name)) for name, values in ATTRIBUTES.items()]


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
        ids = tokenize(tokenizer, [write_caption(scene, dice.randrange(10**9)) for scene in scenes]).to(
            device
        )
        numbers = torch.tensor([number_attributes(scene) for scene in scenes], device=device)
        with fast_products(ids.device):
            return task(ids, numbers)

    matrices = [
        p
        for name, p in task.encoder.encoder.block.named_parameters()
        if "relative" not in name and p.ndim == 2
    ]
    budget = Budget(minutes, learning_rate=2e-3)
    average = train(task, loss_of, budget=budget, folder=folder / "text", orthogonal=matrices)
    write_safetensors(folder / "text_encoder.safetensors", to_file_names(average.encoder))
