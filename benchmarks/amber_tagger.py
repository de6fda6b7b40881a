"""AMBER's own nouns of a description: by NLTK's tokenizer, tagger and lemmatizer, where NLTK and
its data are installed. Nothing is downloaded."""

from __future__ import annotations

from functools import cache
from typing import Any

DATA = ("punkt_tab", "averaged_perceptron_tagger_eng", "wordnet")
"""What ``python -m nltk.downloader`` has to bring."""
_PROBE = "A dog sits."


@cache
def missing_reason() -> str:
    """Why the nouns cannot be found here; empty: they can."""
    try:
        _nouns(_PROBE)
    except ImportError:
        return "NLTK is not installed"
    except LookupError:
        return f"NLTK's data are not installed ({' '.join(DATA)})"
    return ""


def version() -> str:
    """NLTK's version; another version may tag differently."""
    return f"nltk-{_nltk()[0].__version__}"


def nouns(caption: str, vocabulary: frozenset[str]) -> list[str]:
    """The nouns of a caption as its script finds them, those that its word lists know."""
    return [noun for noun in _nouns(caption) if noun in vocabulary]


def _nouns(text: str) -> list[str]:
    nltk, lemmatizer = _nltk()
    tagged = nltk.pos_tag(nltk.word_tokenize(text))
    return [lemmatizer.lemmatize(word) for word, tag in tagged if tag.startswith("NN")]


@cache
def _nltk() -> tuple[Any, Any]:
    # Not one of the project's requirements, and slow to load.
    import nltk
    from nltk.stem import WordNetLemmatizer

    return nltk, WordNetLemmatizer()
