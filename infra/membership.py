"""How the group of a training's ranks changes while it runs: the contract between the training loop and ``infra.elastic``."""

from __future__ import annotations

from typing import Any, NoReturn, Protocol


class MembershipChanged(Exception):
    """Raised by a training at a commit, on every rank at the same one; what follows is ``Membership.reset``."""


class Memory(Protocol):
    """Where a rank keeps its last commit, so that its own death does not lose it; see ``infra.elastic.memory``."""

    @property
    def number(self) -> int:
        """Commits so far, those of the processes before this one included."""

    def latest(self) -> tuple[dict[str, Any], memoryview] | None: ...

    def begin(self, description: dict[str, Any], length: int) -> tuple[memoryview, int]: ...

    def end(self) -> None: ...


class Membership(Protocol):
    """How a rank of an elastic job gets from one group into the next.

    Before the first ``reset`` a rank is alone. An operation that raises ``CollectiveError`` means that the group is broken: go back to the last
    commit and ``reset``. When ``change_wanted`` is true on any rank, all ranks, agreed at a commit, ``reset`` and nothing is lost.
    """

    memory: Memory

    @property
    def largest_size(self) -> int:
        """How many ranks there may ever be."""

    @property
    def generation(self) -> int:
        """Number of the group, from 1; 0 before the first."""

    @property
    def last(self) -> bool:
        """Whether this group is there only to write a checkpoint and end."""

    @property
    def change_wanted(self) -> bool: ...

    def committed(self, position: tuple[int, int]) -> None:
        """Tell how far the last commit is (epoch, samples of it): what is lost by a failure now."""

    def reset(self, offer: tuple[int, int] | None) -> int | None:
        """Leave the group and return in the next one; rank and size are new. A rank that is wanted no more never returns.

        Args:
            offer: epoch and samples of this rank's last commit; None: it has none.

        Returns:
            The rank whose commit all shall take; None: nobody has any.
        """

    def leave(self) -> NoReturn:
        """End this process, which has done what was left to be done."""
