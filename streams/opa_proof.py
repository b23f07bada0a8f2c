"""What is known of the rules a policy server decides by, pure and told the time.

Its rules were proven to be those of the directory at some moment, under some bundle revisions. An
answer given under other revisions, or long after the last proof, is nobody's word.
"""

import logging
from typing import Any

PROOF_AGE_MS_MAX = 90_000
CHECK_MS = 30_000

log = logging.getLogger("streams")


class Proof:
    """`doubt` says why the server's rules cannot be taken for the directory's; empty while they are proven."""

    def __init__(self) -> None:
        self._revisions: Any = None
        self._proven_ms = 0
        self._doubt = "its rules were never compared with the policy directory"

    def doubt(self, now_ms: int) -> str:
        if not self._doubt and now_ms - self._proven_ms > PROOF_AGE_MS_MAX:
            self._cast("its rules could not be compared with the policy directory for 90 s")
        return self._doubt

    def is_due(self, now_ms: int) -> bool:
        """Whether it is time to compare again."""
        return bool(self._doubt) or now_ms - self._proven_ms >= CHECK_MS

    def proven(self, revisions: Any, asked_ms: int) -> None:
        """The server held the directory's rules under these revisions; the comparison began at `asked_ms`."""
        if self._doubt:
            log.info("the policy server is proven to serve the rules of the policy directory")
        self._revisions = revisions
        self._proven_ms = asked_ms
        self._doubt = ""

    def refuted(self, cause: str) -> None:
        """The server was seen to hold something else."""
        self._cast(cause)

    def answered_under(self, revisions: Any) -> bool:
        """Whether these are the revisions of the proof; from others on, everything is in doubt."""
        if revisions != self._revisions:
            self._cast("it answers under another bundle revision than the one compared with the policy directory")
        return not self._doubt

    def _cast(self, doubt: str) -> None:
        if doubt != self._doubt:
            log.error("the policy server is not believed: %s", doubt)
        self._doubt = doubt
