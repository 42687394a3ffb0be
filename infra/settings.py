"""Settings: ``ATELIER_*`` variables, then ``atelier.toml`` in the working folder, then the defaults here."""

from __future__ import annotations

import hashlib
import os
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError, TomlConfigSettingsSource

from infra.cluster_settings import KubernetesSettings, SlurmSettings, SshSettings
from infra.clusters import kind_of
from infra.errors import InvalidSettingError


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Settings(BaseSettings):
    """Where everything lives and how much of the machine it may use."""

    model_config = SettingsConfigDict(
        env_prefix="ATELIER_", toml_file="atelier.toml", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    workspace: str = Field(default=".atelier", min_length=1, description="Folder or s3://bucket/prefix where everything lives.")
    cache_dir: Path = Field(default=Path("~/.cache/atelier"), description="Local disk cache of remote files and decoded samples.")
    cache_gib: Annotated[float, Field(gt=0)] = Field(
        default=20.0, description="Size of the local disk cache, GiB; the least recently used goes first."
    )
    shared_cache: str = Field(
        default="", description="Folder or s3://bucket/prefix where machines share decoded samples; empty: each decodes its own."
    )
    cluster: str = Field(default="local", description="local, tcp://host:port, tls://host:port, ssh://host,host, kubernetes or slurm.")
    slots: Annotated[int, Field(ge=1, le=1024)] = Field(
        default_factory=_num_cores, description="Workers of a local, Kubernetes or Slurm cluster, one slot each; the most, with min_slots."
    )
    min_slots: Annotated[int, Field(ge=0, le=1024)] = Field(
        default=0, description="The cluster that we start grows and shrinks between this and slots; 0: it has all of them, always."
    )
    idle_s: Annotated[float, Field(ge=0)] = Field(
        default=60.0, description="How long a slot is idle before a growing cluster ends it, seconds."
    )
    tls: Path | None = Field(default=None, description="Folder with ca.pem, cert.pem and key.pem for all that Dask sends and receives.")
    ssh: SshSettings = Field(default_factory=SshSettings, description="Section [ssh]: how workers are started on hosts.")
    kubernetes: KubernetesSettings = Field(default_factory=KubernetesSettings, description="Section [kubernetes]: the pods.")
    slurm: SlurmSettings = Field(default_factory=SlurmSettings, description="Section [slurm]: the jobs.")
    registry: str = Field(default="", description="MLflow tracking URI; empty: SQLite in the state folder.")
    database: SecretStr = Field(
        default=SecretStr(""),
        description="PostgreSQL of `atelier up` (postgresql://USER:PASSWORD@HOST/NAME); empty: SQLite in the state folder.",
    )
    optuna_storage: str = Field(default="", description="Database of tuning studies (postgresql://...); empty: journals in the workspace.")
    backend: Literal["auto", "horovod", "torch"] = Field(default="auto", description="How ranks talk: auto, horovod or torch.")
    wait_s: Annotated[float, Field(gt=0)] = Field(
        default=300.0, description="How long a training may have fewer workers than it needs before it gives up, seconds."
    )
    start_s: Annotated[float, Field(gt=0)] = Field(
        default=300.0, description="How long a run waits for the Prefect server that it starts for itself, seconds."
    )
    hang_s: Annotated[float, Field(gt=0)] = Field(
        default=300.0, description="How long a rank may stand still while others wait for it before it is replaced, seconds."
    )
    login: SecretStr = Field(
        default=SecretStr(""), description="USER:PASSWORD that Prefect and MLflow ask for; required where they do not listen on loopback."
    )
    package_key: SecretStr = Field(
        default=SecretStr(""),
        description="AES-256 key (32 bytes, base64) that packages are sealed with, in the registry and in runs; empty: not sealed.",
    )
    deadline_s: Annotated[float, Field(gt=0)] = Field(
        default=86_400.0, description="Longest time one training, evaluation or export may take, seconds."
    )

    @field_validator("cluster")
    @classmethod
    def _known_cluster(cls, value: str) -> str:
        kind_of(value)
        return value

    @model_validator(mode="after")
    def _slots_in_order(self) -> Settings:
        if self.min_slots > self.slots:
            raise ValueError(f"min_slots ({self.min_slots}) is more than slots ({self.slots})")
        return self

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
    except SettingsError as error:  # a variable that has to be JSON; the cause says where, and holds what may be a secret
        name = next((one for one in Settings.model_fields if f'"{one}"' in str(error)), "a section")
        raise InvalidSettingError([f"{name}: no JSON ({error.__cause__}); or give one value, as ATELIER_SSH__SLOTS=4"]) from None
    except ValidationError as error:
        raise InvalidSettingError([_fault(one["loc"], one["msg"], one["input"]) for one in error.errors()]) from None


def _fault(loc: tuple[int | str, ...], message: str, value: object) -> str:
    """One fault in words. What came is told only for a setting that is known and no secret: under a mistyped name may stand a password."""
    if not loc:  # between fields: what came is all of the settings
        return message
    field = Settings.model_fields.get(str(loc[0]))
    told = "" if field is None or field.annotation is SecretStr else f" (got {value!r})"
    return f"{'.'.join(map(str, loc))}: {message}{told}"
