"""What to do about an address that does not answer as it should: the same for all of them."""

from urllib.parse import urlsplit

from pd_autoscaler.adapters.addresses import shown
from pd_autoscaler.adapters.metrics.faults import Fault, Trouble
from pd_autoscaler.doctor.findings import Finding, not_checked, problem
from pd_autoscaler.doctor.seen import Answer


def place_of(url: str) -> str:
    """Return the host and port of an address."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2] or shown(url)
    except ValueError:
        return shown(url)


def unanswered(check: str, url: str, trouble: Trouble, *, setting: str, what: str) -> Finding:
    """Say why nothing came from an address; `setting` names it and `what` what should be there."""
    fault, place = trouble.fault, place_of(url)
    if fault is Fault.NOT_ASKED:
        return not_checked(check, f"{shown(url)}: {trouble.said}")
    fixes = {
        Fault.WRONG_URL: f"give {setting} as http://host:port/path",
        Fault.NO_NAME: f"correct the host in {setting}, or the name service of this machine",
        Fault.REFUSED: f"nothing listens on {place}: start {what}, have it listen on an address "
        f"that others reach (not 127.0.0.1), or correct {setting}",
        Fault.UNREACHABLE: f"there is no way from this machine to {place}: see its routes, network "
        "policies, and whether the host is up",
        Fault.NO_CONNECTION: f"{place} is silent: a firewall or network policy drops the packets, "
        f"or the host is down; or correct {setting}",
        Fault.NO_ANSWER: f"{what} hangs or is overloaded: see its log; if it is only slow, raise "
        "the deadline",
        Fault.TLS: f"give the certificates that {what} is checked with, or correct http or https "
        f"in {setting}",
        Fault.BROKEN: f"what listens on {place} does not speak HTTP, or speaks HTTPS: correct "
        f"{setting}",
        Fault.UNUSABLE: f"correct {setting}, or raise scrape.size_max_bytes",
    }
    return problem(check, f"{shown(url)}: {trouble.said}", fixes[fault])


def refused(check: str, url: str, answer: Answer, *, setting: str, token: str) -> Finding | None:
    """Say what is wrong with an answer that is not 200; None for one that is.

    `token` names the setting of the bearer token.
    """
    status, seen = answer.status, f"{shown(url)}: HTTP {answer.status}"
    if status == 200:
        return None
    if status == 401:
        return problem(check, f"{seen}: the token is missing or wrong", f"set {token} to its token")
    if status == 403:
        fix = f"let this token read it, or set {token} to one that may; a proxy may refuse, too"
        return problem(check, f"{seen}: forbidden", fix)
    if status == 404:
        return problem(check, f"{seen}: no such path", f"correct the path in {setting}")
    if 300 <= status < 400:
        where = shown(answer.location)[:200] or "nowhere"
        fix = f"give {setting} the address it leads to: this redirect is not followed"
        return problem(check, f"{seen} to {where}", fix)
    if status >= 500:
        return problem(check, seen, "see the log of the server: it fails at this address")
    return problem(check, seen, f"correct {setting}: this address does not take a plain GET")
