"""Speech as discrete tokens: content codes, melody and voice, in a file or as text."""

from vconv.tokens.tokens import Tokens

__all__ = ["Tokens"]
