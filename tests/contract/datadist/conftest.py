"""The same suite for the simulated library, our binding over a stand-in of it, and the real one.

The real one takes part where it can be imported (source CANN's set_env.sh first). Settings of the
real one, all environment variables:

- PD_DATADIST_MODULE: the module to import (llm_datadist)
- PD_DATADIST_IPS: host IPv4 addresses to listen on, given to children in turn (127.0.0.1)
- PD_DATADIST_PORT_FIRST: the first port to listen on (any free one)
- PD_DATADIST_DEVICE_IDS: device ids, given to children in turn (0)
- PD_DATADIST_LOCAL_COMM_RES: the option local_comm_res (empty: generated from the device)
- PD_DATADIST_TIMEOUT_MS: the time-out of every call in milliseconds (2000)

The real one must be of CANN 9.1 or later: before, finalising beside a call in flight, as one test
does, is a use after free. Every library object has a child process of its own.
"""

import os
from collections.abc import Iterator

import pytest

from pd_autoscaler.datadist import native
from pd_autoscaler.errors import ConfigError
from tests.support.datadist_fleet import Fleet, LibrarySettings
from tests.support.datadist_process import ChildPool


@pytest.fixture(scope="session")
def children() -> Iterator[ChildPool]:
    pool = ChildPool()
    yield pool
    pool.close()


@pytest.fixture(params=["simulated", "binding", "native"])
def fleet(request: pytest.FixtureRequest, children: ChildPool) -> Iterator[Fleet]:
    settings = LibrarySettings.of(request.param, os.environ)
    if settings.implementation == "native":
        try:
            native.load(settings.module)
        except ConfigError as error:
            pytest.skip(f"native LLM-DataDist: {error}")
    fleet = Fleet(settings, children)
    yield fleet
    fleet.close()
