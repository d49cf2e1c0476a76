"""Descriptions of the kinds of knowledge and of the adversary, for reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

KNOWLEDGE: Mapping[str, str] = {
    "model": "the shared model's weights in the attacked round",
    "update": "the victim's update, as the defense let it pass",
    "labels": "the main-task labels of the victim batch, but not which individual has which",
    "auxiliary": "D_aux: images of other individuals, with their properties and main-task labels",
    "statistics": "mean and variance of the victim batch before every BatchNorm layer",
    "outputs": "the outputs, on each victim, of models that the server trained and deployed",
    "defense": "the clients' defense with its parameters, but not its random draws",
    "candidates": "images of individuals whose membership of the batch is in question",
    "features": "the victims' true deep features, which no server has",
}
"""Name of a kind of knowledge, see `leakbench.threat.knowledge.Knowledge` → its description."""

SHORT_NAMES: Mapping[str, str] = {
    "model": "the shared model",
    "update": "the victim's update",
    "outputs": "outputs of models that the server deployed",
    "auxiliary": "D_aux (labelled images of others)",
    "labels": "the batch's labels",
    "statistics": "the batch's BatchNorm statistics",
    "candidates": "candidates for membership",
    "features": "the true features",
    "defense": "the clients' defense",
}
"""Name of a kind of knowledge → its name in a sentence."""


ADVERSARY = (
    "The adversary is an honest-but-curious server. The batch size is always known. Of what its "
    "cell grants, an attack gets the knowledge that it declares, and nothing else."
)


def glossary(names: Iterable[str]) -> dict[str, str]:
    """Return the descriptions of the named kinds of knowledge, in the order of definition."""
    named = set(names)
    return {name: text for name, text in KNOWLEDGE.items() if name in named}
