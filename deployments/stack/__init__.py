"""The local stack of ``atelier up``: what its parts are, how each tells that it is well, and who keeps them running."""
