"""Samples held against the digests that were taken when their corpus was scored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

from core.errors import UserError
from data.corpus.base import Sample


def verified(samples: Iterable[Sample], digests: Sequence[str | None]) -> Iterator[Sample]:
    """The samples, each one's bytes checked against its digest: names alone prove nothing.

    Args:
        samples: of `Corpus.fetch`; those without data pass, with their error.
        digests: hex SHA-256 of each, in the same order; None leaves one unchecked.

    Raises UserError naming the first image whose bytes are not those that were scored.
    """
    for sample, digest in zip(samples, digests, strict=True):
        if digest is not None and sample.data is not None:
            found = hashlib.sha256(sample.data).hexdigest()
            if found != digest:
                raise UserError(
                    f"'{sample.key}': its bytes (SHA-256 {found[:12]}) are not those that were "
                    f"scored ({digest[:12]}); give the --corpus that was scored, or "
                    "score this one again into another folder"
                )
        yield sample
