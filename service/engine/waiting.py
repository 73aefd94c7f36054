"""Who is next: two priorities, and within each the requests take turns."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import get_args

from service.engine.results import Priority
from service.engine.work import Work

BULK_TURN = 8
"""One admission in so many is for bulk work even while interactive work waits: it never stands still."""


class WaitingLine:
    """Accepted images in the order of their admission; its owner guards it against other threads."""

    def __init__(self) -> None:
        self._requests: dict[Priority, OrderedDict[Hashable, dict[int, Work]]]
        self._requests = {priority: OrderedDict() for priority in get_args(Priority)}
        self._admitted = 0

    def __len__(self) -> int:
        return sum(len(works) for requests in self._requests.values() for works in requests.values())

    def push(self, work: Work) -> None:
        self._requests[work.priority].setdefault(work.request_id, {})[work.number] = work

    def remove(self, work: Work) -> None:
        """Takes out an image whose caller is gone; one that is not here is no error."""
        requests = self._requests[work.priority]
        works = requests.get(work.request_id, {})
        works.pop(work.number, None)
        if not works:
            requests.pop(work.request_id, None)

    def pop(self, fits: Callable[[Work], bool]) -> Work | None:
        """The next image, or None when there is none or it does not fit: a small one does not overtake it."""
        requests = self._next_priority()
        if not requests:
            return None
        request_id = next(iter(requests))
        work = next(iter(requests[request_id].values()))
        if not fits(work):
            return None
        requests.move_to_end(request_id)
        self.remove(work)
        self._admitted += 1
        return work

    def _next_priority(self) -> OrderedDict[Hashable, dict[int, Work]]:
        interactive, bulk = self._requests["interactive"], self._requests["bulk"]
        is_bulk_turn = self._admitted % BULK_TURN == BULK_TURN - 1
        return bulk if bulk and (is_bulk_turn or not interactive) else interactive
