"""The versions that a server has loaded. It follows the registry: a version that an alias moves to is loaded and warmed up, then takes over in
one step; the one before finishes what it has begun and goes."""

from __future__ import annotations

import asyncio
import difflib
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from deployments.serving.model import ServedModel
from deployments.serving.routes import read_route
from deployments.serving.routing import Route, choose_version
from deployments.serving.tensors import refuse
from infra._registry_version import parse_ref
from infra.errors import AtelierError, ModelNotFoundError
from infra.registry import CHAMPION, ModelVersion, Registry
from infra.settings import Settings
from infra.store import Store

logger = logging.getLogger("atelier.serving")
Load = Callable[[ModelVersion], ServedModel]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What should be loaded of one model.

    Attributes:
        live: answers requests that name no version.
        others: can be asked by number, besides.
        route: canary and shadow.
    """

    live: ModelVersion
    others: tuple[ModelVersion, ...]
    route: Route


def wanted_versions(name: str, refs: Sequence[str | int | None], versions: Sequence[ModelVersion], route: Route) -> Wanted:
    """Which versions to load of one model.

    Args:
        refs: what was asked for: an alias, a number, or None for the champion or else the latest; the first is live.
        versions: those that the registry has.
        route: its canary and shadow are loaded, too, if they exist.

    Raises:
        ModelNotFoundError: the first of ``refs`` does not exist; one of the others is left out.
    """

    def find(ref: str | int | None) -> ModelVersion | None:
        if ref is None:
            champion = next((version for version in versions if CHAMPION in version.aliases), None)
            return champion or (versions[-1] if versions else None)
        return next((version for version in versions if ref == version.version or ref in version.aliases), None)

    live = find(refs[0])
    if live is None:
        known = [version.ref for version in versions] + [f"{name}@{alias}" for version in versions for alias in version.aliases]
        ref = refs[0]
        raise ModelNotFoundError(name if ref is None else f"{name}/{ref}" if isinstance(ref, int) else f"{name}@{ref}", known)
    more = {found.version: found for ref in (*refs[1:], route.canary, route.shadow) if ref is not None and (found := find(ref)) is not None}
    return Wanted(live, tuple(version for number, version in more.items() if number != live.version), route)


@dataclass(slots=True)
class Served:
    """The present state of one model; replaced as a whole."""

    live: ServedModel
    versions: Mapping[int, ServedModel]
    route: Route


@dataclass(slots=True)
class Fleet:
    """All models of a server. Only its event loop touches it; loading happens on a thread.

    Args:
        refs: what was asked for on the command line: NAME, NAME@ALIAS, NAME/VERSION.
        load: opens a version; slow, called on a thread.
        poll_s: how often the registry is looked at.
    """

    registry: Registry
    settings: Settings
    store: Store
    refs: Sequence[str]
    load: Load
    poll_s: float
    served: dict[str, Served] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    _seen: dict[str, object] = field(default_factory=dict)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _asked: dict[str, list[str | int | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for ref in self.refs:
            name, wanted = parse_ref(ref)
            self._asked.setdefault(name, []).append(wanted)

    @property
    def names(self) -> list[str]:
        return list(self._asked)

    def pick(self, name: str, number: str | None, key: str | None) -> ServedModel:
        """The version that answers a request.

        Args:
            number: of the version that the client named, as text; None: the route decides.
            key: of the client; None: as the dice fall.

        Raises:
            RequestRefusedError: 404, with what there is.
        """
        served = self.served.get(name)
        if served is None:
            near = difflib.get_close_matches(name, self.served, n=3, cutoff=0.4) or sorted(self.served)[:5]
            raise refuse(f"there is no model {name[:100]!r} here; nearest: {', '.join(near)}", 404)
        if number is not None:
            found = served.versions.get(int(number)) if number.isascii() and number.isdigit() and len(number) < 10 else None
            if found is None:
                loaded = ", ".join(map(str, sorted(served.versions)))
                raise refuse(f"version {number[:20]!r} of {name!r} is not loaded here; loaded: {loaded}", 404)
            return found
        route = served.route
        if route.canary is None or route.weight <= 0:
            return served.live
        chosen = choose_version(name, served.live.number, route, key if key is not None else repr(random.random()))
        return served.versions.get(chosen, served.live)

    def shadow_of(self, name: str, answering: ServedModel) -> ServedModel | None:
        """The version that gets a copy of a request, if another one than answers it."""
        served = self.served.get(name)
        if served is None or served.route.shadow is None:
            return None
        shadow = served.versions.get(served.route.shadow)
        return None if shadow is answering else shadow

    def start(self) -> None:
        """Load everything; call it before the server listens.

        Raises:
            AtelierError: a model does not exist, or its package is damaged.
        """
        for name in self._asked:
            wanted = self._look(name)
            assert wanted is not None, "nothing was seen before"
            self._switch(name, wanted, {version.version: self.load(version) for version in (wanted.live, *wanted.others)})

    async def follow(self) -> None:
        """Look at the registry for ever; what goes wrong is logged and tried again, while the old versions answer."""
        while True:
            await asyncio.sleep(self.poll_s)
            await self.refresh()

    async def refresh(self) -> None:
        """Look at the registry once, and load what it wants now."""
        async with self._turn:
            await self._refresh()

    async def _refresh(self) -> None:
        for name in self._asked:
            try:
                wanted = await asyncio.to_thread(self._look, name)
                if wanted is None:
                    continue
                present = self.served[name].versions
                versions = {}
                for version in (wanted.live, *wanted.others):
                    kept = present.get(version.version)
                    if kept is None or kept.version.package.digest != version.package.digest:
                        kept = await asyncio.to_thread(self.load, version)
                    versions[version.version] = kept
                self._switch(name, wanted, versions)
                self.failures.pop(name, None)
            except (AtelierError, OSError) as error:
                self._failed(name, error)

    def _failed(self, name: str, error: Exception) -> None:
        self._seen.pop(name, None)  # so that it is tried again
        if self.failures.get(name) != str(error):
            logger.error("%s: the present versions stay, because: %s", name, error)
        self.failures[name] = str(error)
        self.served[name].live.metrics.load_failed()

    def _look(self, name: str) -> Wanted | None:
        """What should be loaded; None if nothing has changed since the last look. Called on a thread."""
        # With the embedded database the log's keys tell of every change, and listing them is all that a look costs.
        keys = tuple(self.store.list(f"registry/log/{name}/")) if not self.settings.registry else None
        route = read_route(self.store, name)
        seen = (keys, route)
        if keys is not None and self._seen.get(name) == seen:
            return None
        versions = self.registry.versions(name)
        if not versions:
            raise ModelNotFoundError(name, sorted({version.name for version in self.registry.versions()}))
        wanted = wanted_versions(name, self._asked[name], versions, route)
        self._seen[name] = seen
        return wanted

    def _switch(self, name: str, wanted: Wanted, versions: Mapping[int, ServedModel]) -> None:
        before = self.served.get(name)
        self.served[name] = Served(versions[wanted.live.version], versions, wanted.route)
        for served in versions.values():
            served.metrics.loaded.set(1)
        if before is None:
            return
        # Requests that have picked an old version hold it; with the last of them it goes.
        for number in before.versions.keys() - versions.keys():
            before.versions[number].metrics.loaded.set(0)
        if before.live.number != wanted.live.version:
            logger.info("%s: version %d took over from %d", name, wanted.live.version, before.live.number)
        if before.route != wanted.route:
            logger.info("%s: canary %s at %g %%, shadow %s", name, wanted.route.canary, wanted.route.weight, wanted.route.shadow)
