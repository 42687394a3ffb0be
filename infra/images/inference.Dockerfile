# The inference server alone: onnxruntime for the CPU, no torch, no training. Build from the repository's root:
#   docker build -f infra/images/inference.Dockerfile -t atelier-inference .
FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* && useradd --create-home --home-dir /var/lib/atelier atelier
COPY . /tmp/atelier
RUN cd /tmp/atelier && sh infra/images/install_inference.sh pip --no-cache-dir && rm -rf /tmp/atelier
ENV PYTHONUNBUFFERED=1
USER atelier
WORKDIR /var/lib/atelier
EXPOSE 8080
ENTRYPOINT ["atelier", "serve", "--host", "0.0.0.0"]
