"""Where the members of an elastic run without shards meet: again, each time that one of them is lost or another one joins.

The scheduler says who they are, with a generation (`Workers.SetMembers`). The first of them keeps the store that they meet by, under a
prefix of the generation, so that those of an older one meet nobody; what these still send goes to connections that nobody reads.
"""

import threading
from collections.abc import Callable

import torch

from headrace.errors import Cancelled, DeadlineExceeded, MembersChanged, StaleEpoch, Unavailable
from headrace.training.v1.workers_pb2 import SetMembersRequest, StartTaskRequest
from headrace.types.v1.task_pb2 import Task
from headrace_training.core.device import HOST, Device
from headrace_training.core.group import OWN_FAILURES, Group
from headrace_training.device_group import DeviceGroup, meet_on_devices
from headrace_training.gloo import Alone, Store, c10d
from headrace_training.interruption import Interruptible
from headrace_training.rendezvous import connect, find, open_store


class Meetings:
    """The groups that one rank is in, one after the other.

    Args:
        host: The address of this machine that the others reach.
        timeout_s: Longest wait for the others, and for word of who they are.
        tell: Reports a change of this task.
        device: What this rank computes on.
    """

    def __init__(
        self,
        request: StartTaskRequest,
        host: str,
        timeout_s: float,
        tell: Callable[[Task], None],
        device: Device = HOST,
    ) -> None:
        self._rank, self._epoch = request.rank, request.epoch
        self._host, self._timeout_s, self._tell, self._device = host, timeout_s, tell, device
        self._last: DeviceGroup | None = None  # that it met
        self._changed = threading.Condition()
        self._members = SetMembersRequest()  # the newest
        self._met = 0  # generation of the group that was met last, or tried to
        self._stopped = False
        self._waiting = Interruptible()  # what waits for other ranks: of one generation
        self._own: tuple[Store, str] | None = None  # this rank's store and its address, once it leads

    def hear(self, word: bytes) -> None:
        """Take note who the members are, from any thread; a wait for those of an older generation ends."""
        members = SetMembersRequest.FromString(word)
        with self._changed:
            if members.generation > self._members.generation:
                self._members = members
                self._waiting.stop(MembersChanged(f"the members of generation {members.generation} meet"))
                self._changed.notify_all()

    def stop(self) -> None:
        """Let go of every wait, from any thread: the task is to end."""
        with self._changed:
            self._stopped = True
            self._waiting.stop()
            self._changed.notify_all()

    def join(self) -> Group:
        """Wait until there is a generation that this rank has not met, and return the group of its members.

        Raises:
            MembersChanged: There is a newer one already, or one of them is gone: join again.
            StaleEpoch: The run goes on without this rank.
            DeadlineExceeded: Nobody says who the members are, or one of them does not come.
            Cancelled: This rank was asked to stop.
            HeadraceError: What the rank that leads has failed with.
        """
        members, waiting = self._next()
        if self._rank not in members.members:
            raise StaleEpoch(
                f"worker {self._rank} was left out: generation {members.generation} has {list(members.members)}; end it"
            )
        place, count = list(members.members).index(self._rank), len(members.members)
        if self._last:
            self._last.abort()  # else the GPU would wait for whoever is gone, and do nothing else
            self._last = None
        try:
            group = Alone() if count == 1 else self._meet(members, place, waiting)
        except OWN_FAILURES as error:
            raise MembersChanged(
                f"a member of generation {members.generation} is gone: {error.message}"
            ) from error
        return PassingGroup(group, waiting)

    def _next(self) -> tuple[SetMembersRequest, Interruptible]:
        with self._changed:
            came = self._changed.wait_for(
                lambda: self._stopped or self._members.generation > self._met, self._timeout_s
            )
            if self._stopped:
                raise Cancelled("the rank was asked to stop")
            if not came:
                raise DeadlineExceeded(
                    f"nobody said within {self._timeout_s:g} s who goes on after generation {self._met}; look at the scheduler, or allow "
                    "for it with HEADRACE_TRAINING_STEP_TIMEOUT_S"
                )
            self._met = self._members.generation
            # A thread of its own for each: one that waits for a rank that is gone cannot be ended.
            self._waiting = Interruptible()
            return self._members, self._waiting

    def _meet(self, members: SetMembersRequest, place: int, waiting: Interruptible) -> DeviceGroup:
        lead, timeout_s = members.lead, self._timeout_s
        own = self._own_address() if place == 0 else ""
        # A connection for each generation, also to one's own store: one by which somebody waits, as for a rank that is gone, does nothing else.
        store = waiting.run(
            lambda: connect(own or find(lead, self._epoch, timeout_s, waiting), timeout_s),
            timeout_s,
            "search for the rank that leads",
        )
        shared = c10d.PrefixStore(f"{lead.task}/{self._epoch}/{members.generation}", store)
        self._last = meet_on_devices(
            shared, place, len(members.members), self._host, self._device, timeout_s, waiting
        )
        return self._last

    def _own_address(self) -> str:
        """Return where this rank's store is, the same in all generations that it leads."""
        if self._own is None:
            self._own = open_store(self._host, self._timeout_s)
            self._tell(Task(rendezvous=self._own[1]))
        return self._own[1]


class PassingGroup:
    """The members of one generation: a sum that cannot be, because there is a newer one or a member is gone, is no failure of this rank."""

    def __init__(self, group: Group, waiting: Interruptible) -> None:
        self._group, self._waiting = group, waiting
        self.rank, self.size = group.rank, group.size

    def sum(self, vector: torch.Tensor, timeout_s: float | None = None) -> None:
        """Replace `vector` by the sum of all members' vectors."""
        self._waiting.raise_if_stopped()
        try:
            self._group.sum(vector, timeout_s)
        except Unavailable as error:
            raise MembersChanged(f"a member is gone: {error.message}") from error

    def tell(self, note: str) -> None:
        """Leave a note for the other ranks, unless there is one."""
        self._group.tell(note)

    def note(self) -> str:
        """Return the note."""
        return self._group.note()
