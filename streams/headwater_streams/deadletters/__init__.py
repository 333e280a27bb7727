"""Dead letters: look at them, repair them, send them back to the handler that failed, and nobody else.

    with DeadLetters.from_env() as dead:
        for kind in dead.kinds():
            print(kind.fingerprint, kind.open, kind.exception_class)
        report = dead.redrive(Selection(fingerprint="3f2a…"), canary=5)

Everything is synchronous and blocks; from an event loop use a thread. What was redriven, edited and purged stands in
the topic ``headwater.audit``, which is also the memory that keeps a second redrive from repeating the first.
"""

from headwater_streams.deadletters.audit import AUDIT_TOPIC, Ledger
from headwater_streams.deadletters.canary import Verdict
from headwater_streams.deadletters.deadletters import DeadLetters
from headwater_streams.deadletters.letter import DeadLetter, LetterId
from headwater_streams.deadletters.mover import TakenOver
from headwater_streams.deadletters.purge import PurgeReport
from headwater_streams.deadletters.redrive import NotRedrivable, RedriveReport
from headwater_streams.deadletters.selection import Kind, Selection
from headwater_streams.deadletters.standing import Standing, standing

__all__ = [
    "AUDIT_TOPIC",
    "DeadLetter",
    "DeadLetters",
    "Kind",
    "Ledger",
    "LetterId",
    "NotRedrivable",
    "PurgeReport",
    "RedriveReport",
    "Selection",
    "Standing",
    "TakenOver",
    "Verdict",
    "standing",
]
