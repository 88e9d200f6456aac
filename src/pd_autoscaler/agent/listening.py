"""Where the library object listens: as a prompt alone, in either role, or nowhere ever."""

from collections.abc import Mapping
from enum import Enum, auto

from pd_autoscaler.agent.object_calls import Address
from pd_autoscaler.datadist.api import DataDist
from pd_autoscaler.datadist.options import is_hixl
from pd_autoscaler.datadist.self_connecting import never_listens
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.node import Role


class Listens(Enum):
    """When an object listens."""

    AS_PROMPT = auto()
    """Its decoders link it; as a decoder it links others."""
    ALWAYS = auto()
    """From its initialisation on, in either role, on one address that cannot change (hixl)."""
    NEVER = auto()
    """Its engine connects by itself."""


def listens_of(datadist: DataDist, options: Mapping[str, object]) -> Listens:
    """Say when an object listens that is, or will be, initialised with these options."""
    if never_listens(datadist):
        return Listens.NEVER
    return Listens.ALWAYS if is_hixl(options) else Listens.AS_PROMPT


class Listening:
    """The address that was configured, and the port that is listened on now (None: none).

    An object that is initialised listens already, where its role (None: either) has it do so.
    Raises ConfigError for an address that is none, or a missing one that either role would need.
    """

    def __init__(
        self, when: Listens, listen: str | None, *, is_initialised: bool, role: Role | None
    ) -> None:
        self.port: int | None = None
        self._when = when
        self._configured = None if listen is None else parsed_listen(listen)
        self._kept: Address | None = None
        if when is Listens.NEVER:
            self._configured = None
        elif when is Listens.ALWAYS and not is_initialised and self._configured is None:
            raise ConfigError(
                'listen must be given: with transfer_backend "hixl" a decoder listens, too'
            )
        if is_initialised:
            self._adopt(role)

    def _adopt(self, role: Role | None) -> None:
        address, is_always = self._configured, self._when is Listens.ALWAYS
        if address is None:
            return
        if is_always and not address[1]:
            # Any free port: which one the engine chose is not known, so it cannot be kept.
            self._configured = None
        elif is_always or role is not Role.DECODER:
            self.opened(address[1] or None)

    @property
    def suits_either_role(self) -> bool:
        """Whether there is an address for either role, where one is needed."""
        return self._when is Listens.NEVER or self._configured is not None

    def is_deaf_as(self, role: Role) -> bool:
        """Whether decoders would have nowhere to link to."""
        return self._when is not Listens.NEVER and role is Role.PROMPT and self.port is None

    def lacks_address_as(self, role: Role) -> bool:
        """Whether there is no address that this role would need."""
        return role is Role.PROMPT and not self.suits_either_role

    def address_as(self, role: Role) -> Address | None:
        """Return where to listen in a role; None is nowhere."""
        if self._when is Listens.ALWAYS:
            return self._kept or self._configured
        return self._configured if role is Role.PROMPT else None

    @property
    def address(self) -> Address | None:
        """Return where it listens now."""
        if self.port is None or self._configured is None:
            return None
        return self._configured[0], self.port

    def opened(self, port: int | None) -> None:
        """Note the port that is listened on from now on."""
        self.port = port
        if self._when is Listens.ALWAYS:
            self._kept = self.address

    def lost(self) -> None:
        """Note that nothing is listened on, though something should be."""
        self.port = None

    def closed(self) -> None:
        """Note that the object is no more: a new one may listen elsewhere."""
        self.port = self._kept = None


def parsed_listen(listen: str) -> Address:
    """Split "ip:port" or raise ConfigError; the library takes IPv4 addresses only."""
    ip, _, port = listen.rpartition(":")
    if not ip or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f'listen is {listen!r}; it must be "ip:port", such as "10.0.0.7:26000"')
    return ip, int(port)
