"""A token stream in and answers out: what language operators share around their memory."""

from unending.parts.reading import answers, tokens
from unending.parts.reading.answers import Answer, choose
from unending.parts.reading.passes import Pass
from unending.parts.reading.tokens import Reading

__all__ = ["Answer", "Pass", "Reading", "answers", "choose", "tokens"]
