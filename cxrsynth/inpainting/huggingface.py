"""A pretrained Hugging Face text encoder from a local folder, frozen, low-rank adapted or fine-tuned."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from cxrsynth.encoder.lora import adapt
from cxrsynth.errors import UserError
from cxrsynth.inpainting.text import Vocabulary

TUNINGS = ("frozen", "lora", "full")
ADAPTED = ("query", "value", "q_lin", "v_lin", "q_proj", "v_proj", "q", "v")  # as BERT, DistilBERT, CLIP, T5 name them


class PretrainedText(nn.Module):
    """A Hugging Face encoder (BERT, DistilBERT, RoBERTa, CLIP's text half, ...) in the place of `TextEncoder`.

    Args:
        folder: A local folder with `config.json` and weights, as `save_pretrained` writes it. Nothing is fetched.
        tuning: `frozen`; `lora`: low-rank changes of the queries' and values' weights learn (Hu et al. 2021, arXiv
            2106.09685); or `full`: everything learns, as RoentGen does (arXiv 2211.12737).

    Raises:
        UserError: An unknown tuning, the package is missing, or the folder holds no such encoder.
    """

    def __init__(self, folder: str | Path, tuning: str = "frozen"):
        super().__init__()
        if tuning not in TUNINGS:
            raise UserError(f"text_tuning is {tuning!r}; choose one of {', '.join(TUNINGS)}")
        self.model = _load_model(folder)
        self.width: int = self.model.config.hidden_size
        self.tuning = tuning
        self.model.requires_grad_(tuning == "full")
        if tuning == "lora":
            _add_lora(self.model, folder)

    def train(self, mode: bool = True) -> "PretrainedText":
        """Dropout stays off: a training that is resumed shall equal one that was not cut off."""
        super().train(mode)
        self.model.eval()
        return self

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Read texts.

        Args:
            ids: Token ids `[B, L]` with the encoder's special tokens, -1 = padding.

        Returns:
            States `[B, L, width]` and which of them count, bool `[B, L]`; one state counts in a row without text.
        """
        counts = ids >= 0
        counts = torch.cat([counts[:, :1] | ~counts.any(1, keepdim=True), counts[:, 1:]], 1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.tuning != "frozen"):
            states = self.model(input_ids=ids.clamp_min(0), attention_mask=counts.long()).last_hidden_state
        return states, counts


def read_vocabulary(folder: str | Path, limit: int = 64) -> Vocabulary:
    """The vocabulary of a Hugging Face text encoder.

    Args:
        folder: With its tokenizer's files.
        limit: Most tokens of a text, special ones included.

    Raises:
        UserError: The package is missing, or the folder holds no tokenizer.
    """
    file = Path(folder) / "tokenizer.json"
    try:
        if file.is_file():
            return Vocabulary(Tokenizer.from_file(str(file)), limit)
        tokenizer = _transformers().AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        return Vocabulary.from_json(tokenizer.backend_tokenizer.to_str(), limit)
    except UserError:
        raise
    except Exception as error:  # both packages raise many kinds on foreign folders
        raise UserError(f"text_encoder {folder} holds no tokenizer that can be read ({_reason(error)})") from error


def _load_model(folder: str | Path) -> Any:
    if not Path(folder).is_dir():
        raise UserError(f"text_encoder {folder} is not a folder; give one that save_pretrained wrote")
    transformers = _transformers()
    try:
        config = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True)
        kind = {"clip": "CLIPTextModel", "clip_text_model": "CLIPTextModel", "t5": "T5EncoderModel"}
        auto = getattr(transformers, kind.get(config.model_type, "AutoModel"))
        model = auto.from_pretrained(str(folder), local_files_only=True).float()
    except Exception as error:
        raise UserError(f"text_encoder {folder} holds no encoder that can be read ({_reason(error)})") from error
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # its output is not used, so its weights would get no gradient
    return model


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise UserError("text_encoder needs transformers; pip install 'cxrsynth[text]' or leave it out") from error
    return transformers


def _add_lora(model: nn.Module, folder: str | Path) -> None:
    layers = [m for name, m in model.named_modules() if isinstance(m, nn.Linear) and name.split(".")[-1] in ADAPTED]
    if not layers:
        raise UserError(
            f"text_encoder {folder} has no layers named {', '.join(ADAPTED)}; use text_tuning frozen or full"
        )
    adapt(layers)


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
