"""Elastic jobs: ranks that come and go while a training runs; see docs/distributed.md.

``policy`` decides (pure), ``driver`` acts in the driving process, ``discovery`` asks the cluster what there is, ``server`` is what ranks talk to,
``member`` and ``relay`` are a rank's side, ``memory`` keeps its last commit where its death does not reach.
"""
