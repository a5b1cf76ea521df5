"""The server: OpenAI's protocols, sessions of every system, metrics and the live page, over the engine."""

from unending.serve.access import Access, Limits, new_token, read_tokens
from unending.serve.app import create_app
from unending.serve.server import Address, serve
from unending.serve.service import Options, Service

__all__ = [
    "Access",
    "Address",
    "Limits",
    "Options",
    "Service",
    "create_app",
    "new_token",
    "read_tokens",
    "serve",
]
