"""Access tokens come from the environment only; what is printed or kept shows none of them."""

from __future__ import annotations

import os

TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def without_tokens(text: str) -> str:
    """A text with every token of the environment blotted out."""
    for name in TOKEN_VARIABLES:
        if os.environ.get(name):
            text = text.replace(os.environ[name], "***")
    return text
