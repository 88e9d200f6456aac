from tests.support.request_fleets import fleet_of


def pytest_collection_finish() -> None:
    """Compile before the first test: the first time on a machine takes longer than a test may."""
    fleet_of(1, 1).advance(1.0)
