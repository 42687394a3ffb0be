"""The inference server: registered packages over HTTP (Open Inference Protocol v2), on onnxruntime alone; no torch, no MLflow is imported."""
