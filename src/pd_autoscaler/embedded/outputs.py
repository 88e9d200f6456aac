"""Files and folders a person names for a run's output: refused before anything has started."""

from pathlib import Path

from pd_autoscaler.errors import ConfigError, PermanentError


def check_file(option: str, path: Path) -> None:
    """Raise ConfigError, naming option, path and fix, unless the file can be written."""
    is_new = not path.exists()
    try:
        path.open("a").close()
        if is_new:
            path.unlink()
    except OSError as error:
        raise ConfigError(
            f"{option} {path}: cannot be written ({error.strerror}); "
            "give a file in a folder that exists and is writable"
        ) from error


def folder(option: str, path: Path) -> Path:
    """Return the folder, made if need be; raises ConfigError unless files can be made in it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        check_file(option, path / ".written")
    except (OSError, ConfigError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        reason = getattr(cause, "strerror", None) or cause
        raise ConfigError(
            f"{option} {path}: cannot be used ({reason}); give a folder that is writable"
        ) from error
    return path.absolute()


def written(option: str, path: Path, text: str) -> None:
    """Write the file; raises PermanentError for what came in between since it was checked."""
    try:
        path.write_text(text)
    except OSError as error:
        raise PermanentError(f"{option} {path}: cannot be written ({error.strerror})") from error
