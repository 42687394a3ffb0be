# Everything: flows, training, Prefect's server and worker, MLflow, Dask, triggers. Build from the repository's root:
#   docker build -f infra/images/worker.Dockerfile -t atelier-worker .
FROM python:3.11-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ make cmake git && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/atelier
COPY . .
RUN infra/setup.sh && rm -rf "$HOME/.cache/uv"

FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* && useradd --create-home --home-dir /var/lib/atelier atelier
COPY --from=build /opt/atelier /opt/atelier
ENV PATH=/opt/atelier/.venv/bin:$PATH PYTHONUNBUFFERED=1
USER atelier
WORKDIR /var/lib/atelier
CMD ["prefect", "worker", "start", "--pool", "atelier", "--type", "process"]
