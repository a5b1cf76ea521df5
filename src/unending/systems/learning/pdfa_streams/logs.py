"""A log of a small web shop, drawn from a known automaton: for tests, the tutorial and demonstrations."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from unending.core.random import philox
from unending.systems.learning.pdfa_streams.model import PDFA

__all__ = ["SHOP", "Client", "access_log", "shop"]

SHOP: dict[str, dict[str, tuple[str, float]]] = {
    "outside": {"GET /": ("home", 0.7), "GET /search": ("results", 0.3)},
    "home": {"GET /search": ("results", 0.6), "GET /login": ("login", 0.3)},
    "results": {"GET /item": ("item", 0.7), "GET /search": ("results", 0.2)},
    "item": {"GET /item": ("item", 0.2), "POST /cart": ("cart", 0.4), "GET /search": ("results", 0.2)},
    "login": {"POST /login": ("account", 0.8), "GET /login": ("login", 0.15)},
    "account": {"GET /search": ("results", 0.5), "GET /orders": ("account", 0.3)},
    "cart": {"GET /item": ("cart", 0.2), "POST /pay": ("paid", 0.6)},
    "paid": {"GET /orders": ("account", 0.3)},
}
"""State to request to (next state, probability); a visit ends with what is missing to 1."""


def shop() -> PDFA:
    """The automaton behind the log."""
    states = list(SHOP)
    symbols = sorted({request for row in SHOP.values() for request in row})
    following = np.full((len(states), len(symbols)), -1, np.int64)
    probabilities = np.zeros((len(states), len(symbols) + 1))
    for at, row in enumerate(SHOP.values()):
        for request, (target, probability) in row.items():
            following[at, symbols.index(request)] = states.index(target)
            probabilities[at, symbols.index(request)] = probability
        probabilities[at, -1] = 1 - sum(probability for _, probability in row.values())
    return PDFA(following, probabilities, symbols)


@dataclass
class Client:
    """A visitor: an address, and the requests that are left."""

    address: str
    requests: list[str]


def access_log(visits: int, seed: int = 0, at_once: int = 8) -> Iterator[str]:
    """Lines of an access log in common format, each with its line end; up to `at_once` visitors are woven together.

    Parameters
    ----------
    visits
        strings that are drawn from `shop()`; empty ones leave no line.
    seed
        of visitors and weaving.
    at_once
        visitors whose lines are mixed. Each visit has an address of its own.
    """
    requests = shop().sample(visits, seed)
    rng = philox(seed, 0, 0x6C6F67)
    clients: list[Client] = []
    number = second = 0
    while clients or number < visits:
        while len(clients) < at_once and number < visits:
            address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
            clients += [Client(address, requests[number][::-1])] if requests[number] else []
            number += 1
        if not clients:
            return
        client = clients[int(rng.integers(len(clients)))]
        clock = f"{second // 3600 % 24:02}:{second // 60 % 60:02}:{second % 60:02}"
        size = 200 + int(rng.integers(5000))
        yield f'{client.address} - - [01/Jan/2026:{clock} +0000] "{client.requests.pop()} HTTP/1.1" 200 {size}\n'
        second += 1
        if not client.requests:
            clients.remove(client)
