"""How far a server's clock is from this machine's, by the Date header of its answer."""

from email.utils import parsedate_to_datetime

from pd_autoscaler.doctor.findings import Finding, not_checked, ok, problem, warning
from pd_autoscaler.doctor.seen import Answer, Reply

CHECK = "clock"
APART_WARN_S = 2.0
APART_MAX_S = 30.0


def ahead_s(answer: Answer) -> float | None:
    """Return by how much the server's clock is ahead at least; None without a readable Date.

    A Date has whole seconds, cut off, and is from between sending and receiving: what these two
    can explain is no difference.
    """
    try:
        dated_unix_s = parsedate_to_datetime(answer.date).timestamp()
    except (ValueError, OverflowError):
        return None
    if dated_unix_s > answer.received_unix_s:
        return dated_unix_s - answer.received_unix_s
    if dated_unix_s + 1.0 < answer.sent_unix_s:
        return dated_unix_s + 1.0 - answer.sent_unix_s
    return 0.0


def clock(replies: dict[str, Reply]) -> Finding:
    """Judge the clock that is furthest off, of the answers of one node by whose they are."""
    off: dict[str, float] = {}
    for whose, reply in replies.items():
        if isinstance(reply, Answer) and (ahead := ahead_s(reply)) is not None:
            off[whose] = ahead
    if not off:
        return not_checked(CHECK, "no answer had a Date header")
    whose, ahead = max(off.items(), key=lambda item: abs(item[1]))
    if abs(ahead) <= APART_WARN_S:
        return ok(CHECK, f"at most {abs(ahead):.1f} s from this machine's")
    where = "ahead of" if ahead > 0 else "behind"
    seen = f"{whose}: its clock is {abs(ahead):.0f} s {where} this machine's"
    fix = "have both follow a time server (chrony, ntp): logs and the journal do not line up"
    return (problem if abs(ahead) > APART_MAX_S else warning)(CHECK, seen, fix)
