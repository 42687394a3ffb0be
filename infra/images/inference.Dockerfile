# The inference server alone: onnxruntime for the CPU, no torch, no training. Build from the repository's root:
#   docker build -f infra/images/inference.Dockerfile -t atelier-inference .
FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* && useradd --create-home --home-dir /var/lib/atelier atelier
WORKDIR /opt/atelier
COPY infra/images/inference.txt requirements.lock ./
# The versions are those of the lock; onnxruntime without CUDA takes the place of the GPU build.
RUN python -c "import re; lock = dict(re.findall(r'^([a-z0-9_.-]+)==([^ ;\\\\]+)', open('requirements.lock').read(), re.M)); \
names = open('inference.txt').read().split(); \
print('\n'.join(f'{n}=={lock[\"onnxruntime-gpu\" if n == \"onnxruntime\" else n]}' for n in names))" > pinned.txt \
    && pip install --no-cache-dir -r pinned.txt
COPY infra infra
COPY algorithms algorithms
COPY deployments deployments
ENV PYTHONPATH=/opt/atelier PYTHONUNBUFFERED=1
USER atelier
WORKDIR /var/lib/atelier
EXPOSE 8080
ENTRYPOINT ["python", "-m", "deployments.cli", "serve", "--host", "0.0.0.0"]
