"""What is done to the library object as a whole: it blocks, and runs in the object's one thread."""

import contextlib
import socket
from collections.abc import Callable, Mapping

from pd_autoscaler.datadist.api import DataDist, DataDistError, DataDistRole
from pd_autoscaler.errors import PdAutoscalerError
from pd_autoscaler.model.node import Role

Address = tuple[str, int]
"""Where a prompt listens: ip and port; port 0 stands for any free one."""

_LISTEN_OPTION = "llm.listenIpInfo"
_LABELS = {Role.PROMPT: DataDistRole.PROMPT, Role.DECODER: DataDistRole.DECODER}


class NotUndoneError(PdAutoscalerError):
    """The engine did not take the role, and the library could not be switched back: it is deaf."""


def initialised(
    datadist: DataDist,
    options: Mapping[str, object],
    *,
    listen: Address | None,
    register_memory: Callable[[], None],
) -> int | None:
    """Initialise the library, then register memory; return the port that it listens on.

    When registering fails the library is finalised again, so that nothing half-made can be linked.
    """
    if listen is None:
        datadist.init(options)
        port = None
    else:
        port = _listening(
            listen, lambda address: datadist.init({**options, "listen_ip_info": address})
        )
    try:
        register_memory()
    except BaseException:
        datadist.finalize()
        raise
    return port


def switched(
    datadist: DataDist,
    role: Role,
    *,
    listen: Address | None,
    back: tuple[Role, Address | None],
    take_role: Callable[[Role], None],
) -> int | None:
    """Switch the library, then the engine; return the port that the library listens on.

    With `listen` None its listener closes. When the engine cannot follow, the library
    goes `back` to the role and address that it had, and what the engine raised is raised; should
    that fail, too, NotUndoneError says both.
    """
    port = _labelled(datadist, role, listen)
    try:
        take_role(role)
    except BaseException as error:
        try:
            _labelled(datadist, *back)
        except Exception as left:
            raise NotUndoneError(f"{error!r}; and it cannot be undone: {left!r}") from error
        raise
    return port


def _labelled(datadist: DataDist, role: Role, listen: Address | None) -> int | None:
    label = _LABELS[role]
    if listen is None:
        datadist.switch_role(label)
        return None
    return _listening(
        listen, lambda address: datadist.switch_role(label, {_LISTEN_OPTION: address})
    )


def _listening(listen: Address, call: Callable[[str], None]) -> int:
    """Make a call that begins to listen on "ip:port", and return the port.

    Port 0 picks a free one, and another should the first be taken meanwhile.
    """
    ip, port = listen
    if not port:
        port = _free_port(ip)
        with contextlib.suppress(DataDistError):
            # Between picking a port and listening on it somebody else may take it.
            call(f"{ip}:{port}")
            return port
        port = _free_port(ip)
    call(f"{ip}:{port}")
    return port


def _free_port(ip: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((ip, 0))
        port: int = listener.getsockname()[1]
        return port
