"""Descriptions of the kinds of knowledge and of the adversary, for reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

KNOWLEDGE: Mapping[str, str] = {
    "model": "the shared model's weights in the attacked round",
    "update": "the victim's update, as the defense let it pass",
    "labels": "the main-task labels of the victim batch, but not whose is which",
    "auxiliary": "D_aux: images of other individuals, with their properties and main-task labels",
    "statistics": "mean and variance of the victim batch before every BatchNorm layer",
    "outputs": "what models that the server itself trained and deployed answer on each victim",
    "defense": "the clients' defense with its parameters, but nothing that they draw",
    "candidates": "images of people of whom it asks whether they are in the batch",
    "features": "the victims' true deep features, which no server has",
}
"""Name of a kind of knowledge, see `leakbench.threat.knowledge.Knowledge` → its description."""


ADVERSARY = (
    "The adversary is an honest-but-curious server. The batch size is always known. An attack "
    "gets what it declares to need of what its cell grants, and nothing else."
)


def glossary(names: Iterable[str]) -> dict[str, str]:
    """Return the descriptions of the named kinds of knowledge, in the order of definition."""
    named = set(names)
    return {name: text for name, text in KNOWLEDGE.items() if name in named}
