"""Settings: ``ATELIER_*`` variables, then ``atelier.toml`` in the working folder, then the defaults here."""

from __future__ import annotations

import hashlib
import os
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from infra.errors import InvalidSettingError


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Settings(BaseSettings):
    """Where everything lives and how much of the machine it may use."""

    model_config = SettingsConfigDict(env_prefix="ATELIER_", toml_file="atelier.toml", extra="forbid", frozen=True)

    workspace: str = Field(default=".atelier", min_length=1, description="Folder or s3://bucket/prefix where everything lives.")
    cache_dir: Path = Field(default=Path("~/.cache/atelier"), description="Local disk cache of remote files and decoded samples.")
    cache_gib: Annotated[float, Field(gt=0)] = Field(
        default=20.0, description="Size of the local disk cache, GiB; the least recently used goes first."
    )
    cluster: str = Field(default="local", description="'local', or the address of a Dask scheduler (tcp://host:port).")
    slots: Annotated[int, Field(ge=1, le=1024)] = Field(
        default_factory=_num_cores, description="Workers of the local cluster, one slot each."
    )
    registry: str = Field(default="", description="MLflow tracking URI; empty: SQLite in the state folder.")
    database: SecretStr = Field(
        default=SecretStr(""),
        description="PostgreSQL of `atelier up` (postgresql://USER:PASSWORD@HOST/NAME); empty: SQLite in the state folder.",
    )
    optuna_storage: str = Field(default="", description="Database of tuning studies (postgresql://...); empty: journals in the workspace.")
    backend: Literal["auto", "horovod", "torch"] = Field(default="auto", description="How ranks talk: auto, horovod or torch.")
    package_key: SecretStr = Field(
        default=SecretStr(""),
        description="AES-256 key (32 bytes, base64) that packages are sealed with in the registry; empty: not sealed.",
    )
    deadline_s: Annotated[float, Field(gt=0)] = Field(
        default=86_400.0, description="Longest time one training, evaluation or export may take, seconds."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @property
    def workspace_uri(self) -> str:
        """The workspace as a URI or an absolute path, the same from whichever folder a worker was started in."""
        return self.workspace if "://" in self.workspace else str(Path(self.workspace).expanduser().resolve())

    @property
    def state_dir(self) -> Path:
        """A local folder for what needs a real file system: SQLite databases, logs, scratch. The workspace itself, if that is a folder."""
        if "://" not in self.workspace_uri:
            return Path(self.workspace_uri)
        name = hashlib.sha256(self.workspace_uri.encode()).hexdigest()[:16]
        return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "atelier" / name

    @property
    def cache_path(self) -> Path:
        return self.cache_dir.expanduser().resolve()


@lru_cache(maxsize=1)
def load_settings() -> Settings:
    """Settings of this process, read once.

    Raises:
        InvalidSettingError: an unknown key, or a value out of range; all of them at once.
    """
    try:
        return Settings()
    except tomllib.TOMLDecodeError as error:
        raise InvalidSettingError([f"atelier.toml is no TOML: {error}"]) from None
    except ValidationError as error:
        raise InvalidSettingError([f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r})" for e in error.errors()]) from None
