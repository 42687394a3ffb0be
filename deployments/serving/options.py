"""What a server is told when it is started: one value, handed to each worker process as JSON."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class ServeOptions(BaseModel):
    """Options of ``atelier serve``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: list[str] = Field(min_length=1, description="NAME, NAME@ALIAS or NAME/VERSION; of several of one name the first is live.")
    host: str = Field(default="127.0.0.1", description="Address to listen on; other than loopback only with API keys.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(default=8080, description="TCP port; 0: a free one.")
    workers: Annotated[int, Field(ge=1, le=256)] = Field(default=1, description="Processes that share the port.")
    threads: Annotated[int, Field(ge=1)] | None = Field(default=None, description="Cores for one run of a large model; cores / workers.")
    max_batch: Annotated[int, Field(ge=1, le=4096)] = Field(default=16, description="Rows that share one run of a model.")
    max_delay_ms: Annotated[float, Field(ge=0, le=1000)] = Field(default=2.0, description="Longest wait for others, while there are some.")
    max_body_mib: Annotated[float, Field(gt=0, le=4096)] = Field(default=32.0, description="Largest body of a request.")
    max_rows: Annotated[int, Field(ge=1)] = Field(default=1024, description="Rows in one request.")
    max_megapixels: Annotated[float, Field(gt=0)] = Field(default=50.0, description="Size of a picture.")
    max_waiting: Annotated[int, Field(ge=1)] = Field(default=4096, description="Rows that may wait for a model; then 503.")
    poll_s: Annotated[float, Field(gt=0)] = Field(default=1.0, description="How often the registry is looked at, seconds.")
    drain_s: Annotated[float, Field(ge=0)] = Field(default=1.0, description="How long a stopping server still takes requests, seconds.")
    capture: Annotated[float, Field(ge=0, le=1)] = Field(default=0.0, description="Share of the requests that is kept as Parquet.")
    capture_s: Annotated[float, Field(gt=0)] = Field(default=10.0, description="How often captured requests are written, seconds.")
    capture_pictures: bool = Field(default=True, description="Keep pictures themselves, not only their statistics.")
