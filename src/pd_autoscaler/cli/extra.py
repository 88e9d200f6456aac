"""The extra `simulation`: what simulate, tune and profile need and a daemon does not."""

from importlib.util import find_spec

from pd_autoscaler.errors import ConfigError

PARTS = ("numpy", "numba", "optuna", "plotly")
FIX = "pip install 'pd-autoscaler[simulation]'"


def require_simulation() -> None:
    """Raise ConfigError with the fix unless the extra is installed; nothing of it is imported."""
    missing = [part for part in PARTS if find_spec(part) is None]
    if missing:
        raise ConfigError(f"this needs {', '.join(missing)}: {FIX}")
