"""Which documents training never sees."""

from __future__ import annotations

from hashlib import blake2b

from sparsemix.checks import check

ENOUGH_DOCUMENTS = 8


class HeldOut:
    """Chooses held-out documents as they come, domain by domain, not knowing how many follow.

    Of n documents of a domain floor(share * n + phase) are held out, spread evenly, the phase hashed from the
    seed and the domain's name; and one of its first eight, so that small domains are measured too. The first
    never is. Copies of one text are documents of their own.

    >>> choice = HeldOut(0.25, seed=0)
    >>> sum(choice.choose("prose") for _ in range(100))
    25
    """

    def __init__(self, share: float, seed: int):
        """`share` in 0..0.5."""
        check(0 <= share <= 0.5, "held_out", "must be in 0..0.5", f"{share}", "correct it")
        self.share = share
        self.seed = seed
        self._seen: dict[str, int] = {}

    def choose(self, domain: str) -> bool:
        """Whether the next document of this domain is held out."""
        count = self._seen.get(domain, 0)
        self._seen[domain] = count + 1
        return self._quota(domain, count + 1) > self._quota(domain, count)

    def _quota(self, domain: str, count: int) -> int:
        if self.share == 0:
            return 0
        digest = blake2b(f"{self.seed} {domain}".encode(), digest_size=16).digest()
        phase = int.from_bytes(digest[:8]) / 2**64 * (1 - self.share)
        early = 2 + int.from_bytes(digest[8:]) % (ENOUGH_DOCUMENTS - 1)
        return max(int(self.share * count + phase), int(count >= early))
